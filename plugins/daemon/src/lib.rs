//! Diolkos plugin: the `docker-daemon:` transport, images in the Docker daemon.
//!
//! - [`mod@reference`]: syntax and names. [`options`]: what plugin.toml declares.
//! - [`source`]: what `docker save` does, into a temporary file that is read in place: the daemon
//!   sends the list of what an image consists of last.
//! - [`destination`]: what `docker load` does, as bytes come, without a copy of the image.
//! - [`known`]: which layers a daemon has already.
//! - [`endpoint`], [`contexts`]: which daemon is meant. [`ssh`]: one on another machine.
//! - [`client`]: requests, and what went wrong with them.
//!
//! The format of what is saved and loaded is in [`diolkos_formats::docker_archive`]. Deliberately
//! absent: signatures, for which the daemon has no place; deleting, for which `docker rmi` knows
//! better what hangs on an image.
//!
//! # Source
//! containers-transports(5), `docker-daemon:`; Docker Engine API 1.24 and later, "Images".

mod client;
mod contexts;
mod destination;
mod endpoint;
mod known;
mod options;
mod reference;
mod source;
mod ssh;

use diolkos_sdk::{Error, ErrorKind, ImageRef, Plugin, Result, Transport};

/// The `docker-daemon:` transport.
#[derive(Debug)]
pub struct DockerDaemon;

impl Transport for DockerDaemon {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(reference::DaemonRef::parse(details)?))
    }

    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        // An image's ID says nothing of where it is from, and is no host with a port either.
        if scope.parse::<diolkos_sdk::Digest>().is_ok() {
            let message =
                format!("docker-daemon: can not use algo:digest value {scope} as a namespace");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("docker-daemon", DockerDaemon)
}

diolkos_sdk::export_plugin!(plugin);
