//! Manifests, indexes and configs as the engine needs them; no I/O anywhere.
//!
//! - [`Manifest::parse`] turns stored bytes into an [`ImageManifest`] or an [`Index`]; documents
//!   that could be read as two things are refused.
//! - [`ImageManifest`] says what there is to copy and writes itself again after layers changed, in
//!   its own type or in another. [`Index`] does the same for several platforms.
//! - [`inspect`] makes the output of `inspect`, `template` renders it by a Go template.
//!
//! What changes nothing keeps its bytes. What is written anew is written as Go's `encoding/json`
//! writes it, so that its digest is the one that other tools arrive at.

mod config;
mod convert;
mod digest;
mod index;
pub mod inspect;
pub(crate) mod json;
mod manifest;
mod media;
mod platform;
mod schema1;
mod template;
mod time;
mod v1;
mod wire;

pub use digest::{digest_by, digest_matches, digest_of};
pub use index::{Index, InstanceWritten};
pub use manifest::{Converted, ImageManifest, Layer, LayerWritten, Manifest};
pub use media::guess_media_type;

#[cfg(test)]
mod tests;
