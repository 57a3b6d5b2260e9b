//! `oci-archive:PATH[:NAME|:@INDEX]`.
//!
//! - `reference`: the reference, and its names.
//! - `source`: reading; blobs are stretches of the archive.
//! - `destination`: writing; blobs go into the archive as they come, `index.json` last.

mod destination;
mod reference;
mod source;

use diolkos_sdk::{ImageRef, Result, Transport};

use reference::ArchiveRef;

/// The transport.
#[derive(Debug)]
pub(crate) struct OciArchive;

impl Transport for OciArchive {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(ArchiveRef::parse(details)?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        diolkos_formats::layout::reference::check_policy_scope(scope)
    }
}
