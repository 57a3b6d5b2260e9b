//! The manifest, in a type that the destination takes, and what belongs to it: converted configs,
//! signatures.

use std::sync::PoisonError;

use diolkos_sdk::{
    BlobIncoming, BlobRole, BlobSums, Descriptor, Digest, Error, ErrorKind, Result, ResultExt,
    Signature, image_config,
};

use super::blob;
use super::facts::{Image, is_converted, read_small};
use super::progress::{BlobOutcome, Counter, Event, SignatureStep};
use super::transfer::{Copier, Job, Written};
use crate::compress::{self, Compression};
use crate::image::{ImageManifest, LayerWritten};

impl Copier<'_> {
    /// Writes signatures, if there are any.
    pub(super) fn put_signatures(
        &self,
        signatures: &[Signature],
        instance: Option<&Digest>,
        of_index: bool,
    ) -> Result<()> {
        if signatures.is_empty() {
            return Ok(());
        }
        self.progress.event(&Event::Signatures { step: SignatureStep::Store, of_index });
        self.destination
            .put_signatures(signatures, instance)
            .context(|| "destination: writing signatures")
    }

    /// Writes the manifest in the first type that the destination takes.
    pub(super) fn write_manifest(
        &self,
        image: &Image<'_>,
        layers: &[LayerWritten],
    ) -> Result<Written> {
        let mut refusals: Vec<(String, Error)> = Vec::new();
        let mut config = None;
        for media_type in &image.types {
            match self.try_manifest(image, media_type, layers, &mut config) {
                Ok(written) => return Ok(written),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ManifestRejected | ErrorKind::Unsupported
                    ) =>
                {
                    refusals.push((media_type.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        let Some((_, last)) = refusals.pop() else {
            return Err(Error::new(ErrorKind::Internal, "no type of manifest was tried"));
        };
        if let Some(why) = &image.cannot_modify {
            return Err(last.context(format!(
                "writing manifest failed and we cannot try conversions: {why:?}"
            )));
        }
        if refusals.is_empty() {
            return Err(last);
        }
        let mut tried: Vec<String> = refusals
            .iter()
            .map(|(media_type, error)| format!("{media_type}({})", error.chain().join(": ")))
            .collect();
        tried.extend(
            image.types.last().map(|last_type| format!("{last_type}({})", last.chain().join(": "))),
        );
        Err(Error::new(
            last.kind(),
            format!(
                "Uploading manifest failed, attempted the following formats: {}",
                tried.join(", ")
            ),
        ))
    }

    fn try_manifest(
        &self,
        image: &Image<'_>,
        media_type: &str,
        layers: &[LayerWritten],
        config: &mut Option<Vec<u8>>,
    ) -> Result<Written> {
        let manifest = &image.manifest;
        let raw = if media_type == manifest.media_type() {
            if image.cannot_modify.is_some() && layers_differ(manifest, layers) {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the layers were changed although the manifest may not be",
                ));
            }
            if is_converted(image)
                && let Some(descriptor) = manifest.config()
            {
                // An earlier type was refused, and with it the original config was never copied.
                let job = Job {
                    blob: descriptor,
                    role: BlobRole::Config,
                    layer: None,
                    name: blob::name(BlobRole::Config, 0, descriptor),
                };
                if self.reuse(&job, image, false)?.is_none() {
                    self.copy_blob(&job, image)?;
                }
            }
            manifest.with_layers(layers, self.docker_name().as_ref())?
        } else {
            if config.is_none()
                && let Some(descriptor) = manifest.config()
            {
                *config = Some(self.read_config(descriptor)?);
            }
            let converted = manifest
                .convert(media_type, config.as_deref(), layers, self.docker_name().as_ref())
                .context(|| format!("converting the manifest to {media_type}"))?;
            for (descriptor, bytes) in &converted.blobs {
                self.put_bytes(descriptor, BlobRole::Layer(0), bytes)?;
            }
            if let Some((descriptor, bytes)) = &converted.config {
                self.put_bytes(descriptor, BlobRole::Config, bytes)?;
            }
            converted.manifest
        };
        let digest = if raw.bytes == manifest.raw().bytes {
            image.digest.clone()
        } else {
            crate::image::digest_of(&raw.bytes)?
        };
        self.progress.event(&Event::Manifest {
            digest: digest.clone(),
            top_level: image.instance.is_none(),
        });
        self.retry()
            .run("manifest", || {
                self.destination.put_manifest(&raw, image.instance.map(|_| &digest))
            })
            .context(|| "destination: writing manifest")?;
        let has_zstd = layers.iter().any(|layer| layer.compression == Some(Compression::Zstd));
        Ok(Written {
            manifest: raw,
            media_type: media_type.to_owned(),
            digest,
            has_zstd,
            was_there: false,
        })
    }

    /// Tells the config to a destination that wants to know it before the layers.
    pub(super) fn tell_config(&self, image: &Image<'_>) -> Result<()> {
        let Some(descriptor) = image.manifest.config() else { return Ok(()) };
        if !image.manifest.is_container_image() || !image_config::is_wanted(self.destination) {
            return Ok(());
        }
        let config = self.read_config(descriptor)?;
        if let Err(error) = image_config::tell(self.destination, &config) {
            let why = error.chain().join(": ");
            self.host.debug(format!("destination: what it has of the image is not known: {why}"));
        }
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        configs.insert(descriptor.digest.clone(), config);
        Ok(())
    }

    /// Reads a config into memory, verified.
    fn read_config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let known = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(&descriptor.digest) {
            return Ok(config.clone());
        }
        drop(known);
        self.retry().run("config", || read_small(self.source, descriptor)).map_err(|error| {
            error.context(format!("source: reading config blob {}", descriptor.digest))
        })
    }

    /// Writes bytes of our own making.
    pub(super) fn put_bytes(
        &self,
        descriptor: &Descriptor,
        role: BlobRole,
        bytes: &[u8],
    ) -> Result<()> {
        let size = bytes.len() as u64;
        let is_layer = matches!(role, BlobRole::Layer(_));
        let plain = (self.unpacks && is_layer).then(|| compress::inflated(bytes)).transpose()?;
        let diff_id = plain.as_deref().map(crate::image::digest_of).transpose()?;
        let written = plain.as_deref().unwrap_or(bytes);
        let incoming = BlobIncoming {
            digest: Some(descriptor.digest.clone()),
            size: Some(size),
            media_type: descriptor.media_type.clone(),
            role,
            locations: Vec::new(),
        };
        let counter = Counter::default();
        counter.set(size);
        self.progress.event(&Event::BlobStart {
            digest: descriptor.digest.clone(),
            size: Some(size),
            role,
            counter,
        });
        let written = self
            .retry()
            .run("config", || {
                if let Some(mut writer) = self.destination.put_blob(&incoming)? {
                    writer.write(written)?;
                    let (digest, diff_id) = (descriptor.digest.clone(), diff_id.clone());
                    writer.finish(&BlobSums { digest, size, diff_id })?;
                }
                Ok(())
            })
            .map_err(|error| {
                error.context(format!("destination: writing blob {}", descriptor.digest))
            });
        self.progress.event(&Event::BlobDone {
            digest: descriptor.digest.clone(),
            role,
            outcome: BlobOutcome::Copied { written: size },
        });
        written
    }
}

fn layers_differ(manifest: &ImageManifest, written: &[LayerWritten]) -> bool {
    manifest
        .layers()
        .iter()
        .zip(written)
        .any(|(layer, written)| layer.blob.digest != written.digest)
}
