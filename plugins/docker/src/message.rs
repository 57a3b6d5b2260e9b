//! Requests before they are sent, and what is done with answers.
//!
//! Sending is in [`crate::client`]; what an answer's status means, with the caller.

use std::time::{Duration, Instant};

use bytes::Bytes;
use diolkos_sdk::{Error, ErrorKind, Result};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::auth::Provenance;
use crate::errors;

pub(crate) use reqwest::Response;

/// How long the beginning of an answer, or its next bytes, may take.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes a second below which a sender is taken for one that has stopped.
const LEAST_SPEED: u64 = 512;
/// How much of an answer that nobody wants is read so that its connection can be used again.
const DRAINED: u64 = 16 * 1024;
/// How much of the body of an error is read.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// Where a request goes.
pub(crate) enum Target {
    /// A path on the registry, with its query.
    Path(String),
    /// A URL that the registry gave.
    Url(Url),
}

/// The body of a request.
pub(crate) enum Payload {
    Empty,
    /// Can be sent again.
    Bytes(Bytes),
    /// Can be sent once; its length where it is known.
    Stream(reqwest::Body, Option<u64>),
    /// A stream that was sent.
    Spent,
}

/// A request that is about to be sent.
pub(crate) struct Request {
    pub method: Method,
    pub target: Target,
    pub headers: HeaderMap,
    pub payload: Payload,
    pub scopes: Vec<String>,
    pub credentials: bool,
    pub patience: Option<Duration>,
    /// Whether it is part of an upload: where it fails, what arrived is found out before more is
    /// sent.
    pub part_of_upload: bool,
    /// Whether its body must go nowhere else.
    pub confidential: bool,
    /// Whether it gets a connection of its own: one that is in use may be about to break.
    pub fresh_connection: bool,
    /// Whether it was sent again because the connection in use was closed already.
    pub was_repeated: bool,
}

/// In an answer's extensions: the request was sent more than once, and may have had its effect
/// before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repeated;

impl Request {
    pub fn new(method: Method, target: Target) -> Self {
        Self {
            method,
            target,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            scopes: Vec::new(),
            credentials: true,
            patience: Some(IDLE_TIMEOUT),
            part_of_upload: false,
            confidential: false,
            fresh_connection: false,
            was_repeated: false,
        }
    }

    /// Tells whether it can be sent again as it is.
    pub fn is_repeatable(&self) -> bool {
        !self.part_of_upload && matches!(self.payload, Payload::Empty | Payload::Bytes(_))
    }

    /// Adds a header; one of the same name stays.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// Adds a scope that a token must have for this.
    pub fn scope(mut self, scope: String) -> Self {
        if !self.scopes.contains(&scope) {
            self.scopes.push(scope);
        }
        self
    }

    /// Sends no credentials, wherever this goes.
    pub fn anonymous(mut self) -> Self {
        self.credentials = false;
        self
    }

    /// Follows no redirect: the body holds a secret for the one who was asked.
    pub fn confidential(mut self) -> Self {
        self.confidential = true;
        self
    }

    /// Marks a part of an upload, which is not simply sent again.
    pub fn part_of_upload(mut self) -> Self {
        self.part_of_upload = true;
        self
    }

    /// Sets how long the answer may take to begin; `None` is for as long as the caller waits.
    pub fn patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }
}

/// Resolves a `Location` against the URL it came from.
pub(crate) fn resolve(from: &Url, location: &HeaderValue) -> Result<Url> {
    let bad = |why: &str| {
        Error::new(
            ErrorKind::Corrupt,
            format!("{} answered with an unusable Location: {why}", errors::redact(from)),
        )
    };
    let text = location.to_str().map_err(|_| bad("it is not text"))?;
    let url = from.join(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("it is neither http nor https"));
    }
    Ok(url)
}

/// Reads a header that is a number.
pub(crate) fn number(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}

