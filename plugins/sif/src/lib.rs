//! The `sif:` transport: an image made of a file of Singularity or Apptainer.
//!
//! Only reading. Its root file system becomes the one layer, and what its definition runs a script.
//! The layer is made once, into a temporary file, straight from the squashfs: no other program is
//! needed, nothing is unpacked, and owners are kept without being root. Hard links of files stay
//! links. Deliberately absent: extended attributes, with a warning where there are some;
//! file systems that are encrypted or no squashfs. The library that reads it knows neither links of
//! 256 bytes and more nor more than 2048 users and groups.
//!
//! - `reference`: `sif:PATH`.
//! - `file`: what is where in such a file. `definition`: the script.
//! - `rootfs`: squashfs to tar. `source`: the image that is made of them.
//!
//! # Source
//! containers-transports(5), `sif:`; github.com/sylabs/sif, `pkg/sif`, "SIF layout"; what becomes of
//! it is as in containers/image, `sif`.

mod definition;
mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod reference;
mod rootfs;
mod source;

use diolkos_formats::paths::check_policy_scope;
use diolkos_sdk::{ImageRef, Plugin, Result, Transport};

/// The transport.
#[derive(Debug)]
pub struct Sif;

impl Transport for Sif {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(reference::SifRef::parse(details)?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        check_policy_scope(scope)
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("sif", Sif)
}

diolkos_sdk::export_plugin!(plugin);
