//! The `tarball:` transport: an image made of tar archives of files, each of which is a layer.
//!
//! Only reading. The image's config and manifest are made from the archives: when they were changed,
//! their digests, and those of what is in them where they are compressed. Each is read once for
//! that, and a second time when it is copied. The bytes of a layer are those of its file.
//! Deliberately absent: setting the config.
//!
//! - `reference`: `tarball:PATH[:PATH...]`. `source`: the image that is made of them.
//!
//! # Source
//! containers/image, `tarball`, whose images these are, byte for byte, in the time zone UTC.

mod reference;
mod source;

use diolkos_sdk::{Error, ErrorKind, ImageRef, Plugin, Result, Transport};

/// The transport.
#[derive(Debug)]
pub struct Tarball;

impl Transport for Tarball {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(reference::TarballRef::parse(details)?))
    }

    fn check_policy_scope(&self, _: &str) -> Result<()> {
        let message = r#"tarball: does not support any scopes except the default "" one"#;
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("tarball", Tarball)
}

diolkos_sdk::export_plugin!(plugin);
