//! Requests to a daemon, and what went wrong with them.
//!
//! The client behind them is the one that registries are reached with; of Docker's API, only what
//! three requests need is here. They carry the newest version of the API that both sides know.
//!
//! # Source
//! Docker Engine API, "Versioning", "Errors", "Images".

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use diolkos_network::failures::{self, Cause, Hints};
use diolkos_network::proxies::Proxies;
use diolkos_network::tls::{self, Allowed, Certificates};
use diolkos_sdk::aio::Runtime;
use diolkos_sdk::{Error, ErrorKind, Host, Result, Session};
use reqwest::{Method, Proxy, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::endpoint::{Address, Endpoint};
use crate::ssh::Tunnel;

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the first request is sent through TLS.
const PINGS: u32 = 3;
/// How often a quiet connection is checked while a daemon works.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The newest version of the API whose requests are as we make them.
const NEWEST: Version = Version(1, 51);
/// What daemons speak that do not say.
const OLDEST: Version = Version(1, 24);
/// Since when an image of several platforms is saved as one of them.
pub(crate) const WITH_PLATFORM: Version = Version(1, 48);
/// The longest answer in JSON, in bytes.
const MAX_JSON: usize = 32 << 20;
/// The longest answer that is read for its message, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

const HINTS: Hints = Hints {
    not_listening: "check the daemon's host and port, and that it is running",
    no_host: "check the daemon's host, and that this machine can resolve names",
    without_tls: "write http:// in place of tcp:// if the daemon is meant to be reached without TLS",
    unknown_authority: "give a directory with the authority's certificate as ca.pem with \
                        --cert-dir, or --tls-verify=false if the network is trusted",
    client_certificate: "the daemon wants a certificate that it knows: give a directory with \
                         cert.pem and key.pem with --cert-dir",
    proxy: "check HTTP_PROXY and HTTPS_PROXY, or name the daemon's host in NO_PROXY",
};

/// A daemon that is in use; clones share its connections.
#[derive(Clone)]
pub(crate) struct Daemon(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// What stands before the path of every request.
    base: Url,
    /// The address, for messages.
    shown: String,
    runtime: Runtime,
    host: Host,
    spoken: OnceCell<Spoken>,
    tunnel: Option<Tunnel>,
}

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// What a daemon says of itself.
#[derive(Clone, Copy)]
struct Spoken {
    version: Version,
    is_docker: bool,
}

/// What a daemon says when it does not do what it was asked.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Daemon {
    /// Prepares to reach a daemon; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for certificates that are of no use.
    pub fn new(endpoint: &Endpoint, session: &Session) -> Result<Self> {
        let known = match &endpoint.tls {
            Some(tls) => tls.certificates()?,
            None => Certificates::default(),
        };
        // Without TLS, the settings for it are not used, and not worth reading authorities for.
        let verify = endpoint.tls.as_ref().is_some_and(|tls| tls.verify);
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(Allowed::default(), verify, known)?)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .user_agent(concat!("diolkos/", env!("CARGO_PKG_VERSION")));
        let mut tunnel = None;
        let base = match &endpoint.address {
            Address::Unix(path) => {
                builder = builder.no_proxy().unix_socket(path.as_path());
                "http://localhost".to_owned()
            }
            Address::Ssh(far) => {
                let opened = Tunnel::open(far, session)?;
                builder = builder.no_proxy().unix_socket(opened.path());
                tunnel = Some(opened);
                "http://localhost".to_owned()
            }
            Address::Tcp { authority, prefix } => {
                let scheme = if endpoint.tls.is_some() { "https" } else { "http" };
                let proxy = Proxy::custom(|url| Proxies::current().of(url).cloned());
                builder = builder.proxy(proxy);
                format!("{scheme}://{authority}{prefix}")
            }
        };
        let base = Url::parse(&base).map_err(|error| {
            let message = format!("{} is no address of a Docker daemon", endpoint.shown);
            Error::new(ErrorKind::InvalidInput, message).with_source(error)
        })?;
        // Sockets have an address of this machine, for which no proxy is used.
        Proxies::current().check(&base)?;
        let http = builder.build().map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot set up the HTTP client").with_source(error)
        })?;
        Ok(Self(Arc::new(Inner {
            http,
            base,
            shown: endpoint.shown.clone(),
            runtime: Runtime::new("docker-daemon")?,
            host: session.host.clone(),
            spoken: OnceCell::new(),
            tunnel,
        })))
    }

    /// Returns the threads that requests run on.
    pub fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    /// Returns the host's services.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Returns the version of the API that is spoken; asked for once.
    pub async fn version(&self) -> Result<Version> {
        Ok(self.spoken().await?.version)
    }

    /// Tells whether it is Docker, and not something else that speaks its language.
    pub async fn is_docker(&self) -> Result<bool> {
        Ok(self.spoken().await?.is_docker)
    }

    async fn spoken(&self) -> Result<Spoken> {
        let ask = || async {
            let mut tries = 0;
            let response = loop {
                tries += 1;
                match self.0.http.get(self.url("/_ping")).send().await {
                    Ok(response) => break response,
                    // What a server says that does not want us may come too late to be read.
                    Err(error) if tries < PINGS && self.has_tls() && !error.is_connect() => {}
                    Err(error) => return Err(self.unanswered(&error)),
                }
            };
            let header = |name| response.headers().get(name).and_then(|it| it.to_str().ok());
            let told = header("api-version").and_then(Version::parse);
            let is_docker = header("server").is_some_and(|name| name.starts_with("Docker/"));
            let response = self.checked(response).await?;
            // Read to its end, the connection is there for the next request.
            self.text(response).await;
            let version = told.unwrap_or(OLDEST).min(NEWEST);
            self.0.host.debug(format!("the daemon speaks version {version} of its API"));
            Ok(Spoken { version, is_docker })
        };
        self.0.spoken.get_or_try_init(ask).await.copied()
    }

    /// Asks for something that is answered in JSON; `None` for what is not there.
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let response = self.sent(self.versioned(Method::GET, path, &[]).await?).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut response = self.checked(response).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unanswered(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_JSON {
                let message = format!("the daemon's answer to {path} is larger than it may be");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        serde_json::from_slice(&body).map(Some).map_err(|error| {
            let message = format!("the daemon's answer to {path} makes no sense");
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        })
    }

    /// Begins a request to a path of the version that both sides know.
    pub async fn versioned(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder> {
        let mut url = self.url(&format!("/v{}{path}", self.version().await?));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.0.http.request(method, url))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.0.base.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        url
    }

    fn has_tls(&self) -> bool {
        self.0.base.scheme() == "https"
    }

    /// Sends a request, and takes any answer.
    pub async fn sent(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| self.unanswered(&error))
    }

    /// Makes an error of an answer that is no success, in the daemon's own words.
    pub async fn checked(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.text(response).await;
        let words = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.message.trim().to_owned(),
            Err(_) => String::from_utf8_lossy(&body).trim().chars().take(300).collect(),
        };
        let kind = match status.as_u16() {
            401 | 403 => ErrorKind::Denied,
            404 => ErrorKind::NotFound,
            429 => ErrorKind::RateLimited,
            502..=504 => ErrorKind::Unavailable,
            _ => ErrorKind::Unsupported,
        };
        let words = if words.is_empty() { status.to_string() } else { words };
        let error = Error::new(kind, format!("Error response from daemon: {words}"));
        let wants_tls = words.contains("HTTP request to an HTTPS server");
        Err(if wants_tls {
            error.with_hint("write tcp:// in place of http://, or set DOCKER_TLS_VERIFY=1")
        } else {
            error
        })
    }

    /// Reads an answer that should be short, as far as it comes.
    async fn text(&self, mut response: Response) -> Vec<u8> {
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_MESSAGE {
                body.truncate(MAX_MESSAGE);
                break;
            }
        }
        body
    }

    /// Makes the error of a request that got no answer, or half of one.
    pub fn unanswered(&self, error: &reqwest::Error) -> Error {
        if let Some(why) = self.0.tunnel.as_ref().and_then(Tunnel::failure) {
            return Error::new(ErrorKind::Unavailable, self.cannot_connect()).with_source(why);
        }
        let io = failures::find::<io::Error>(error).map(io::Error::kind);
        let is_tls = failures::find::<rustls::Error>(error).is_some();
        if error.is_connect() && !is_tls && !self.has_proxy() {
            if io == Some(io::ErrorKind::PermissionDenied) {
                let message = format!(
                    "permission denied while trying to connect to the Docker daemon socket at {}",
                    self.0.shown
                );
                return Error::new(ErrorKind::Denied, message)
                    .with_hint("run as root or as a member of the socket's group");
            }
            let hint = match io {
                Some(io::ErrorKind::NotFound) => {
                    "start it, or name another one with --daemon-host or DOCKER_HOST"
                }
                _ => "start it, and check its address",
            };
            let is_absent = io == Some(io::ErrorKind::NotFound);
            let kind = if is_absent { ErrorKind::NotFound } else { ErrorKind::Unavailable };
            let cannot = Error::new(kind, self.cannot_connect()).with_hint(hint);
            if is_absent || io == Some(io::ErrorKind::ConnectionRefused) {
                return cannot;
            }
            return cannot.with_source(self.cause(error).text);
        }
        let Cause { kind, text, hint } = self.cause(error);
        let message = format!("error during connect to {}: {text}", self.0.shown);
        let error = Error::new(kind, message);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// Tells whether it is reached through a proxy, which then is what cannot be reached.
    fn has_proxy(&self) -> bool {
        Proxies::current().of(&self.0.base).is_some()
    }

    fn cannot_connect(&self) -> String {
        format!(
            "Cannot connect to the Docker daemon at {}. Is the docker daemon running?",
            self.0.shown
        )
    }

    fn cause(&self, error: &reqwest::Error) -> Cause {
        Cause::of(&self.0.base, error, &HINTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_not_text() {
        assert!(Version::parse("1.9") < Version::parse("1.41"));
        assert_eq!(Version::parse("1.41"), Some(Version(1, 41)));
        for bad in ["", "1", "1.", ".4", "1.4.1", "x.y"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }
}
