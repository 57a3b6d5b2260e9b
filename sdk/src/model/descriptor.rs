//! What a manifest says about a piece of content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform};

/// A reference to content: its type, digest and size, and what else a manifest says about it.
///
/// The size is optional because some sources make their blobs on the fly and do not know it
/// before the last byte. Written as JSON, fields come in the order of the spec's Go types.
///
/// # Source
/// OCI image-spec 1.1, "Content Descriptors".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Digest of the content as stored, usually compressed.
    pub digest: Digest,
    /// Bytes of the content as stored, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where else the content can be downloaded; foreign layers use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Arbitrary metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, when it is embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The platform an index's instance is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of an artifact that this descriptor refers to.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Makes a descriptor with the three fields that every one has.
    pub fn new(
        media_type: impl Into<String>,
        digest: Digest,
        size: impl Into<Option<u64>>,
    ) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size: size.into(),
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }
}
