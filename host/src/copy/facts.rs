//! What is known of an image before anything moves: its manifest, layers, signatures, and what may
//! be done with them.

use diolkos_sdk::{
    Blob, Descriptor, Digest, Error, ErrorKind, Names, RawManifest, Reference, Result, ResultExt,
    Signature, Source,
};

use super::embedded;
use super::plan::{LayerRules, format_type, manifest_types};
use super::progress::{Event, SignatureStep};
use super::retry::{BROKEN_READS, Retry};
use super::transfer::Copier;
use super::verify::Verifier;
use crate::image::{ImageManifest, Layer};

/// The largest config that is read into memory to be converted, in bytes.
const MAX_CONFIG: u64 = 32 << 20;

/// One image to copy, as its facts say.
pub(super) struct Image<'a> {
    pub manifest: ImageManifest,
    /// The layers to read: the manifest's, or those that the source keeps in their place.
    pub layers: Vec<Layer>,
    pub digest: Digest,
    /// Set for the instances of an index that is copied with them.
    pub instance: Option<&'a Digest>,
    pub platform: Option<String>,
    pub signatures: Vec<Signature>,
    pub cannot_modify: Option<String>,
    /// Manifest types to write, the preferred one first.
    pub types: Vec<String>,
    pub rules: Option<LayerRules>,
}

impl<'a> Copier<'a> {
    /// Reads a manifest, trying again where that may help, and verifies an instance's digest.
    pub(super) fn read_manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        read_manifest(self.source, instance, &self.retry())
    }

    /// Gathers the facts about one image and decides what is done with it.
    pub(super) fn image(
        &self,
        manifest: ImageManifest,
        digest: Digest,
        instance: Option<&'a Digest>,
        platform: Option<String>,
    ) -> Result<Image<'a>> {
        let signatures = self.signatures(instance, false)?;
        let cannot_modify = self.cannot_modify(!signatures.is_empty());
        let layers = self.layers(&manifest, instance)?;
        if let Some(why) = &cannot_modify
            && layers.iter().zip(manifest.layers()).any(|(a, b)| a.blob.digest != b.blob.digest)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Copying this image would require changing layer representation, which we \
                     cannot do: {why:?}"
                ),
            ));
        }
        if let (Some(why), Some(name)) = (&cannot_modify, self.docker_name())
            && manifest.embedded_name_differs(&name)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Copying a schema1 image with an embedded Docker reference to {} (Docker \
                     reference {name}) would change the manifest, which we cannot do: {why:?}",
                    self.destination_side.names.details
                ),
            ));
        }
        let types = if manifest.is_container_image() {
            manifest_types(
                manifest.media_type(),
                &self.accepts.manifest_types,
                self.request,
                cannot_modify.as_deref(),
            )?
        } else if let (Some(format), None) = (self.request.format, &cannot_modify) {
            // Refused below unless it has that type already.
            vec![format_type(format).to_owned()]
        } else {
            // What an artifact's config and layers mean is its own affair: it moves as it is.
            vec![manifest.media_type().to_owned()]
        };
        if !types.iter().any(|to| to == manifest.media_type())
            && let Some(to) = types.first()
        {
            manifest.can_convert_to(to)?;
        }
        let rules = (cannot_modify.is_none() && manifest.is_container_image())
            .then(|| LayerRules::new(self.accepts.layer_form, self.request, &types));
        Ok(Image {
            manifest,
            layers,
            digest,
            instance,
            platform,
            signatures,
            cannot_modify,
            types,
            rules,
        })
    }

    /// Returns the layers to read, which a source may keep in another form than its manifest says.
    fn layers(&self, manifest: &ImageManifest, instance: Option<&Digest>) -> Result<Vec<Layer>> {
        let mut layers = manifest.layers().to_vec();
        let Some(kept) =
            self.source.layers(instance).context(|| "source: listing the layers it keeps")?
        else {
            return Ok(layers);
        };
        let expected = layers.iter().filter(|layer| !layer.empty).count();
        if kept.len() != expected {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("source: it keeps {} layers, its manifest names {expected}", kept.len()),
            ));
        }
        for (layer, kept) in layers.iter_mut().filter(|layer| !layer.empty).zip(kept) {
            if layer.blob.digest != kept.digest {
                // Its own type says nothing about the form it is kept in.
                layer.compression = None;
            }
            layer.blob = kept;
        }
        Ok(layers)
    }

    /// Reads the signatures that go along, and makes sure the destination takes them.
    pub(super) fn signatures(
        &self,
        instance: Option<&Digest>,
        of_index: bool,
    ) -> Result<Vec<Signature>> {
        if self.request.remove_signatures {
            return Ok(Vec::new());
        }
        let announce = |step| self.progress.event(&Event::Signatures { step, of_index });
        announce(SignatureStep::Read);
        let signatures = self
            .retry()
            .run("signatures", || self.source.signatures(instance))
            .context(|| "source: reading signatures")?;
        if !signatures.is_empty() {
            announce(SignatureStep::Check);
        }
        if let (false, Err(why)) = (signatures.is_empty(), &self.accepts.signatures) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Can not copy signatures to {}: {why}",
                    self.destination_side.names.details
                ),
            )
            .with_hint("use --remove-signatures to copy the image without them"));
        }
        Ok(signatures)
    }

    /// Says why manifests must stay as they are, if they must.
    pub(super) fn cannot_modify(&self, is_signed: bool) -> Option<String> {
        if self.request.preserve_digests {
            return Some("Instructed to preserve digests".into());
        }
        if self.destination_digest().is_some() {
            return Some("Destination specifies a digest".into());
        }
        is_signed.then(|| "Would invalidate signatures".into())
    }

    /// The destination's docker reference, which schema 1 manifests carry inside.
    pub(super) fn docker_name(&self) -> Option<Reference> {
        self.destination_side.names.docker_reference.as_deref()?.parse().ok()
    }

    /// The digest in the destination's reference, if it has one.
    pub(super) fn destination_digest(&self) -> Option<Digest> {
        reference_digest(&self.destination_side.names)
    }
}

