//! The `docker-archive:` and `oci-archive:` transports: images in tar archives.
//!
//! - [`docker`]: what `docker save` writes and `docker load` reads.
//! - [`oci`]: an OCI image layout in a tar archive.
//! - [`input`]: archives as they come: files, pipes, compressed ones.
//! - [`output`]: an archive under a temporary name until it is complete, or a pipe.
//!
//! Tar itself is in [`diolkos_formats::tar`]. Archives are read in place and never unpacked.
//! Deliberately absent: signatures, for which these archives have no place; deleting; adding an
//! image to an archive that exists.
//!
//! # Source
//! containers-transports(5), `docker-archive:` and `oci-archive:`; Docker image specification 1.2,
//! "Combined Image JSON + Filesystem Changeset Format"; OCI image-spec 1.1, "Image Layout".

mod docker;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod input;
mod oci;
mod output;

use diolkos_sdk::Plugin;

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("docker-archive", docker::DockerArchive).with("oci-archive", oci::OciArchive)
}

diolkos_sdk::export_plugin!(plugin);
