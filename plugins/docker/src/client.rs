//! Requests to one registry: repeated where that helps, with credentials where they are asked for.
//!
//! - [`Client::send`] returns any answer of the registry; what its status means is the caller's
//!   affair. A challenge is answered and the request repeated where its body allows.
//! - Passing failures (429, 503, other answers of overloaded servers, broken connections) are
//!   repeated here, request by request, as [`crate::gate`] decides. A request that is part of an
//!   upload is not: what the registry has of it must be found out first ([`crate::upload`]).
//! - With verification off, the first request tries HTTPS, then HTTP; what worked is kept.
//!
//! One request's way, redirects included, is in [`crate::exchange`].

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use diolkos_network::proxies::Proxies;
use diolkos_sdk::{Error, ErrorKind, Host, Result};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, Proxy, StatusCode, Url, redirect};
use rustls::ClientConfig;

use crate::auth::{Auth, Authorization, SharedChallenge};
use crate::challenge::Challenge;
use crate::exchange::{Followed, authority_of};
use crate::gate::{Gate, LONGEST_PAUSE, Why};
use crate::lanes::Lanes;
use crate::message::{Payload, Repeated, Request, Response, Target, drain};
use crate::options::Options;
use crate::trial::Trial;
use crate::{errors, tls};

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often one request is repeated with other credentials.
const MAX_ANSWERS: u32 = 3;
/// A pause that the user should know of.
const NOTICEABLE: Duration = Duration::from_secs(5);

/// A registry that is in use.
pub(crate) struct Client {
    settings: Settings,
    http: reqwest::Client,
    /// Makes a connection for each request.
    fresh: OnceLock<reqwest::Client>,
    /// Host and port that are connected to.
    authority: String,
    /// The host alone, without which credentials are not sent.
    home: String,
    tls_verify: bool,
    pub(crate) scheme: AtomicU8,
    /// Whether the registry has ever answered.
    pub(crate) answered: AtomicBool,
    /// What the registry asked for, shared by all who use it.
    pub challenge: SharedChallenge,
    asked_for_challenge: AtomicBool,
    warnings: Mutex<HashSet<String>>,
    /// How this registry takes blobs, once that is known.
    pub upload_mode: AtomicU8,
    /// Whether connections to this registry have carried many bytes in a row.
    pub trial: Trial,
    /// The size of the pieces in which this registry, or the network before it, takes blobs; 0
    /// while it takes them whole.
    pub piece_size: AtomicUsize,
    /// The least size of pieces that the registry wants.
    pub least_piece: AtomicUsize,
    /// The connections that its large blobs come over.
    pub lanes: Arc<Lanes>,
    /// Whether this registry refused to hear of mounting.
    pub refuses_mounts: AtomicBool,
}

/// What connections are made with.
struct Settings {
    tls: ClientConfig,
    user_agent: String,
    idle_timeout: Duration,
}

impl Settings {
    fn http(&self, idle_connections: usize) -> Result<reqwest::Client> {
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            // A registry may take its time while it stores what it has.
            .tcp_user_timeout(self.idle_timeout * 2)
            .pool_max_idle_per_host(idle_connections)
            .user_agent(&self.user_agent)
            .proxy(Proxy::custom(|url| Proxies::current().of(url).cloned()));
        builder.build().map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot set up the HTTP client").with_source(error)
        })
    }
}

/// States of [`Client::scheme`].
pub(crate) const UNKNOWN: u8 = 0;
pub(crate) const HTTPS: u8 = 1;
pub(crate) const HTTP: u8 = 2;

