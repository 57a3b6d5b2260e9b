//! Registries that are in use, and a repository in one of them.
//!
//! A registry that is reached twice with the same options is one [`Client`]: connections, tokens
//! and the answer to "HTTPS or not" are found out once. Who we are may depend on the repository, and
//! is an [`Auth`] of its own. The runtime is the library's own and
//! lives as long as the process.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diolkos_sdk::aio::Runtime;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{Digest, Host, Reference, Result, Session};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};

use crate::auth::{Auth, Purse};
use crate::client::Client;
use crate::config::places::Places;
use crate::message::{Payload, Request, Response, Target};
use crate::options::Options;

/// The registries that a transport has reached so far.
#[derive(Default)]
pub(crate) struct Registries {
    clients: Mutex<HashMap<(String, bool, Options), Arc<Client>>>,
    auths: Mutex<HashMap<(String, bool, Options, Purse), Arc<Auth>>>,
}

impl Registries {
    /// Returns a repository to write to, delete from or list; nothing is sent yet.
    pub fn repository(&self, name: &Reference, session: &Session) -> Result<Repository> {
        let options = Options::of(session)?;
        self.at(name, false, &options, session)
    }

    /// Returns the places that an image can be read from, in the order to try them.
    pub fn sources(&self, name: &Reference, session: &Session) -> Result<Vec<Repository>> {
        Ok(vec![self.repository(name, session)?])
    }

    fn at(
        &self,
        name: &Reference,
        insecure: bool,
        options: &Options,
        session: &Session,
    ) -> Result<Repository> {
        let verify = options.tls_verify.unwrap_or(!insecure);
        let key = (name.domain().to_owned(), verify, options.clone());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = if let Some(client) = clients.get(&key) {
            client.clone()
        } else {
            let client = Arc::new(Client::new(&key.0, verify, options)?);
            clients.insert(key.clone(), client.clone());
            client
        };
        drop(clients);
        let purse = match &options.credentials {
            Some(given) => Purse::Given(given.clone()),
            None => Purse::Files {
                key: name.name(),
                places: Places::current(),
                auth_file: options.auth_file.clone(),
                helpers: Vec::new(),
            },
        };
        let (domain, verify, options) = key;
        let mut auths = self.auths.lock().unwrap_or_else(PoisonError::into_inner);
        let auth = auths
            .entry((domain, verify, options.clone(), purse.clone()))
            .or_insert_with(|| Arc::new(Auth::new(purse, &options, client.challenge.clone())))
            .clone();
        Ok(Repository {
            name: name.clone(),
            client,
            auth,
            idle_timeout: options.idle_timeout,
            runtime: runtime()?,
            host: session.host.clone(),
        })
    }
}

fn runtime() -> Result<Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.clone());
    }
    // Two threads may come here at once; the slower one's runtime is dropped unused.
    let runtime = Runtime::new("docker")?;
    Ok(RUNTIME.get_or_init(|| runtime).clone())
}

/// What is done to a repository, for the scope of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
    Delete,
}

/// A repository as one session uses it.
#[derive(Clone)]
pub(crate) struct Repository {
    /// The reference: tag or digest included.
    pub name: Reference,
    pub client: Arc<Client>,
    pub auth: Arc<Auth>,
    pub idle_timeout: Duration,
    pub runtime: Runtime,
    pub host: Host,
}

/// The types of manifests that are asked for, each in a line of its own as other clients do.
const MANIFEST_TYPES: [&str; 6] = [
    media_type::OCI_MANIFEST,
    media_type::DOCKER_V2S2,
    media_type::DOCKER_V2S1_SIGNED,
    media_type::DOCKER_V2S1,
    media_type::DOCKER_LIST,
    media_type::OCI_INDEX,
];

impl Repository {
    /// Runs a future; gives up when the host cancels.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(&self.host, future)
    }

    /// Begins a request to this repository; `rest` follows its path: `/blobs/…`.
    pub fn request(&self, method: Method, rest: &str, access: Access) -> Request {
        let path = format!("/v2/{}{rest}", self.name.path());
        Request::new(method, Target::Path(path))
            .scope(self.scope(access))
            .patience(Some(self.idle_timeout))
    }

    /// Begins a request for a manifest, which says what types we know.
    pub fn manifest_request(&self, method: Method, what: &str, access: Access) -> Request {
        let request = self.request(method, &format!("/manifests/{what}"), access);
        MANIFEST_TYPES.iter().fold(request, |request, media_type| {
            request.header(ACCEPT, HeaderValue::from_static(media_type))
        })
    }

    /// Begins the upload of a manifest.
    pub fn manifest_upload(&self, what: &str, media_type: HeaderValue, bytes: Bytes) -> Request {
        self.request(Method::PUT, &format!("/manifests/{what}"), Access::Push)
            .header(HeaderName::from_static("content-type"), media_type)
            .payload(Payload::Bytes(bytes))
    }

    /// Sends a request and returns the answer, whatever its status.
    pub async fn send(&self, request: Request) -> Result<Response> {
        self.client.send(&self.auth, &self.host, request).await
    }

    /// Returns a token's scope for this repository.
    pub fn scope(&self, access: Access) -> String {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
            Access::Delete => "*",
        };
        format!("repository:{}:{actions}", self.name.path())
    }

    /// Returns what the reference names in this repository: its digest or its tag.
    pub fn tag_or_digest(&self) -> Option<&str> {
        self.name.digest().map(Digest::as_str).or(self.name.tag())
    }
}
