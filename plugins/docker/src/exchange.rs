//! One request and its answer: HTTPS or not, redirects, and failures without an answer.
//!
//! Redirects are followed here, not by the HTTP library: credentials go to the registry's host and
//! its subdomains only, and never from HTTPS to HTTP. Every request passes the [`Gate`] of the host
//! it goes to. Repeating and credentials are in [`crate::client`].

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use diolkos_network::failures;
use diolkos_network::proxies::Proxies;
use diolkos_sdk::{Error, ErrorKind, Host, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION};
use reqwest::{Method, Url};

use crate::auth::Authorization;
use crate::client::{Client, HTTP, HTTPS, invalid};
use crate::errors;
use crate::gate::{Gate, Why};
use crate::message::{Payload, Request, Response, Target, drain, resolve};

/// How often a redirect is followed.
const MAX_REDIRECTS: usize = 10;

/// An answer, after redirects.
pub(crate) struct Followed {
    pub response: Response,
    /// Whether it is the registry's own, and not that of a place it pointed to.
    pub own: bool,
}

/// A request without an answer.
pub(crate) struct Unanswered {
    pub error: Error,
    /// Why another try may succeed, if it may, and whose budget that is.
    pub again: Option<(Why, String)>,
}

impl Unanswered {
    /// Says that it is the registry as a whole that was not reached.
    fn at_first(self, authority: &str) -> Self {
        let error = match self.error.kind() {
            ErrorKind::Cancelled => self.error,
            _ => self.error.context(format!("pinging container registry {authority}")),
        };
        Self { error, ..self }
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self { error, again: None }
    }
}

