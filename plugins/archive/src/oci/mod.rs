//! `oci-archive:PATH[:NAME|:@INDEX]`.
//!
//! - `reference`: the reference, and its names.
//! - `source`: reading; blobs are stretches of the archive.
//! - `destination`: writing; blobs go into the archive as they come, `index.json` last.

mod destination;
mod reference;
mod source;

use diolkos_formats::paths::{ScopeProblem, check_scope};
use diolkos_sdk::{ImageRef, Result, Transport};

use reference::{ArchiveRef, invalid};

/// The transport.
#[derive(Debug)]
pub(crate) struct OciArchive;

impl Transport for OciArchive {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(ArchiveRef::parse(details)?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        check_scope(scope).map_err(|problem| {
            invalid(match problem {
                ScopeProblem::NotAbsolute => {
                    format!("Invalid scope {scope}: must be an absolute path")
                }
                ScopeProblem::Root => {
                    r#"Invalid scope "/": Use the generic default scope """#.to_owned()
                }
                ScopeProblem::NotCanonical(clean) => format!(
                    "Invalid scope {scope}: Uses non-canonical path format, perhaps try with path \
                     {clean}"
                ),
            })
        })
    }
}