/// Reads what is left of a small answer, so that its connection can be used again.
pub(crate) async fn drain(mut response: Response) {
    if response.content_length().is_some_and(|length| length <= DRAINED) {
        let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
        let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    }
}

/// Reads the body of an answer, up to `limit` bytes.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is longer; what the connection says.
pub(crate) async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>> {
    let url = response.url().clone();
    let mut pace = Pace::new(IDLE_TIMEOUT);
    let too_long = || {
        Error::new(
            ErrorKind::Corrupt,
            format!("the answer of {} is longer than {limit} bytes", errors::redact(&url)),
        )
    };
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(&mut response, &url, &mut pace).await? {
        if bytes.len() + chunk.len() > limit {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Notices a sender that sends, but next to nothing.
///
/// Only the time that we wait for it counts: a slow receiver is not the sender's fault.
pub(crate) struct Pace {
    /// How long the next bytes may take.
    idle: Duration,
    waited: Duration,
    received: u64,
}

impl Pace {
    pub fn new(idle: Duration) -> Self {
        Self { idle, waited: Duration::ZERO, received: 0 }
    }

    /// Counts bytes that were waited for; returns whether they come too slowly.
    fn is_too_slow(&mut self, waited: Duration, received: usize) -> bool {
        self.waited += waited;
        self.received += received as u64;
        if self.waited < self.idle {
            return false;
        }
        let slow = self.received < LEAST_SPEED * self.waited.as_secs();
        (self.waited, self.received) = (Duration::ZERO, 0);
        slow
    }
}

/// Waits for the next bytes of an answer.
pub(crate) async fn next_chunk(
    response: &mut Response,
    url: &Url,
    pace: &mut Pace,
) -> Result<Option<Bytes>> {
    let begun = Instant::now();
    match tokio::time::timeout(pace.idle, response.chunk()).await {
        Ok(Ok(Some(chunk))) if pace.is_too_slow(begun.elapsed(), chunk.len()) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("{} sent less than {LEAST_SPEED} bytes a second", errors::redact(url)),
        )),
        Ok(result) => result.map_err(|error| errors::of_transport(&Method::GET, url, &error)),
        Err(_) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("{} sent nothing for {} seconds", errors::redact(url), pace.idle.as_secs()),
        )),
    }
}

/// Makes the error of an answer that is no success, and returns the start of its body too.
pub(crate) async fn failure(response: Response) -> Error {
    failure_with_body(response).await.0
}

/// As [`failure`], and returns the start of the body too.
pub(crate) async fn failure_with_body(mut response: Response) -> (Error, Vec<u8>) {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_ERROR_BODY - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if bytes.len() == MAX_ERROR_BODY {
                break;
            }
        }
    };
    // An answer that breaks off is still an answer: its status is known.
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await;
    let mut error = errors::of_response(status, &headers, &bytes);
    if let Some(Provenance(origin)) = response.extensions().get() {
        let origin = Error::new(error.kind(), origin.clone());
        error = error.with_source(origin);
    }
    (error, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_trickles_is_noticed_and_a_slow_receiver_is_not_its_fault() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(10 * second);
        assert!((0..9).all(|_| !pace.is_too_slow(second, 1)));
        assert!(pace.is_too_slow(second, 1));
        assert!((0..100).all(|_| !pace.is_too_slow(second, 600)));
        assert!((0..100).all(|_| !pace.is_too_slow(Duration::ZERO, 1)));
    }

    #[test]
    fn a_location_is_relative_or_absolute_and_always_http() {
        let from = Url::parse("https://r.example:5000/v2/a/blobs/uploads/").unwrap();
        let to = |text: &'static str| resolve(&from, &HeaderValue::from_static(text));
        assert_eq!(to("/x?_state=1").unwrap().as_str(), "https://r.example:5000/x?_state=1");
        assert_eq!(to("http://s.example/y").unwrap().as_str(), "http://s.example/y");
        assert_eq!(to("u1").unwrap().path(), "/v2/a/blobs/uploads/u1");
        assert_eq!(to("file:///etc/passwd").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
