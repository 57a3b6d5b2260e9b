//! Requests to one registry: HTTPS or not, credentials, redirects, failures without an answer.
//!
//! - [`Client::send`] returns any answer of the registry; what its status means is the caller's
//!   affair. A challenge is answered and the request repeated where its body allows.
//! - Redirects are followed here, not by the HTTP library: credentials go to the registry's host
//!   and its subdomains only, and never from HTTPS to HTTP.
//! - With verification off, the first request tries HTTPS, then HTTP; what worked is kept.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use diolkos_sdk::{Error, ErrorKind, Host, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION};
use reqwest::{Method, StatusCode, Url, redirect};

use crate::auth::{Auth, Authorization};
use crate::challenge::Challenge;
use crate::message::{Payload, Request, Response, Target, drain, resolve};
use crate::options::Options;
use crate::{errors, tls};

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a redirect is followed.
const MAX_REDIRECTS: usize = 10;
/// How often one request is repeated with other credentials.
const MAX_ANSWERS: u32 = 3;

/// A registry that is in use.
pub(crate) struct Client {
    http: reqwest::Client,
    /// Host and port that are connected to.
    authority: String,
    /// The host alone, without which credentials are not sent.
    home: String,
    scheme: AtomicU8,
    auth: Auth,
    asked_for_challenge: AtomicBool,
    /// How this registry takes blobs, once that is known.
    pub upload_mode: AtomicU8,
    /// Whether this registry refused to hear of mounting.
    pub refuses_mounts: AtomicBool,
}

/// States of [`Client::scheme`].
const UNKNOWN: u8 = 0;
const HTTPS: u8 = 1;
const HTTP: u8 = 2;

/// An answer, after redirects.
struct Followed {
    response: Response,
    /// Whether it is the registry's own, and not that of a place it pointed to.
    own: bool,
}