impl Client {
    /// Sends a request and follows redirects to an answer that is none.
    pub(crate) async fn follow(
        &self,
        host: &Host,
        request: &mut Request,
        authorization: Option<&Authorization>,
        home: &str,
    ) -> Result<Followed, Unanswered> {
        let (mut url, mut response) = match &request.target {
            Target::Path(path) => {
                let path = path.clone();
                let reached = self.reach(host, &path, request, authorization).await;
                let answered = self.answered.fetch_or(reached.is_ok(), Ordering::Relaxed);
                reached.map_err(|unanswered| {
                    if answered { unanswered } else { unanswered.at_first(self.authority()) }
                })?
            }
            Target::Url(url) => {
                let url = url.clone();
                let authorization = authorization.filter(|_| self.may_know(&url, home));
                let response = self
                    .exchange(host, &url, request, authorization)
                    .await
                    .map_err(|failure| failure.of(request, &url))?;
                (url, response)
            }
        };
        let mut own = self.may_know(&url, home);
        for _ in 0..MAX_REDIRECTS {
            let Some(next) = redirect_target(&response, &url, request)? else {
                return Ok(Followed { response, own });
            };
            drain(response).await;
            // Once away, credentials stay behind even if the way leads back.
            own = own
                && self.may_know(&next, home)
                && !(url.scheme() == "https" && next.scheme() == "http");
            url = next;
            response = self
                .exchange(host, &url, request, authorization.filter(|_| own))
                .await
                .map_err(|failure| failure.of(request, &url))?;
        }
        if redirect_target(&response, &url, request)?.is_none() {
            return Ok(Followed { response, own });
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{}: stopped after 10 redirects", errors::redact(&url)),
        )
        .into())
    }

    /// Tells whether a place may know who we are: one of `home`, by TLS if that is insisted on.
    fn may_know(&self, url: &Url, home: &str) -> bool {
        is_within(url, home) && (url.scheme() == "https" || !self.insists_on_tls())
    }

    /// Sends a request to the registry itself, finding out whether that is HTTPS.
    async fn reach(
        &self,
        host: &Host,
        path: &str,
        request: &mut Request,
        authorization: Option<&Authorization>,
    ) -> Result<(Url, Response), Unanswered> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}{path}", self.authority())).map_err(|error| {
                invalid(format!("invalid registry `{}`: {error}", self.authority()))
            })
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
            let http = url("http")?;
            if known == HTTPS || !failure.may_be_http(&http) {
                return Err(failure.of(request, &https));
            }
            host.debug(format!("{} does not speak HTTPS, trying HTTP", self.authority()));
            return match self.exchange(host, &http, request, authorization).await {
                Ok(response) => {
                    self.scheme.store(HTTP, Ordering::Relaxed);
                    Ok((http, response))
                }
                Err(second) => {
                    let first = failure.of(request, &https).error;
                    // Its way out, which is HTTP, has been taken.
                    let first = Error::new(first.kind(), first.chain().join(": "));
                    let second = second.of(request, &http);
                    Err(Unanswered { error: second.error.with_source(first), again: second.again })
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
        Gate::of(&authority_of(url)).pass().await;
        // Once: a server that closes every connection is another matter.
        let repeatable = matches!(request.method, Method::GET | Method::HEAD)
            && !request.fresh_connection
            && !request.was_repeated;
        let mut result = self.exchange_once(url, request, authorization).await;
        if repeatable && matches!(&result, Err(Failure::Http(error)) if is_stale(error)) {
            request.was_repeated = true;
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
            .http(request.fresh_connection)
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
}

/// Why there is no answer.
enum Failure {
    Http(reqwest::Error),
    Idle(Duration),
}

impl Failure {
    fn of(self, request: &Request, url: &Url) -> Unanswered {
        let again = self.why().map(|why| (why, authority_of(url)));
        let error = match self {
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
        };
        Unanswered { error, again }
    }

    /// Tells why another try may go better. Hosts that are not there are not asked again: whoever
    /// mistyped a name wants to know at once.
    fn why(&self) -> Option<Why> {
        use std::io::ErrorKind as Io;
        let error = match self {
            Self::Idle(_) => return Some(Why::Silent),
            Self::Http(error) => error,
        };
        if failures::find::<rustls::Error>(error).is_some() || failures::is_unknown_host(error) {
            return None;
        }
        if !error.is_connect() {
            return Some(if error.is_timeout() { Why::Silent } else { Why::Failed });
        }
        failures::find::<std::io::Error>(error)
            .filter(|io| matches!(io.kind(), Io::ConnectionReset | Io::UnexpectedEof))
            .map(|_| Why::Failed)
    }

    /// Tells whether a server without TLS would look like this. One that has a certificate, or
    /// refuses ours, has TLS: what it is asked must not go there in the clear.
    fn may_be_http(&self, http: &Url) -> bool {
        let Self::Http(error) = self else { return false };
        let speaks_tls = failures::find::<rustls::Error>(error)
            .is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)));
        // What a proxy says is not what the registry says.
        let is_of_proxy = failures::mentions(error, "tunnel");
        // A proxy may know names that we do not.
        let is_nowhere = failures::is_unknown_host(error) && Proxies::current().of(http).is_none();
        error.is_connect() && !speaks_tls && !is_of_proxy && !is_nowhere
    }
}

/// Returns host and port of a URL, which is what a [`Gate`] belongs to.
pub(crate) fn authority_of(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// Tells whether a connection was closed before it took the request.
fn is_stale(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind as Io;
    !error.is_connect()
        && !error.is_timeout()
        && (failures::find::<std::io::Error>(error)
            .is_some_and(|io| matches!(io.kind(), Io::ConnectionReset | Io::BrokenPipe))
            || failures::mentions(error, "connection closed before message completed"))
}

/// Returns where an answer redirects to, if it does and the request can be sent there.
fn redirect_target(response: &Response, from: &Url, request: &Request) -> Result<Option<Url>> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let follows = match response.status().as_u16() {
        301..=303 => reads,
        307 | 308 => !request.confidential && !matches!(request.payload, Payload::Spent),
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

    #[test]
    fn a_gate_belongs_to_host_and_port() {
        let of = |url: &str| authority_of(&Url::parse(url).unwrap());
        assert_eq!(of("https://r.example/v2/"), "r.example:443");
        assert_eq!(of("http://r.example:5000/v2/"), "r.example:5000");
    }
}
