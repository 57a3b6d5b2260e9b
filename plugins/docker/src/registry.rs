//! Registries that are in use, and a repository in one of them.
//!
//! A registry that is reached twice with the same options is one [`Client`]: connections, tokens
//! and the answer to "HTTPS or not" are found out once. Who we are may depend on the repository, and
//! is an [`Auth`] of its own. The runtime is the library's own and
//! lives as long as the process.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diolkos_sdk::aio::Runtime;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{Digest, ErrorKind, Host, Reference, Result, Session};
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use crate::auth::{Auth, Purse, Wallet};
use crate::client::Client;
use crate::config::places::Places;
use crate::config::registries_conf::{PullSource, RegistriesConf};
use crate::config::registries_d::RegistriesD;
use crate::credentials::AuthFiles;
use crate::exchange::authority_of;
use crate::gate::{Gate, Why};
use crate::message::{self, Payload, Request, Response, Target};
use crate::options::{Given, Options};

/// The registries that a transport has reached so far, and what configuration says of them.
#[derive(Default)]
pub(crate) struct Registries {
    /// By the file that the user named.
    confs: Mutex<HashMap<Option<PathBuf>, Arc<RegistriesConf>>>,
    clients: Mutex<HashMap<Way, Arc<Client>>>,
    auths: Mutex<HashMap<(Way, Purse), Arc<Auth>>>,
}

/// A way to a registry: its host, whether certificates are verified, and what the user wants.
type Way = (String, bool, Options);

/// A place that an image may be read from: its own, or a mirror.
pub(crate) struct Place {
    /// What the image is called there.
    pub name: Reference,
    /// How to get there; an error where that is forbidden or set up wrongly.
    pub repository: Result<Repository>,
}

impl Registries {
    /// Returns a repository to write to, delete from or list; nothing is sent yet.
    ///
    /// # Errors
    /// The registry is blocked, or a configuration file is broken.
    pub fn repository(&self, name: &Reference, session: &Session) -> Result<Repository> {
        let options = Options::of(session)?;
        let conf = self.conf(&options, &session.host)?;
        conf.check(name)?;
        self.at(&conf, &conf.direct(name), &options, session)
    }

    /// Returns the places that an image can be read from, in the order to try them; there is one at
    /// least.
    pub fn places(&self, name: &Reference, session: &Session) -> Result<Vec<Place>> {
        let options = Options::of(session)?;
        let conf = self.conf(&options, &session.host)?;
        let sources = conf.pull_sources(name)?;
        let place = |source: PullSource| {
            let mut options = options.clone();
            if source.reference.domain() != name.domain() {
                // What the user gave is for the registry that the user named.
                if options.given != Given::Nobody {
                    options.given = Given::Nothing;
                }
                options.registry_token = None;
            }
            let repository = conf
                .check(&source.reference)
                .and_then(|()| self.at(&conf, &source, &options, session));
            Place { name: source.reference, repository }
        };
        Ok(sources.into_iter().map(place).collect())
    }

    fn conf(&self, options: &Options, host: &Host) -> Result<Arc<RegistriesConf>> {
        let mut confs = self.confs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(conf) = confs.get(&options.registries_conf) {
            return Ok(conf.clone());
        }
        let places = Places::current();
        let conf = RegistriesConf::load(&places, options.registries_conf.as_deref())?;
        for note in conf.notes() {
            host.debug(note);
        }
        if let Some(dir) = &options.registries_d {
            // What is in there will count with signatures; that it makes sense, counts now.
            for note in RegistriesD::load(&places, Some(dir))?.notes() {
                host.debug(note);
            }
        }
        let conf = Arc::new(conf);
        confs.insert(options.registries_conf.clone(), conf.clone());
        Ok(conf)
    }

    fn at(
        &self,
        conf: &RegistriesConf,
        place: &PullSource,
        options: &Options,
        session: &Session,
    ) -> Result<Repository> {
        let name = &place.reference;
        let verify = options.tls_verify.unwrap_or(!place.insecure);
        let key = (name.domain().to_owned(), verify, options.clone());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = if let Some(client) = clients.get(&key) {
            client.clone()
        } else {
            let client = Arc::new(Client::new(&key.0, verify, options, &session.host)?);
            clients.insert(key.clone(), client.clone());
            client
        };
        drop(clients);
        let purse = match &options.given {
            Given::Somebody(credentials) => Purse::Given(Some(credentials.clone())),
            Given::Nobody => Purse::Given(None),
            Given::Nothing => {
                let places = Places::current();
                let files = AuthFiles::for_images(options.auth_file.as_deref(), &places);
                let helpers = conf.credential_helpers().to_vec();
                Purse::Files(Box::new(Wallet { key: name.name(), places, files, helpers }))
            }
        };
        let mut auths = self.auths.lock().unwrap_or_else(PoisonError::into_inner);
        let auth = auths
            .entry((key, purse.clone()))
            .or_insert_with(|| Arc::new(Auth::new(purse, options, client.challenge.clone())))
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

/// An answer that was read whole.
pub(crate) struct Whole {
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
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

    /// Sends a request for something small and reads the answer whole, again where it breaks off.
    /// What is not answered with 200 is for the caller.
    ///
    /// # Errors
    /// As [`Client::send`] and [`message::body`].
    pub async fn fetch(
        &self,
        request: impl Fn() -> Request,
        limit: usize,
    ) -> Result<Result<Whole, Response>> {
        let mut tries = 0;
        loop {
            let response = self.send(request()).await?;
            if response.status() != StatusCode::OK {
                return Ok(Err(response));
            }
            let (url, headers) = (response.url().clone(), response.headers().clone());
            let error = match message::body(response, limit).await {
                Ok(body) => return Ok(Ok(Whole { url, headers, body })),
                Err(error) => error,
            };
            let again = Gate::of(&authority_of(&url)).again(Why::Failed, tries);
            let Some(pause) = again.filter(|_| error.kind() == ErrorKind::Unavailable) else {
                return Err(error);
            };
            self.host.info(format!("{}; it is asked for again", error.message()));
            tokio::time::sleep(pause).await;
            tries += 1;
        }
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