impl Client {
    /// Prepares to reach a registry, by the host that users name.
    pub fn new(domain: &str, tls_verify: bool, options: &Options, host: &Host) -> Result<Self> {
        let authority = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let url = Url::parse(&format!("https://{authority}/"))
            .map_err(|error| invalid(format!("invalid registry `{domain}`: {error}")))?;
        let home = url.host_str().unwrap_or_default().to_owned();
        Proxies::current().check(&url)?;
        if !tls_verify && let Ok(plain) = Url::parse(&format!("http://{authority}/")) {
            Proxies::current().check(&plain)?;
        }
        let settings = Settings {
            tls: tls::config(domain, tls_verify, options, host)?,
            user_agent: options.user_agent.clone(),
            idle_timeout: options.idle_timeout,
        };
        let http = settings.http(usize::MAX)?;
        Ok(Self {
            settings,
            http,
            fresh: OnceLock::new(),
            authority: authority.to_owned(),
            home,
            tls_verify,
            scheme: AtomicU8::new(if tls_verify { HTTPS } else { UNKNOWN }),
            answered: AtomicBool::new(false),
            challenge: Arc::default(),
            asked_for_challenge: AtomicBool::new(false),
            warnings: Mutex::default(),
            upload_mode: AtomicU8::new(0),
            trial: Trial::default(),
            piece_size: AtomicUsize::new(0),
            least_piece: AtomicUsize::new(0),
            lanes: Arc::default(),
            refuses_mounts: AtomicBool::new(false),
        })
    }

    /// Returns what sends requests: over connections that are kept, or each over one of its own.
    pub(crate) fn http(&self, fresh: bool) -> &reqwest::Client {
        if !fresh {
            return &self.http;
        }
        // The settings have made a client before.
        self.fresh.get_or_init(|| self.settings.http(0).unwrap_or_else(|_| self.http.clone()))
    }

    /// Tells whether nothing secret may go out without TLS, whatever the registry says.
    pub fn insists_on_tls(&self) -> bool {
        self.tls_verify
    }

