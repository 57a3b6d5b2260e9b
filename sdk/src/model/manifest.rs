//! A manifest as it is stored: bytes and their type.

/// The bytes of a manifest or index, exactly as stored, and its media type.
///
/// The type is empty where the storage does not record it; the host then looks at the bytes.
/// Nothing here has been verified: that is the host's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// The bytes; their digest is the image's digest.
    pub bytes: Vec<u8>,
    /// Media type as the storage gives it, or empty.
    pub media_type: String,
}

impl RawManifest {
    /// The largest manifest that is read, in bytes: 4 MiB, as registries and skopeo have it.
    pub const MAX_SIZE: u64 = 4 * 1024 * 1024;

    /// Joins bytes and type.
    pub fn new(bytes: Vec<u8>, media_type: impl Into<String>) -> Self {
        Self { bytes, media_type: media_type.into() }
    }
}
