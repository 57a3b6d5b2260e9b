//! On-disk formats that more than one plugin reads or writes, and what writing them safely takes.
//!
//! - [`bytes`]: digests and JSON of what is in memory.
//! - [`docker_archive`]: what `docker save` writes.
//! - [`layout`]: OCI image layouts: `index.json`, `oci-layout`, where blobs are.
//! - [`made`]: configs and manifests for files that are no images.
//! - [`paths`]: image paths as references and policies name them.
//! - [`files`]: opening and reading files that others may have made, with limits.
//! - [`inflate`]: decompression of whole archives and layers.
//! - [`tar`]: archives that are read in place, and written once.
//! - [`staging`]: files that are complete before they appear under their name.
//!
//! Nothing here hashes or verifies content; the host does that.

pub mod bytes;
pub mod docker_archive;
pub mod files;
pub mod inflate;
pub mod layout;
pub mod made;
pub mod paths;
pub mod staging;
pub mod tar;
