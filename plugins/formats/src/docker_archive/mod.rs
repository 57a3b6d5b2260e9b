//! What `docker save` writes and `docker load` reads: images in a tar archive, each with a config
//! and layers, and a list of them.
//!
//! - `manifest`: `manifest.json`, the list.
//! - `source`: reading an image, whose manifest is made from the list and the config.
//!
//! # Source
//! Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format".

mod manifest;
mod source;

pub use manifest::{Blobs, Choice, Image, Images, NAME, accepts, config_name, layer_name};
pub use source::ArchiveSource;
