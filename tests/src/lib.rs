//! What the end-to-end tests, the demo and the benchmarks share.
//!
//! The tests themselves are in `tests/`: they use the built program and its files, and no crate of
//! the workspace. This library gives them
//! - [`Home`]: a place to run programs in that nothing of this machine leaks into,
//! - [`Image`] and [`Layer`]: small real images, in every form they are stored in,
//! - [`Registry`]: a registry in this process that counts requests and fails on demand,
//! - [`Proxy`] and [`WebProxy`]: bad networks, and the proxies that the environment names,
//! - [`DockerRegistry`], [`DockerDaemon`] and [`Nginx`]: real servers, as processes of their own, with
//!   [`Authority`] for their certificates and [`TokenServer`] for their tokens,
//! - [`ScriptedDaemon`]: what fails as a Docker daemon may,
//! - [`Store`]: a store of podman's, and [`tree()`]: what is in a tree of files,
//! - [`require`]: other programs, whose absence skips a test, and fails it in CI.

mod http;
mod image;
mod layer;
mod layout;
mod listener;
mod measure;
mod peers;
mod program;
mod proxy;
mod registry;
mod scripted_daemon;
mod servers;
mod store;
mod tree;
mod web_proxy;

pub use image::{Format, Image, LayerForm, Packing, Platform};
pub use layer::Layer;
pub use layout::{Layout, directory_digests};
pub use measure::{noise, peak_memory};
pub use peers::{in_ci, is_root, require, require_root};
pub use program::{Home, Outcome, Run, built_program};
pub use proxy::{Network, Proxy};
pub use registry::{Access, Answer, Fault, Logged, Manifest, Registry, Tokens};
pub use scripted_daemon::{Script, ScriptedDaemon};
pub use servers::{
    Authority, DockerDaemon, DockerRegistry, KeyPair, Nginx, Site, Terms, TokenServer,
};
pub use store::{Store, killer};
pub use tree::{Entry, tree};
pub use web_proxy::WebProxy;

/// Returns the digest of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    use sha2::Digest as _;
    let mut text = String::from("sha256:");
    for byte in sha2::Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A failed assertion in another thread must not fail this one too.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
