//! What of manifests and configs the store needs to know.

use std::collections::HashMap;

use diolkos_sdk::model::media_type;
use diolkos_sdk::{Descriptor, Digest, Error, ErrorKind, Result};
use serde::Deserialize;

/// The types of manifests that images of a store have.
pub(crate) const TYPES: [&str; 2] = [media_type::OCI_MANIFEST, media_type::DOCKER_V2S2];

/// How annotations begin that speak of a layer's compressed form.
const OF_COMPRESSION: [&str; 3] = [
    "io.github.containers.zstd-chunked.",
    "containerd.io/snapshot/stargz/",
    "io.containers.estargz.",
];

/// A manifest of OCI or Docker's schema 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub schema_version: u32,
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Option<Vec<Instance>>,
    #[serde(default)]
    media_type: String,
}

/// An entry of an index.
#[derive(Debug, Deserialize)]
pub(crate) struct Instance {
    pub digest: Digest,
    #[serde(default)]
    platform: HashMap<String, serde_json::Value>,
}

impl Instance {
    /// Tells whether the instance is for an operating system and architecture.
    pub fn is_for(&self, os: &str, architecture: &str) -> bool {
        let is = |key: &str, wanted: &str| {
            self.platform.get(key).and_then(|value| value.as_str()).is_some_and(|it| it == wanted)
        };
        is("os", os) && is("architecture", architecture)
    }
}

impl Manifest {
    /// Parses it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the manifest makes no sense").with_source(error)
        })
    }

    /// Returns the instances of an index; `None` for the manifest of an image.
    pub fn instances(&self) -> Option<&[Instance]> {
        self.manifests.as_deref()
    }

    /// Returns what layers of this manifest that are not compressed are called.
    pub fn plain_layer_type(&self) -> &'static str {
        let oci = self.schema_version == 2
            && (self.media_type == media_type::OCI_MANIFEST
                || self.config.as_ref().is_some_and(|it| it.media_type == media_type::OCI_CONFIG));
        if oci { media_type::OCI_LAYER } else { media_type::DOCKER_LAYER }
    }

    /// Returns a layer as the store has it: what was said of its compressed form is not true of it.
    pub fn layer_as_kept(&self, index: usize, digest: Digest, size: Option<u64>) -> Descriptor {
        let mut kept = Descriptor::new(self.plain_layer_type(), digest, size);
        if let Some(layer) = self.layers.get(index) {
            kept.urls.clone_from(&layer.urls);
            kept.annotations.clone_from(&layer.annotations);
            kept.annotations.retain(|key, _| !OF_COMPRESSION.iter().any(|it| key.starts_with(it)));
        }
        kept
    }
}

/// What of an image's config the store needs to know.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pub created: Option<String>,
    #[serde(default)]
    rootfs: Rootfs,
}

#[derive(Debug, Default, Deserialize)]
struct Rootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl Config {
    /// Parses it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            let message = "writing to containers-storage without a valid image config";
            Error::new(ErrorKind::Unsupported, message).with_source(error)
        })
    }

    /// Checks a layer's diff ID against what the config says, if it says any.
    pub fn check_diff_id(&self, index: usize, blob: &Digest, diff_id: &Digest) -> Result<()> {
        let said = self.rootfs.diff_ids.as_deref().unwrap_or_default();
        if said.iter().all(String::is_empty) {
            return Ok(());
        }
        match said.get(index) {
            Some(expected) if *expected == diff_id.to_string() => Ok(()),
            Some(expected) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "layer {index} (blob {blob}, diff ID {diff_id}) does not match config's \
                     DiffID {expected:?}"
                ),
            )),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "image config has only {} DiffID values, but a layer with index {index} exists",
                    said.len()
                ),
            )),
        }
    }
}
