//! Reading an image from an archive.
//!
//! The archive has no manifest of the image: it is made here, the same each time, from the list of
//! layers and what the config says of them. Layers go by the digest of their uncompressed bytes. One
//! that is kept compressed is decompressed on the way, and once before to learn its size.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Blob, BlobReader, Descriptor, Digest, Error, ErrorKind, Host, RawManifest, Result, Source,
};
use serde::{Deserialize, Serialize};

use super::manifest::Image;
use crate::bytes::{sha256, to_json};
use crate::files::{blob_of_bytes, drain};
use crate::inflate::Form;
use crate::tar::{Member, TarFile};

/// The largest config that is read, in bytes.
const MAX_CONFIG: u64 = 32 << 20;

/// An image that is read.
pub struct ArchiveSource {
    tar: TarFile,
    image: Image,
    host: Host,
    facts: Mutex<Option<Facts>>,
}

/// What is known of the image once it was looked at.
#[derive(Clone)]
struct Facts {
    manifest: Vec<u8>,
    config: (Digest, Vec<u8>),
    layers: HashMap<Digest, Layer>,
}

#[derive(Clone, Copy)]
struct Layer {
    member: Member,
    form: Option<Form>,
    /// Uncompressed.
    size: u64,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// The manifest, with members in the order in which other tools make it: its digest is the same.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Schema2<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Named<'a>,
    layers: Vec<Named<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Named<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a Digest,
}

impl ArchiveSource {
    /// Reads an image of an archive; `image` is its entry in the list.
    pub fn new(tar: TarFile, image: Image, host: Host) -> Self {
        Self { tar, image, host, facts: Mutex::default() }
    }

    fn with_facts<T>(&self, look: impl FnOnce(&Facts) -> Result<T>) -> Result<T> {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.is_none() {
            *facts = Some(self.gather()?);
        }
        facts.as_ref().map_or_else(|| Err(Error::new(ErrorKind::Internal, "no facts")), look)
    }

    fn gather(&self) -> Result<Facts> {
        let name = &self.image.config;
        let config = self.tar.read(name, MAX_CONFIG)?.ok_or_else(|| {
            self.tar.broken(&format!("loading tar component {name:?}: file does not exist"))
        })?;
        let parsed: Config = serde_json::from_slice(&config).map_err(|error| {
            let message = format!("decoding tar config {name:?}");
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        })?;
        let Some(rootfs) = parsed.rootfs else {
            let message = format!("Invalid image config (rootFS is not set): {name:?}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        let names = self.image.layers.as_deref().unwrap_or_default();
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        if names.len() != diff_ids.len() {
            return Err(self.tar.broken(&format!(
                "Inconsistent layer count: {} in manifest, {} in config",
                names.len(),
                diff_ids.len()
            )));
        }
        let mut layers: HashMap<Digest, Layer> = HashMap::new();
        let mut order = Vec::new();
        for (name, diff_id) in names.iter().zip(&diff_ids) {
            let digest: Digest = diff_id.parse().map_err(|error: Error| {
                Error::new(ErrorKind::Corrupt, format!("decoding tar config: diff ID {diff_id:?}"))
                    .with_source(error)
            })?;
            // One and the same layer may stand there twice.
            if !layers.contains_key(&digest) {
                layers.insert(digest.clone(), self.layer(name)?);
            }
            order.push(digest);
        }
        let config_digest = sha256(&config);
        let manifest = Schema2 {
            schema_version: 2,
            media_type: media_type::DOCKER_V2S2,
            config: Named {
                media_type: media_type::DOCKER_CONFIG,
                size: config.len() as u64,
                digest: &config_digest,
            },
            // Whatever the type says, the bytes are not compressed; so it is with other tools.
            layers: order
                .iter()
                .map(|digest| Named {
                    media_type: media_type::DOCKER_LAYER_GZIP,
                    size: layers[digest].size,
                    digest,
                })
                .collect(),
        };
        Ok(Facts { manifest: to_json(&manifest)?, config: (config_digest, config), layers })
    }

    fn layer(&self, name: &str) -> Result<Layer> {
        let member = self.tar.find(name)?.ok_or_else(|| {
            self.tar.broken(&format!("the layer {name:?} is missing in the tarball"))
        })?;
        let reading = |error| {
            let message = format!("reading {name:?} to find its size");
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        };
        let form = Form::of_reader(self.tar.content(member, 0)).map_err(reading)?;
        let size = match form {
            None => member.size,
            Some(form) => {
                let mut inflated = form.inflate(self.tar.content(member, 0)).map_err(reading)?;
                let mut size = 0;
                drain(&mut inflated, &self.host, reading, |bytes| {
                    size += bytes.len() as u64;
                    Ok(())
                })?;
                size
            }
        };
        Ok(Layer { member, form, size })
    }
}

impl Source for ArchiveSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        if instance.is_some() {
            return Err(Error::unsupported("an archive of `docker save` holds no lists of images"));
        }
        self.with_facts(|facts| {
            Ok(RawManifest::new(facts.manifest.clone(), media_type::DOCKER_V2S2))
        })
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        self.with_facts(|facts| {
            let (config, bytes) = &facts.config;
            if *config == blob.digest {
                return Ok(blob_of_bytes(bytes, from));
            }
            let layer = facts.layers.get(&blob.digest).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("Unknown blob {}", blob.digest))
            })?;
            let Some(form) = layer.form else { return Ok(self.tar.blob(layer.member, from)) };
            if from > 0 {
                return Err(Error::unsupported("a compressed layer is read from its start alone"));
            }
            let inflated = form.inflate(self.tar.content(layer.member, 0)).map_err(|error| {
                Error::new(ErrorKind::Corrupt, format!("auto-decompressing blob {}", blob.digest))
                    .with_source(error)
            })?;
            Ok(Blob { size: Some(layer.size), reader: Box::new(Inflated(inflated)) })
        })
    }
}

/// A layer that is decompressed on the way.
struct Inflated(Box<dyn Read + Send>);

impl BlobReader for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "cannot decompress a layer").with_source(error)
        })
    }
}
