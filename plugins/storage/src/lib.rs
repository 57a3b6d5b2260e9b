//! The `containers-storage:` transport: images in the store that podman, buildah and CRI-O share.
//!
//! The store is read and written in place, at the same time as those programs do, under their locks
//! and in their order. What of it is not known is refused before any record is changed.
//!
//! - [`config`]: which store is meant: storage.conf and the environment.
//! - [`mod@reference`]: what follows `containers-storage:`, and its names in policies.
//! - [`store`]: the store itself: drivers, locks, records of layers and images, temporary trees.
//! - [`tar_split`]: what makes a layer's tar archive again from its files, bit for bit.
//! - [`manifest`], [`any_case`]: what of manifests and configs counts, and how strictly.
//! - [`unpack`]: a layer's tar archive becomes a tree of files.
//! - [`source`], [`destination`], [`commit`], [`delete`]: what the transport does with them.
//!
//! Deliberately absent: containers, mounts, shifted IDs, zstd:chunked by parts; layers that came in
//! parts are read as far as their tar-split goes.
//!
//! # Source
//! containers-transports(5), containers-storage.conf(5). The format on disk has no specification:
//! what stands here was learnt from the library that defines it (github.com/containers/container-libs,
//! `storage/`), and is checked against podman, buildah and skopeo by tests.

mod any_case;
mod commit;
mod config;
mod delete;
mod destination;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod manifest;
mod reference;
mod source;
mod store;
mod tar_split;
mod unpack;

use diolkos_sdk::{ImageRef, Plugin, Result, Transport};

/// The transport.
#[derive(Debug)]
pub struct Storage;

impl Transport for Storage {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(reference::StorageRef::parse(details, &config::Places::of_this_process())?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        reference::check_policy_scope(scope)
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("containers-storage", Storage)
}

diolkos_sdk::export_plugin!(plugin);
