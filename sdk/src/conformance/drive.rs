//! The least a host does with a transport: writing an image, and reading one.
//!
//! Order and guarantees are those of [`crate::transport`]; there is no policy, no conversion and
//! no retry. Tests of the engine use it to prepare and to look at storages.

use serde::Deserialize;

use super::image::{Content, Image, Index};
use crate::{
    Committed, Descriptor, Destination, Digest, Error, ErrorKind, Host, ImageRef, Options,
    PlatformChoice, RawManifest, Result, Session, Signature, Source,
};

/// Bytes handed over at a time.
pub const CHUNK: usize = 256 * 1024;

/// Makes a session without options, on the platform of this machine.
pub fn session(host: Host) -> Session {
    Session {
        options: Options::default(),
        platform: PlatformChoice::default(),
        temp_dir: std::env::temp_dir(),
        host,
    }
}

/// Writes an image with its signatures and commits it.
///
/// # Errors
/// What the transport says; nothing is committed then.
pub fn push(
    reference: &dyn ImageRef,
    session: &Session,
    image: &Image,
    signatures: &[Signature],
) -> Result<Committed> {
    let destination = reference.create(session)?;
    stage(&*destination, image, None)?;
    destination.put_signatures(signatures, None)?;
    destination.commit(&image.top())
}

/// Writes an index with its instances and commits it.
///
/// # Errors
/// What the transport says; nothing is committed then.
pub fn push_index(reference: &dyn ImageRef, session: &Session, index: &Index) -> Result<Committed> {
    let destination = reference.create(session)?;
    for image in &index.instances {
        stage(&*destination, image, Some(&image.digest()))?;
    }
    destination.put_manifest(&index.manifest, None)?;
    destination.put_signatures(&[], None)?;
    destination.commit(&index.top())
}

/// Writes an image's blobs, then its manifest; commits nothing.
///
/// # Errors
/// What the transport says.
pub fn stage(
    destination: &dyn Destination,
    image: &Image,
    instance: Option<&Digest>,
) -> Result<()> {
    for content in image.contents() {
        put(destination, content)?;
    }
    destination.put_manifest(&image.manifest, instance)
}

/// Writes one blob.
///
/// # Errors
/// What the transport says.
pub fn put(destination: &dyn Destination, content: &Content) -> Result<()> {
    let bytes = content.written(destination);
    let Some(mut writer) = destination.put_blob(&content.incoming())? else { return Ok(()) };
    for chunk in bytes.chunks(CHUNK) {
        writer.write(chunk)?;
    }
    writer.finish(&content.sums())
}

/// An image as it was read.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The manifest or index.
    pub manifest: RawManifest,
    /// Config and layers with their bytes; empty for an index.
    pub blobs: Vec<(Descriptor, Vec<u8>)>,
    /// The signatures.
    pub signatures: Vec<Signature>,
}

/// Reads an image, or one instance of it: manifest, config, layers and signatures.
///
/// Blobs are read as the host reads them: from the descriptors of the manifest, or those the
/// source gives in their place. Digests are left for the caller to look at.
///
/// # Errors
/// What the transport says; [`ErrorKind::Corrupt`] when the manifest cannot be parsed.
pub fn pull(
    reference: &dyn ImageRef,
    session: &Session,
    instance: Option<&Digest>,
) -> Result<Pulled> {
    let source = reference.open(session)?;
    let manifest = source.manifest(instance)?;
    let blobs = blobs_of(&*source, &manifest, instance)?
        .into_iter()
        .map(|blob| read_blob(&*source, &blob).map(|bytes| (blob, bytes)))
        .collect::<Result<_>>()?;
    let signatures = source.signatures(instance)?;
    Ok(Pulled { manifest, blobs, signatures })
}

/// Lists what to read of an image, config first; nothing for an index.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when the manifest cannot be parsed, or what the transport says.
pub fn blobs_of(
    source: &dyn Source,
    manifest: &RawManifest,
    instance: Option<&Digest>,
) -> Result<Vec<Descriptor>> {
    #[derive(Deserialize)]
    struct Parsed {
        config: Option<Descriptor>,
        #[serde(default)]
        layers: Vec<Descriptor>,
    }
    let parsed: Parsed = serde_json::from_slice(&manifest.bytes).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "the manifest is not what the kit knows").with_source(error)
    })?;
    let Some(config) = parsed.config else { return Ok(Vec::new()) };
    let layers = source.layers(instance)?.unwrap_or(parsed.layers);
    Ok([config].into_iter().chain(layers).collect())
}

/// Reads a blob from its beginning to its end.
///
/// # Errors
/// What the transport says.
pub fn read_blob(source: &dyn Source, blob: &Descriptor) -> Result<Vec<u8>> {
    read_from(source, blob, 0, CHUNK)
}

/// Reads a blob from an offset, with a buffer of the given size.
///
/// # Errors
/// What the transport says; [`ErrorKind::Corrupt`] when the reader claims more bytes than fit.
pub fn read_from(
    source: &dyn Source,
    blob: &Descriptor,
    from: u64,
    buffer_size: usize,
) -> Result<Vec<u8>> {
    let mut open = source.blob(blob, from)?;
    let mut buffer = vec![0; buffer_size];
    let mut bytes = Vec::new();
    loop {
        match open.reader.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(buffer.get(..count).ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("the reader says {count} bytes in a buffer of {buffer_size}"),
                )
            })?),
        }
    }
}
