//! A small OCI registry in this process, for tests, the demo and counting requests.
//!
//! It keeps everything in memory and follows the distribution-spec for push, pull, mount, ranges,
//! resumed uploads, tags and deletion, so that any client works with it. Beyond that it can do
//! what real ones cannot: say which requests it was sent, show its content, and fail or be odd in
//! a chosen way.
//!
//! Why its own: the registries that exist as crates lack mounts, tag lists or names with more
//! than two parts, and none counts requests or injects faults. It needs nothing but the standard
//! library's sockets. Speed and persistence are not among its aims; benchmarks run against a
//! real registry.
//!
//! One request from its head to its answer is in `serve` and `turns`, what the paths mean in `api` and
//! `uploads`, content in `store`, who may do what in `access` and `tokens`, and failures in
//! `faults` and `answer`.

mod access;
mod answer;
mod api;
mod faults;
mod serve;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod turns;
mod uploads;

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use access::Access;
use access::Gate;
pub use answer::Answer;
pub use faults::Fault;
use faults::Faults;
pub use serve::Logged;
pub use store::Manifest;
use store::Store;
pub use tokens::Tokens;
use turns::Turns;

use crate::http::Traffic;
use crate::listener::Listener;
use crate::lock;

/// A registry that lives until it is dropped.
pub struct Registry {
    listener: Listener,
    shared: Arc<Shared>,
}

/// What all connections see.
struct Shared {
    gate: Gate,
    store: Arc<Mutex<Store>>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Logged>>,
    traffic: Traffic,
    turns: Turns,
    start: Instant,
}

impl Registry {
    /// Starts a registry that lets everybody do everything.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Access::Open)
    }

    /// Starts a registry on a free loopback port.
    pub fn start_with(access: Access) -> io::Result<Self> {
        Self::launch(Ipv4Addr::LOCALHOST, access, Arc::default())
    }

    /// Starts another host for the same content, open to everybody, such as registries keep
    /// their blobs on. It has its own log and its own faults.
    pub fn start_storage(&self, ip: Ipv4Addr) -> io::Result<Self> {
        Self::launch(ip, Access::Open, Arc::clone(&self.shared.store))
    }

    fn launch(ip: Ipv4Addr, access: Access, store: Arc<Mutex<Store>>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: Gate::new(access),
            store,
            faults: Mutex::default(),
            requests: Mutex::default(),
            traffic: Traffic::default(),
            turns: Turns::default(),
            start: Instant::now(),
        });
        let for_connections = Arc::clone(&shared);
        let listener = Listener::start(ip, move |stream| serve::serve(stream, &for_connections))?;
        Ok(Self { listener, shared })
    }

    /// Returns `127.0.0.1:PORT`, which references start with.
    pub fn host(&self) -> String {
        self.listener.address().to_string()
    }

    /// Returns the reference `docker://HOST/REST`.
    pub fn reference(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.host())
    }

    /// Returns all requests since the start or the last [`Registry::forget_requests`].
    pub fn requests(&self) -> Vec<Logged> {
        lock(&self.shared.requests).clone()
    }

    /// Returns the requests of a method whose path and query hold `part`.
    pub fn requests_of(&self, method: &str, part: &str) -> Vec<Logged> {
        let mut requests = self.requests();
        requests.retain(|one| one.method == method && one.target.contains(part));
        requests
    }

    /// Returns how many bytes of bodies were received, broken ones included.
    pub fn received(&self) -> u64 {
        self.shared.traffic.received()
    }

    /// Returns how many bytes of bodies were sent.
    pub fn sent(&self) -> u64 {
        self.shared.traffic.sent()
    }

    /// Returns how many tokens were handed out.
    pub fn tokens(&self) -> usize {
        self.shared.gate.tokens()
    }

    /// Starts a new count, of requests and bytes.
    pub fn forget_requests(&self) {
        lock(&self.shared.requests).clear();
        self.shared.traffic.reset();
    }

    /// Returns a manifest by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        lock(&self.shared.store).manifest(repository, reference).cloned()
    }

    /// Returns a blob of a repository.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        lock(&self.shared.store).blob(repository, digest)
    }

    /// Returns the digests of all manifests and all blobs of a repository, sorted.
    pub fn digests(&self, repository: &str) -> (Vec<String>, Vec<String>) {
        lock(&self.shared.store).digests(repository)
    }

    /// Returns the tags of a repository, sorted.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        lock(&self.shared.store).tags(repository).unwrap_or_default()
    }

    /// Puts a blob in place without a request; returns its digest.
    pub fn seed_blob(&self, repository: &str, content: Vec<u8>) -> String {
        lock(&self.shared.store).add_blob(repository, content)
    }

    /// Puts a manifest in place without a request and without checks; returns its digest.
    pub fn seed_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> String {
        lock(&self.shared.store).add_manifest(repository, tag, media_type, bytes)
    }

    /// Removes a blob from a repository, as a broken registry might have lost it.
    pub fn lose_blob(&self, repository: &str, digest: &str) {
        lock(&self.shared.store).remove_blob(repository, digest);
    }

    /// Lets the next `times` requests fail that use `method` and whose path or query holds `part`.
    ///
    /// Of several failures that fit, the one that was asked for first happens alone. An empty
    /// method is any.
    pub fn inject(&self, method: &str, part: &str, times: usize, fault: Fault) {
        lock(&self.shared.faults).add(method, part, Some(times), fault);
    }

    /// Makes a fault a habit: it happens to every such request, beside other habits and whatever
    /// is injected.
    pub fn always(&self, method: &str, part: &str, fault: Fault) {
        lock(&self.shared.faults).add(method, part, None, fault);
    }

    /// Forgets all faults that are still to happen, habits included.
    pub fn behave(&self) {
        lock(&self.shared.faults).clear();
    }
}
