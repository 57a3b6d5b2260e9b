//! What the user asked of a copy, as values; the command line makes these and nothing else does.

use std::path::PathBuf;
use std::time::Duration;

use diolkos_sdk::{ImageRef, PlatformChoice, Session};

use crate::compress::Compression;

/// One side of a copy: the reference, and what its calls may use.
pub struct Endpoint {
    /// What the user wrote, `transport:details`; messages show it.
    pub name: String,
    /// Name of the transport, such as `docker`.
    pub transport: String,
    /// The parsed reference.
    pub reference: Box<dyn ImageRef>,
    /// Options, cancellation, log.
    pub session: Session,
}

/// Which images of an index are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The one instance that fits the platform, without its index.
    #[default]
    System,
    /// The index and all its instances.
    All,
    /// The index without any instance.
    IndexOnly,
}

/// A type of manifest that the user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestFormat {
    /// OCI manifests and indexes.
    Oci,
    /// Docker schema 2 manifests and lists.
    V2s2,
    /// Docker schema 1.
    V2s1,
}

/// What is to happen to the compression of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerRequest {
    /// What the destination prefers.
    #[default]
    Destination,
    /// Compress layers that are not.
    Compress,
    /// Decompress layers that are compressed.
    Decompress,
}

/// Everything the user may decide about a copy.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// Which images of an index.
    pub selection: Selection,
    /// The platform to choose an instance for.
    pub platform: PlatformChoice,
    /// The manifest type asked for, if any.
    pub format: Option<ManifestFormat>,
    /// Fail rather than change a manifest.
    pub preserve_digests: bool,
    /// Refuse images that the policy would take unsigned.
    pub require_signed: bool,
    /// Leave signatures behind.
    pub remove_signatures: bool,
    /// What happens to the layers' compression.
    pub layers: LayerRequest,
    /// The format new compression is done in; `None` is gzip.
    pub compression: Option<Compression>,
    /// The level of new compression; `None` is the format's default.
    pub compression_level: Option<i32>,
    /// Recompress layers that are compressed in another format than `compression`.
    pub force_compression: bool,
    /// Blobs copied at the same time; `None` is 6.
    pub parallel_copies: Option<usize>,
    /// How often a step that failed for a passing reason is tried again.
    pub retry_times: u32,
    /// The delay before a retry; `None` is growing from one second.
    pub retry_delay: Option<Duration>,
    /// File of the blob info cache, usually [`crate::cache::BlobCache::default_path`]; `None`
    /// remembers nothing beyond this copy.
    pub blob_cache: Option<PathBuf>,
}

impl Default for CopyRequest {
    fn default() -> Self {
        Self {
            selection: Selection::System,
            platform: PlatformChoice::default(),
            format: None,
            preserve_digests: false,
            require_signed: false,
            remove_signatures: false,
            layers: LayerRequest::Destination,
            compression: None,
            compression_level: None,
            force_compression: false,
            parallel_copies: None,
            retry_times: 0,
            retry_delay: None,
            blob_cache: None,
        }
    }
}
