//! The image that is made of archives.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use diolkos_formats::files::{Stretch, blob_of_bytes, failed, spool};
use diolkos_formats::inflate::{Form, MAGIC};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Algorithm, Blob, Descriptor, Digest, Error, ErrorKind, Host, Platform, RawManifest, Result,
    ResultExt, Session, Source,
};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::reference::STDIN;

/// What the history says of each layer.
const COMMENT: &str = "imported from tarball";
/// How much is read at a time.
const BUFFER: usize = 256 << 10;

/// An image that is read.
pub(crate) struct TarballSource {
    manifest: Vec<u8>,
    config: (Digest, Vec<u8>),
    /// The archives, and their sizes.
    files: HashMap<Digest, (Arc<File>, u64)>,
}

/// What is known of an archive once it was read.
struct Facts {
    digest: Digest,
    size: u64,
    /// Digest of the uncompressed bytes.
    diff_id: Digest,
    media_type: &'static str,
    changed: Timestamp,
}

// In the order in which other tools write them, so that digests are the same.
#[derive(Serialize)]
struct ImageJson<'a> {
    created: String,
    architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    os: &'a str,
    config: Empty,
    rootfs: RootFs<'a>,
    history: Vec<History>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'a str,
    diff_ids: Vec<&'a Digest>,
}

#[derive(Serialize)]
struct History {
    created: String,
    created_by: String,
    comment: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    config: Named<'a>,
    layers: Vec<Named<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Named<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
}

impl TarballSource {
    /// Reads the archives, the base first.
    pub fn open(paths: &[String], session: &Session) -> Result<Self> {
        let mut files = HashMap::new();
        let mut layers = Vec::new();
        for path in paths {
            let (file, changed) = open(path, session)?;
            let facts = look(path, &file, changed, &session.host)?;
            files.insert(facts.digest.clone(), (Arc::new(file), facts.size));
            layers.push(facts);
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let choice = &session.platform;
        let architecture = given(&choice.architecture);
        let os = given(&choice.os);
        let created = layers.iter().map(|layer| layer.changed).max().unwrap_or_default();
        let config = ImageJson {
            created: created.to_string(),
            architecture: architecture.as_deref().unwrap_or_else(|| Platform::host_architecture()),
            variant: choice.variant.as_deref().unwrap_or_default(),
            os: os.as_deref().unwrap_or_else(|| Platform::host_os()),
            config: Empty {},
            rootfs: RootFs {
                r#type: "layers",
                diff_ids: layers.iter().map(|layer| &layer.diff_id).collect(),
            },
            history: layers
                .iter()
                .map(|layer| History {
                    created: layer.changed.to_string(),
                    created_by: format!("/bin/sh -c #(nop) ADD file:{} in /", layer.diff_id.hex()),
                    comment: COMMENT,
                })
                .collect(),
        };
        let config = to_json(&config)?;
        let config_digest = digest_of(Sha256::digest(&config).as_slice());
        let manifest = Manifest {
            schema_version: 2,
            config: Named {
                media_type: media_type::OCI_CONFIG,
                digest: &config_digest,
                size: config.len() as u64,
            },
            layers: layers
                .iter()
                .map(|layer| Named {
                    media_type: layer.media_type,
                    digest: &layer.digest,
                    size: layer.size,
                })
                .collect(),
        };
        Ok(Self { manifest: to_json(&manifest)?, config: (config_digest, config), files })
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write JSON").with_source(error))
}

fn digest_of(hash: &[u8]) -> Digest {
    Digest::from_hash(Algorithm::Sha256, hash).expect("the hash has the algorithm's length")
}

/// Opens an archive that can be read twice, and tells when it was changed.
fn open(path: &str, session: &Session) -> Result<(File, Timestamp)> {
    let here = Path::new(path);
    let timestamp = |time: SystemTime| {
        Timestamp::try_from(time)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{path}: {error}")))
    };
    if path == STDIN {
        return Ok((spool(io::stdin(), here, session)?, timestamp(SystemTime::now())?));
    }
    let file = File::open(here)
        .map_err(|error| failed("open", here, error).context(format!("error opening {path:?}")))?;
    let found = file.metadata().map_err(|error| failed("stat", here, error))?;
    if found.is_dir() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{path} is a directory"))
            .with_hint("give an archive of it, as `tar -c -C DIRECTORY .` makes it"));
    }
    let changed = timestamp(found.modified().map_err(|error| failed("stat", here, error))?)?;
    if found.is_file() { Ok((file, changed)) } else { Ok((spool(file, here, session)?, changed)) }
}

/// Reads an archive whole.
fn look(path: &str, file: &File, changed: Timestamp, host: &Host) -> Result<Facts> {
    let reading = |error| failed("read", path.as_ref(), error);
    let mut start = Vec::new();
    let mut file = file;
    file.rewind().map_err(reading)?;
    file.take(MAGIC as u64).read_to_end(&mut start).map_err(reading)?;
    file.rewind().map_err(reading)?;
    let mut raw = Hashed { from: file, hash: Sha256::new(), size: 0 };
    let form = Form::of(&start);
    let diff_id = match form {
        None => None,
        Some(form) => {
            let mut inflated = form.inflate(&mut raw).map_err(reading)?;
            let mut hash = Sha256::new();
            drain(&mut inflated, host, |bytes| hash.update(bytes))
                .map_err(|error| error.context(format!("{path}: it cannot be decompressed")))?;
            Some(digest_of(hash.finalize().as_slice()))
        }
    };
    // What follows the compressed bytes is part of the file.
    drain(&mut raw, host, |_| {}).context(|| format!("cannot read {path}"))?;
    let digest = digest_of(raw.hash.finalize().as_slice());
    let media_type = match form {
        None => media_type::OCI_LAYER,
        Some(Form::Zstd) => media_type::OCI_LAYER_ZSTD,
        // There are no types for the others: what is copied is looked at.
        Some(_) => media_type::OCI_LAYER_GZIP,
    };
    let diff_id = diff_id.unwrap_or_else(|| digest.clone());
    Ok(Facts { digest, size: raw.size, diff_id, media_type, changed })
}

fn drain(from: &mut impl Read, host: &Host, mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        host.check_cancelled()?;
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Error::new(ErrorKind::Corrupt, "damaged bytes").with_source(error));
            }
        }
    }
}

/// Hashes what is read.
struct Hashed<'a> {
    from: &'a File,
    hash: Sha256,
    size: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

impl Source for TarballSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        if let Some(instance) = instance {
            let message = format!(
                "manifest lists are not supported by the \"tarball\" transport: {instance}"
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(RawManifest::new(self.manifest.clone(), media_type::OCI_MANIFEST))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let (config, bytes) = &self.config;
        if *config == blob.digest {
            return Ok(blob_of_bytes(bytes, from));
        }
        let (file, size) = self.files.get(&blob.digest).ok_or_else(|| {
            let message = format!("no blob with digest {:?} found", blob.digest.as_str());
            Error::new(ErrorKind::NotFound, message)
        })?;
        let from = from.min(*size);
        let reader = Box::new(Stretch::new(Arc::clone(file), from, size - from));
        Ok(Blob { size: Some(*size), reader })
    }
}
