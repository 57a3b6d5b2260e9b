//! A small OCI registry in this process, for tests, the demo and counting requests.
//!
//! It keeps everything in memory and follows the distribution-spec for push, pull, mount, ranges,
//! tags and deletion, so that any client works with it. Beyond that it can do what real ones
//! cannot: say which requests it was sent, show its content, and fail in a chosen way.
//!
//! Why its own: the registries that exist as crates lack mounts, tag lists or names with more
//! than two parts, and none counts requests or injects faults. It needs nothing but the standard
//! library's sockets. Speed and persistence are not among its aims; benchmarks run against a
//! real registry.
//!
//! Requests and responses are in `http`, what the paths mean in `api`, content in `store`, who
//! may do what in `access`, and failures in `faults`.

mod access;
mod api;
mod faults;
mod http;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use access::Access;
pub use faults::Fault;
use faults::Faults;
use http::{Connection, Response};
pub use store::Manifest;
use store::Store;

/// A registry that lives until it is dropped.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What all connections see.
struct Shared {
    address: SocketAddr,
    access: Access,
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Logged>>,
    connections: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
}

/// A request that the registry answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The method, such as `GET`.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The response's status; 0 when the connection was cut instead.
    pub status: u16,
    /// The `User-Agent` header, if there was one.
    pub user_agent: Option<String>,
}

impl Registry {
    /// Starts a registry that lets everybody do everything.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Access::Open)
    }

    /// Starts a registry on a free loopback port.
    pub fn start_with(access: Access) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            address,
            access,
            store: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            connections: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let for_connections = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &for_connections));
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Returns `127.0.0.1:PORT`, which references start with.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the reference `docker://HOST/REST`.
    pub fn reference(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.address)
    }

    /// Returns all requests since the start or the last [`Registry::forget_requests`].
    pub fn requests(&self) -> Vec<Logged> {
        lock(&self.shared.requests).clone()
    }

    /// Starts a new count.
    pub fn forget_requests(&self) {
        lock(&self.shared.requests).clear();
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

    /// Lets the next `times` requests fail that use `method` and whose path holds `part`.
    pub fn inject(&self, method: &str, part: &str, times: usize, fault: Fault) {
        lock(&self.shared.faults).add(method, part, times, fault);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor; if the port is gone there is nobody to wake.
        let _ = TcpStream::connect(self.address);
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// A failed assertion in another thread must not fail this one too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if let Ok(copy) = stream.try_clone() {
            lock(&shared.connections).push(copy);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that goes away is its own business.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// Answers the requests of one connection, one after the other.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(request) = connection.read_request()? {
        let fault = lock(&shared.faults).take(&request.method, &request.path);
        let log = |status| {
            lock(&shared.requests).push(Logged {
                method: request.method.clone(),
                target: request.target.clone(),
                status,
                user_agent: request.header("user-agent").map(str::to_owned),
            });
        };
        match fault {
            Some(Fault::Hang(time)) => std::thread::sleep(time),
            Some(Fault::Disconnect) => {
                log(0);
                return Ok(());
            }
            Some(Fault::Status { status, code, retry_after }) => {
                let mut response = Response::error(status, &code, "injected");
                if let Some(seconds) = retry_after {
                    response = response.with("Retry-After", seconds.to_string());
                }
                log(status);
                connection.write_response(&request, &response, None)?;
                if request.wants_close() {
                    return Ok(());
                }
                continue;
            }
            Some(Fault::CutAfter(_) | Fault::FlipByte(_)) | None => {}
        }
        let mut response = shared
            .access
            .refusal(&request, shared.address)
            .unwrap_or_else(|| api::answer(&request, &shared.store));
        if let Some(Fault::FlipByte(at)) = fault {
            response.flip(at);
        }
        let cut = if let Some(Fault::CutAfter(bytes)) = fault { Some(bytes) } else { None };
        log(response.status);
        connection.write_response(&request, &response, cut)?;
        if cut.is_some() || request.wants_close() {
            return Ok(());
        }
    }
    Ok(())
}
