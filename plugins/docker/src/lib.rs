//! Diolkos plugin: the `docker:` transport, images in container registries.
//!
//! Requests are counted: none is made that a later one answers as well. There is no first ping,
//! the first request that is needed anyway finds out how a registry is reached and what it asks
//! for; connections, tokens and what was learnt are shared by all uses of a registry.
//!
//! - [`mod@reference`]: syntax and names. [`options`]: what plugin.toml declares.
//! - [`source`], [`destination`], [`uploads`], [`upload`], [`tags`], [`delete`]: what is done with a registry.
//! - [`download`]: a blob's bytes as they come, large ones over several connections where [`lanes`]
//!   finds that better.
//! - [`registry`]: open registries, and a repository in one of them.
//! - [`client`], [`message`]: requests, redirects, HTTPS or not. [`challenge`], [`auth`]: who we are.
//! - [`config`]: files that say how registries are reached. [`credentials`]: files and programs that
//!   know who we are. [`login`]: putting us there.
//! - [`tls`]: certificates. [`errors`]: words and kinds of failures.

mod auth;
mod challenge;
mod client;
mod config;
mod credentials;
mod delete;
mod destination;
mod download;
mod errors;
mod exchange;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod lanes;
mod login;
mod message;
mod mirrors;
mod options;
mod reference;
mod registry;
mod sending;
mod source;
mod tags;
mod tls;
mod trial;
mod upload;
mod uploads;

use std::sync::Arc;

use diolkos_sdk::{ImageRef, Plugin, Result, Transport};

/// The `docker:` transport.
#[derive(Default)]
pub struct Docker {
    registries: Arc<registry::Registries>,
}

impl Transport for Docker {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(reference::DockerRef::parse(details, &self.registries)?))
    }

    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        (name == diolkos_sdk::login::NAME)
            .then(|| diolkos_sdk::login::answer(&login::DockerLogins, input))
    }
}

/// Makes the plugin.
pub fn plugin() -> Plugin {
    Plugin::new().with("docker", Docker::default())
}

diolkos_sdk::export_plugin!(plugin);
