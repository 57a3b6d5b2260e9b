//! The `dir:` transport: one image as plain files in a directory of its own.
//!
//! - [`mod@reference`]: `dir:PATH`, and its names in policies.
//! - `options`: what `plugin.toml` declares, parsed.
//! - `names`: what the files are called, and the `version` file.
//! - `source`: reading.
//! - `destination`: writing; the old image stays until the new one is complete.
//!
//! Deliberately absent: deleting (remove the directory), and more than one image in a directory.
//!
//! # Source
//! containers-transports(5), `dir:path`.

mod destination;
mod names;
mod options;
pub mod reference;
mod source;

use diolkos_formats::paths::check_policy_scope;
use diolkos_sdk::{ImageRef, Plugin, Result, Transport};

pub use reference::DirRef;

/// The transport.
#[derive(Debug)]
pub struct Dir;

impl Transport for Dir {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(DirRef::parse(details)?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        check_policy_scope(scope)
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("dir", Dir)
}

diolkos_sdk::export_plugin!(plugin);