    /// Tells whether a URL is on the registry's own host.
    pub fn is_home(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.home)
    }

    /// Returns host and port that are connected to.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends a request and returns the answer, whatever its status.
    ///
    /// # Errors
    /// No answer, too many redirects, no token. [`ErrorKind::Unavailable`] also when credentials
    /// ran out while a body was sent that cannot be sent again.
    pub async fn send(&self, auth: &Auth, host: &Host, mut request: Request) -> Result<Response> {
        let mut answers = 0;
        loop {
            let authorization = if request.credentials {
                auth.authorization(self, host, &request.scopes).await?
            } else {
                None
            };
            let followed =
                self.patiently(host, &mut request, authorization.as_ref(), &self.home).await?;
            let Followed { mut response, own } = followed;
            if !request.credentials || !own {
                return Ok(response);
            }
            let again = answers < MAX_ANSWERS
                && match response.status() {
                    StatusCode::UNAUTHORIZED => {
                        let challenges = Challenge::of(response.headers());
                        auth.answer(challenges, authorization, &mut request.scopes, host).await?
                    }
                    // Some registries hide what is private from the anonymous, without a challenge.
                    StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if authorization.is_none() => {
                        self.ask_for_challenge(auth, host).await?
                    }
                    _ => false,
                };
            if !again {
                if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    response.extensions_mut().insert(auth.provenance(host));
                }
                return Ok(response);
            }
            if matches!(request.payload, Payload::Spent) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the registry asked for new credentials while data was sent",
                )
                // They are at hand now, and the host can send the data again.
                .with_retry_after(Duration::ZERO));
            }
            drain(response).await;
            answers += 1;
        }
    }

    /// Asks the registry for a challenge, once, if there are credentials to answer it with.
    async fn ask_for_challenge(&self, auth: &Auth, host: &Host) -> Result<bool> {
        if self.asked_for_challenge.load(Ordering::Relaxed)
            || !auth.has_credentials(host)?
            || self.asked_for_challenge.swap(true, Ordering::Relaxed)
        {
            return Ok(false);
        }
        let mut ping = Request::new(Method::GET, Target::Path("/v2/".into()));
        let Ok(Followed { response, own: true }) =
            self.patiently(host, &mut ping, None, &self.home).await
        else {
            return Ok(false);
        };
        let challenges = Challenge::of(response.headers());
        drain(response).await;
        auth.answer(challenges, None, &mut Vec::new(), host).await
    }

    /// Sends a request to a token server and returns the answer, whatever its status.
    pub async fn send_elsewhere(
        &self,
        host: &Host,
        mut request: Request,
        authorization: Option<&Authorization>,
    ) -> Result<Response> {
        let home = match &request.target {
            Target::Url(url) => url.host_str().unwrap_or_default().to_owned(),
            Target::Path(_) => self.home.clone(),
        };
        Ok(self.patiently(host, &mut request, authorization, &home).await?.response)
    }

    /// Sends a request, again where it failed for a passing reason and can be repeated.
    async fn patiently(
        &self,
        host: &Host,
        request: &mut Request,
        authorization: Option<&Authorization>,
        home: &str,
    ) -> Result<Followed> {
        let mut tries = 0;
        loop {
            let mut outcome = self.follow(host, request, authorization, home).await;
            if let Ok(followed) = &mut outcome
                && (tries > 0 || request.was_repeated)
            {
                followed.response.extensions_mut().insert(Repeated);
            }
            let (why, authority, what) = match &outcome {
                Ok(Followed { response, .. }) => {
                    let authority = authority_of(response.url());
                    let Some(why) = why_again(response) else {
                        Gate::of(&authority).succeeded();
                        return outcome.map_err(|unanswered| unanswered.error);
                    };
                    (why, authority, response.status().to_string())
                }
                Err(unanswered) => match &unanswered.again {
                    Some((why, authority)) => {
                        (*why, authority.clone(), unanswered.error.message().to_owned())
                    }
                    None => return outcome.map_err(|unanswered| unanswered.error),
                },
            };
            let gate = Gate::of(&authority);
            let pause = if request.is_repeatable() {
                gate.again(why, tries)
            } else {
                gate.close_for(why, tries);
                None
            };
            let Some(pause) = pause else {
                if let Ok(Followed { response, .. }) = &mut outcome
                    && tries > 0
                    && errors::retry_after(response.headers()).is_some_and(|it| it <= LONGEST_PAUSE)
                {
                    // It was heeded, and whoever gets this answer need not do so again.
                    response.headers_mut().remove(RETRY_AFTER);
                }
                return outcome.map_err(|unanswered| {
                    let times = if tries == 1 { "once" } else { "several times" };
                    match tries {
                        0 => unanswered.error,
                        _ => unanswered.error.context(format!("tried again {times}, in vain")),
                    }
                });
            };
            if let Ok(Followed { response, .. }) = outcome {
                drain(response).await;
            }
            let message = format!(
                "{authority}: {what}; {} is tried again in {:.1} seconds",
                request.method,
                pause.as_secs_f64()
            );
            if pause >= NOTICEABLE {
                host.warn(message);
            } else {
                host.info(message);
            }
            if !matches!(why, Why::Limited(_)) {
                tokio::time::sleep(pause).await;
            }
            tries += 1;
        }
    }

    pub(crate) fn show_warnings(&self, host: &Host, url: &Url, response: &Response) {
        for value in response.headers().get_all("warning") {
            // The agent `-` and the code 299: a message for people.
            let text = value.to_str().ok().and_then(|text| text.strip_prefix("299 - \""));
            if let Some(text) = text.and_then(|text| text.strip_suffix('"'))
                && self.first_time(text)
            {
                host.warn(format!(
                    "Warning from registry (first encountered at {:?}): {text:?}",
                    errors::redact(url)
                ));
            }
        }
    }

    /// Tells whether a registry's warning is new.
    fn first_time(&self, warning: &str) -> bool {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.insert(warning.to_owned())
    }
}

/// Tells why an answer is worth asking for again, if it is.
fn why_again(response: &Response) -> Option<Why> {
    let asked = || errors::retry_after(response.headers());
    match response.status().as_u16() {
        429 => Some(Why::Limited(asked())),
        503 => Some(asked().map_or(Why::Failed, |delay| Why::Limited(Some(delay)))),
        408 | 425 | 500 | 502 | 504 => Some(Why::Failed),
        _ => None,
    }
}

pub(crate) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