/// Reads a manifest, trying again where that may help, and verifies an instance's digest.
pub(super) fn read_manifest(
    source: &dyn Source,
    instance: Option<&Digest>,
    retry: &Retry<'_>,
) -> Result<RawManifest> {
    let raw =
        retry.run("manifest", || source.manifest(instance)).map_err(|error| match instance {
            None => error.context("source: reading manifest"),
            Some(digest) => {
                error.context(format!("source: reading manifest for instance {digest}"))
            }
        })?;
    if raw.bytes.len() as u64 > RawManifest::MAX_SIZE {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "source: the manifest has {} bytes; more than {} are never read",
                raw.bytes.len(),
                RawManifest::MAX_SIZE
            ),
        ));
    }
    if let Some(expected) = instance
        && !crate::image::digest_matches(&raw.bytes, expected)?
    {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "source: Manifest does not match provided manifest digest {expected}: it has {}",
                crate::image::digest_of(&raw.bytes)?
            ),
        ));
    }
    Ok(raw)
}

/// Reads a small blob into memory and verifies it.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is not what its descriptor says, or is no small blob.
pub fn read_small(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let too_large =
        || Error::new(ErrorKind::Corrupt, format!("the config is larger than {MAX_CONFIG} bytes"));
    if descriptor.size.is_some_and(|size| size > MAX_CONFIG) {
        return Err(too_large());
    }
    let mut breaks = 0;
    loop {
        // What cannot be opened was tried often enough.
        let blob = embedded::open(source, descriptor)?;
        match read_whole(blob, descriptor, too_large) {
            Err(error) if error.kind().is_transient() && breaks < BROKEN_READS => breaks += 1,
            result => return result,
        }
    }
}

fn read_whole(
    mut blob: Blob,
    descriptor: &Descriptor,
    too_large: impl Fn() -> Error,
) -> Result<Vec<u8>> {
    let size = super::blob::known_size(descriptor, &blob)?;
    let mut verifier = Verifier::new(&descriptor.digest, size);
    let mut bytes = Vec::new();
    let mut buffer = vec![0; super::pipe::BUFFER];
    loop {
        let count = blob.reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        verifier.update(&buffer[..count])?;
        bytes.extend_from_slice(&buffer[..count]);
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(too_large());
        }
    }
    verifier.finish()?;
    Ok(bytes)
}

/// The digest in a docker reference, if it has one.
pub(super) fn reference_digest(names: &Names) -> Option<Digest> {
    let reference: Reference = names.docker_reference.as_deref()?.parse().ok()?;
    reference.digest().cloned()
}

/// Tells whether the manifest is written in another type than it has.
pub(super) fn is_converted(image: &Image<'_>) -> bool {
    image.types.first().is_some_and(|first| first != image.manifest.media_type())
}

/// Tells whether a layer has no place in the converted image: the empty layers of schema 1.
pub(super) fn is_skipped(image: &Image<'_>, layer: &Layer) -> bool {
    layer.empty && needs_diff_ids(image)
}

/// Schema 1 does not know the uncompressed layers' digests; every other type needs them.
pub(super) fn needs_diff_ids(image: &Image<'_>) -> bool {
    image.types.first().is_some_and(|first| image.manifest.needs_diff_ids(first))
}