impl Client {
    /// Prepares to reach a registry, by the host that users name.
    pub fn new(domain: &str, options: &Options) -> Result<Self> {
        let authority = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let url = Url::parse(&format!("https://{authority}/"))
            .map_err(|error| invalid(format!("invalid registry `{domain}`: {error}")))?;
        let home = url.host_str().unwrap_or_default().to_owned();
        let tls = tls::config(domain, options.tls_verify, options.cert_dir.as_deref())?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(&options.user_agent);
        if is_loopback(&home) {
            // Whatever the environment says: a proxy's localhost is not ours.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot set up the HTTP client").with_source(error)
        })?;
        Ok(Self {
            http,
            authority: authority.to_owned(),
            home,
            scheme: AtomicU8::new(if options.tls_verify { HTTPS } else { UNKNOWN }),
            auth: Auth::new(options),
            asked_for_challenge: AtomicBool::new(false),
            upload_mode: AtomicU8::new(0),
            refuses_mounts: AtomicBool::new(false),
        })
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
    pub async fn send(&self, host: &Host, mut request: Request) -> Result<Response> {
        let mut answers = 0;
        loop {
            let authorization = if request.credentials {
                self.auth.authorization(self, host, &request.scopes).await?
            } else {
                None
            };
            let followed =
                self.follow(host, &mut request, authorization.as_ref(), &self.home).await?;
            let Followed { response, own } = followed;
            if !request.credentials || !own || answers == MAX_ANSWERS {
                return Ok(response);
            }
            let again = match response.status() {
                StatusCode::UNAUTHORIZED => {
                    let challenges = Challenge::of(response.headers());
                    self.auth.answer(challenges, authorization, &mut request.scopes).await
                }
                // Some registries hide what is private from the anonymous, without a challenge.
                StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if authorization.is_none() => {
                    self.ask_for_challenge(host).await
                }
                _ => false,
            };
            if !again {
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
    async fn ask_for_challenge(&self, host: &Host) -> bool {
        if !self.auth.has_credentials() || self.asked_for_challenge.swap(true, Ordering::Relaxed) {
            return false;
        }
        let mut ping = Request::new(Method::GET, Target::Path("/v2/".into()));
        let Ok(Followed { response, own: true }) =
            self.follow(host, &mut ping, None, &self.home).await
        else {
            return false;
        };
        let challenges = Challenge::of(response.headers());
        drain(response).await;
        self.auth.answer(challenges, None, &mut Vec::new()).await
    }

    /// Sends a request to a token server and returns the answer, whatever its status.
    pub async fn send_elsewhere(
        &self,
        host: &Host,
        url: Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response> {
        let home = url.host_str().unwrap_or_default().to_owned();
        let mut request = Request::new(Method::GET, Target::Url(url));
        Ok(self.follow(host, &mut request, authorization, &home).await?.response)
    }

    /// Follows redirects to an answer that is none.
    async fn follow(
        &self,
        host: &Host,
        request: &mut Request,
        authorization: Option<&Authorization>,
        home: &str,
    ) -> Result<Followed> {
        let (mut url, mut response) = match &request.target {
            Target::Path(path) => {
                let path = path.clone();
                self.reach(host, &path, request, authorization).await?
            }
            Target::Url(url) => {
                let url = url.clone();
                let authorization = authorization.filter(|_| is_within(&url, home));
                let response = self
                    .exchange(host, &url, request, authorization)
                    .await
                    .map_err(|error| error.of(request, &url))?;
                (url, response)
            }
        };
        let mut own = is_within(&url, home);
        for _ in 0..MAX_REDIRECTS {
            let Some(next) = redirect_target(&response, &url, request)? else {
                return Ok(Followed { response, own });
            };
            drain(response).await;
            // Once away, credentials stay behind even if the way leads back.
            own = own
                && is_within(&next, home)
                && !(url.scheme() == "https" && next.scheme() == "http");
            url = next;
            response = self
                .exchange(host, &url, request, authorization.filter(|_| own))
                .await
                .map_err(|error| error.of(request, &url))?;
        }
        if redirect_target(&response, &url, request)?.is_none() {
            return Ok(Followed { response, own });
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{}: stopped after 10 redirects", errors::redact(&url)),
        ))
    }

    /// Sends a request to the registry itself, finding out whether that is HTTPS.
    async fn reach(
        &self,
        host: &Host,
        path: &str,
        request: &mut Request,
        authorization: Option<&Authorization>,
    ) -> Result<(Url, Response)> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}{path}", self.authority))
                .map_err(|error| invalid(format!("invalid registry `{}`: {error}", self.authority)))
        };
        let known = self.scheme.load(Ordering::Relaxed);
        if known != HTTP {
            let https = url("https")?;
            let failure = match self.exchange(host, &https, request, authorization).await {
                Ok(response) => {
                    self.scheme.store(HTTPS, Ordering::Relaxed);
                    return Ok((https, response));
                }
                Err(failure) => failure,
            };
            if known == HTTPS || !failure.may_be_http() {
                return Err(failure.of(request, &https));
            }
            host.debug(format!("{} does not speak HTTPS, trying HTTP", self.authority));
            let http = url("http")?;
            return match self.exchange(host, &http, request, authorization).await {
                Ok(response) => {
                    self.scheme.store(HTTP, Ordering::Relaxed);
                    Ok((http, response))
                }
                Err(second) => {
                    let first = failure.of(request, &https);
                    Err(second.of(request, &http).with_source(first))
                }
            };
        }
        let http = url("http")?;
        match self.exchange(host, &http, request, authorization).await {
            Ok(response) => Ok((http, response)),
            Err(failure) => Err(failure.of(request, &http)),
        }
    }

