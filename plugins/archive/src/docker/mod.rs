//! `docker-archive:PATH[:REFERENCE|:@INDEX]`.
//!
//! - `reference`: the reference, and its names.
//! - `source`: reading, which is [`diolkos_formats::docker_archive`]'s.
//! - `append`: the images that one is added to.
//! - `destination`: writing, with what old versions of Docker need (`legacy`).

mod append;
mod destination;
mod legacy;
mod reference;
mod source;

use diolkos_sdk::{ImageRef, Result, Transport};

use reference::{ArchiveRef, invalid};

/// The transport.
#[derive(Debug)]
pub(crate) struct DockerArchive;

impl Transport for DockerArchive {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(ArchiveRef::parse(details)?))
    }

    fn check_policy_scope(&self, _: &str) -> Result<()> {
        Err(invalid(r#"docker-archive: does not support any scopes except the default "" one"#))
    }
}
