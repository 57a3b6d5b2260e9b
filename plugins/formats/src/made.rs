//! Images that are made of files which are none: an OCI config and manifest for layers at hand.
//!
//! # Source
//! OCI image-spec 1.1, "Image Configuration" and "Image Manifest". Members have the order in which
//! other tools write them, so that digests are the same.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use diolkos_sdk::model::media_type;
use diolkos_sdk::{Blob, Descriptor, Digest, Error, ErrorKind, RawManifest, Result, Source};
use serde::Serialize;

use crate::bytes::{sha256, to_json};
use crate::files::{Stretch, blob_of_bytes};

/// A layer, as it is kept.
#[derive(Debug)]
pub struct Layer {
    /// Of the file.
    pub digest: Digest,
    /// Of the file, in bytes.
    pub size: u64,
    /// Of the uncompressed bytes.
    pub diff_id: Digest,
    /// The media type that says how it is compressed.
    pub media_type: &'static str,
    /// The file.
    pub file: File,
}

/// What a config says beside its layers. Times are RFC 3339.
#[derive(Debug, Default)]
pub struct About {
    /// When the image was made.
    pub created: String,
    /// The CPU architecture.
    pub architecture: String,
    /// Its variant; empty for none.
    pub variant: String,
    /// The operating system.
    pub os: String,
    /// The command that runs by default; empty for none.
    pub command: Vec<String>,
    /// The steps that made the image.
    pub history: Vec<Step>,
}

/// A step that made an image.
#[derive(Debug, Default, Serialize)]
pub struct Step {
    /// When.
    pub created: String,
    /// By which command.
    pub created_by: String,
    /// What else there is to say; empty for nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// An image that was made.
pub struct MadeImage {
    transport: &'static str,
    manifest: Vec<u8>,
    config: (Digest, Vec<u8>),
    files: HashMap<Digest, (Arc<File>, u64)>,
}

#[derive(Serialize)]
struct ConfigJson<'a> {
    created: &'a str,
    architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    os: &'a str,
    config: Runs<'a>,
    rootfs: RootFs<'a>,
    history: &'a [Step],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Runs<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'a str,
    diff_ids: Vec<&'a Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestJson<'a> {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
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

impl Layer {
    fn named(&self) -> Named<'_> {
        Named { media_type: self.media_type, digest: &self.digest, size: self.size }
    }
}

impl MadeImage {
    /// Makes an image of layers, the base first, for a transport of that name; `says_type` is whether
    /// the manifest tells its own media type.
    pub fn new(
        transport: &'static str,
        says_type: bool,
        about: &About,
        layers: Vec<Layer>,
    ) -> Result<Self> {
        let config = to_json(&ConfigJson {
            created: &about.created,
            architecture: &about.architecture,
            variant: &about.variant,
            os: &about.os,
            config: Runs { cmd: &about.command },
            rootfs: RootFs {
                r#type: "layers",
                diff_ids: layers.iter().map(|layer| &layer.diff_id).collect(),
            },
            history: &about.history,
        })?;
        let digest = sha256(&config);
        let manifest = to_json(&ManifestJson {
            schema_version: 2,
            media_type: says_type.then_some(media_type::OCI_MANIFEST),
            config: Named {
                media_type: media_type::OCI_CONFIG,
                digest: &digest,
                size: config.len() as u64,
            },
            layers: layers.iter().map(Layer::named).collect(),
        })?;
        let file = |layer: Layer| (layer.digest, (Arc::new(layer.file), layer.size));
        let files = layers.into_iter().map(file).collect();
        Ok(Self { transport, manifest, config: (digest, config), files })
    }
}

impl Source for MadeImage {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        if let Some(instance) = instance {
            let message = format!(
                "manifest lists are not supported by the {:?} transport: {instance}",
                self.transport
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