    /// Sends a request once, or twice when an idle connection turns out to be closed.
    async fn exchange(
        &self,
        host: &Host,
        url: &Url,
        request: &mut Request,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Failure> {
        let repeatable = matches!(request.method, Method::GET | Method::HEAD);
        let mut result = self.exchange_once(url, request, authorization).await;
        if repeatable && matches!(&result, Err(Failure::Http(error)) if is_stale(error)) {
            result = self.exchange_once(url, request, authorization).await;
        }
        let outcome = match &result {
            Ok(response) => response.status().as_u16().to_string(),
            Err(_) => "no answer".to_owned(),
        };
        host.debug(format!("{} {} -> {outcome}", request.method, errors::redact(url)));
        if let Ok(response) = &result {
            self.show_warnings(host, url, response);
        }
        result
    }

    async fn exchange_once(
        &self,
        url: &Url,
        request: &mut Request,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Failure> {
        let mut builder = self
            .http
            .request(request.method.clone(), url.clone())
            .header("docker-distribution-api-version", "registry/2.0")
            .headers(request.headers.clone());
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization.value.clone());
        }
        builder = match &request.payload {
            Payload::Bytes(bytes) => builder.body(bytes.clone()),
            Payload::Stream(..) => {
                let Payload::Stream(body, size) =
                    std::mem::replace(&mut request.payload, Payload::Spent)
                else {
                    unreachable!("the payload was just seen to be a stream")
                };
                if let Some(size) = size {
                    builder = builder.header(CONTENT_LENGTH, size);
                }
                builder.body(body)
            }
            // A body is expected of these even if it is empty.
            Payload::Empty
                if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) =>
            {
                builder.header(CONTENT_LENGTH, 0)
            }
            Payload::Empty | Payload::Spent => builder,
        };
        let sent = builder.send();
        match request.patience {
            Some(patience) => match tokio::time::timeout(patience, sent).await {
                Ok(result) => result.map_err(Failure::Http),
                Err(_) => Err(Failure::Idle(patience)),
            },
            None => sent.await.map_err(Failure::Http),
        }
    }

    fn show_warnings(&self, host: &Host, url: &Url, response: &Response) {
        for value in response.headers().get_all("warning") {
            // The agent `-` and the code 299: a message for people.
            let text = value.to_str().ok().and_then(|text| text.strip_prefix("299 - \""));
            if let Some(text) = text.and_then(|text| text.strip_suffix('"'))
                && self.auth.first_time(text)
            {
                host.warn(format!(
                    "Warning from registry (first encountered at {:?}): {text:?}",
                    errors::redact(url)
                ));
            }
        }
    }
}

/// Why there is no answer.
enum Failure {
    Http(reqwest::Error),
    Idle(Duration),
}

impl Failure {
    fn of(self, request: &Request, url: &Url) -> Error {
        match self {
            Self::Http(error) => errors::of_transport(&request.method, url, &error),
            Self::Idle(patience) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} {}: no answer within {} seconds",
                    request.method,
                    errors::redact(url),
                    patience.as_secs()
                ),
            ),
        }
    }

    /// Tells whether a server without TLS would look like this.
    fn may_be_http(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_connect() && !errors::is_unknown_host(error))
    }
}

/// Tells whether a connection was closed before it took the request.
fn is_stale(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind as Io;
    !error.is_connect()
        && !error.is_timeout()
        && (errors::find::<std::io::Error>(error)
            .is_some_and(|io| matches!(io.kind(), Io::ConnectionReset | Io::BrokenPipe))
            || errors::mentions(error, "connection closed before message completed"))
}

/// Returns where an answer redirects to, if it does and the request can be sent there.
fn redirect_target(response: &Response, from: &Url, request: &Request) -> Result<Option<Url>> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let follows = match response.status().as_u16() {
        301..=303 => reads,
        307 | 308 => !matches!(request.payload, Payload::Spent),
        _ => false,
    };
    match response.headers().get(LOCATION) {
        Some(location) if follows => resolve(from, location).map(Some),
        _ => Ok(None),
    }
}

/// Tells whether a URL's host is `home` or below it.
fn is_within(url: &Url, home: &str) -> bool {
    let host = url.host_str().unwrap_or_default();
    if host == home {
        return !home.is_empty();
    }
    let is_name = !home.starts_with('[') && home.parse::<IpAddr>().is_err();
    is_name && host.strip_suffix(home).is_some_and(|rest| rest.ends_with('.'))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_host_and_below_it_only() {
        let within = |url: &str, home| is_within(&Url::parse(url).unwrap(), home);
        assert!(within("https://r.example/x", "r.example"));
        assert!(within("https://R.example:5000/x", "r.example"));
        assert!(within("https://cdn.r.example/x", "r.example"));
        assert!(!within("https://evilr.example/x", "r.example"));
        assert!(!within("https://example/x", "r.example"));
        assert!(!within("https://r.example.evil/x", "r.example"));
        assert!(!within("http://1.127.0.0.1.evil/", "127.0.0.1"));
        assert!(!within("http://[::1]/", "::1"));
    }
}
