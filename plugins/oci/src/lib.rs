//! The `oci:` transport: images in a directory with an OCI image layout.
//!
//! - [`mod@reference`]: `oci:PATH[:NAME|:@INDEX]`, and its names in policies.
//! - `options`: what `plugin.toml` declares, parsed.
//! - `source`: reading.
//! - `destination`: writing; `index.json` is replaced only by a commit.
//! - `delete`: removing an image and the blobs that nothing else needs.
//! - `reach`: which blobs an image consists of.
//!
//! The layout itself, `index.json` above all, is in [`diolkos_formats::layout`]. Deliberately
//! absent: signatures, for which layouts have no place.
//!
//! # Source
//! containers-transports(5), `oci:path[:reference]`; OCI image-spec 1.1, "Image Layout".

mod delete;
mod destination;
mod options;
mod reach;
pub mod reference;
mod source;

use diolkos_sdk::{ImageRef, Plugin, Result, Transport};

pub use reference::OciRef;

/// The transport.
#[derive(Debug)]
pub struct Oci;

impl Transport for Oci {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(OciRef::parse(details)?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        diolkos_formats::layout::reference::check_policy_scope(scope)
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("oci", Oci)
}

diolkos_sdk::export_plugin!(plugin);
