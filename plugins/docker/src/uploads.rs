//! The uploads of one image: begin one, send the bytes, name the digest.
//!
//! With a digest known beforehand, bytes and digest go in one PUT; otherwise the bytes go in a
//! PATCH and the digest in a PUT. A registry that refuses the former gets the latter from then on.
//! Where a connection has broken, or a body was too large, the bytes go in pieces from then on, each
//! in a PATCH of its own, over a connection of its own: a network that breaks connections after so
//! many bytes lets these pass. The bytes come from [`crate::upload`].
//!
//! An upload that was begun in vain is kept for another blob; one that broke is kept for its own,
//! and goes on where the registry says that it got to. In the end what is left is cancelled.
//!
//! # Source
//! OCI distribution-spec 1.1, "Pushing blobs".

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diolkos_sdk::{Digest, Error, ErrorKind, Host, Result};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::oneshot;

use crate::errors;
use crate::message::{self, Payload, Request, Response, Target, number};
use crate::registry::{Access, Repository};

/// How long a registry may take to store a blob after its last byte.
pub(crate) const STORE_PATIENCE: Duration = Duration::from_secs(900);

/// How long it may take to be sent a piece and to store it.
const PIECE_PATIENCE: Duration = Duration::from_secs(300);

/// How long all uploads that are cancelled may take together, at the end of a copy.
const CANCEL_PATIENCE: Duration = Duration::from_millis(500);

/// States of [`crate::client::Client::upload_mode`]; 0 is unknown.
const SINGLE: u8 = 1;
const PATCHED: u8 = 2;

/// The size of pieces until they turn out to be too large. Each waits for an answer, and is kept
/// until then.
const PIECE: usize = 4 << 20;
/// A registry's wish for larger pieces is not followed beyond this: they are kept in memory.
const LARGEST_LEAST_PIECE: usize = 32 << 20;
/// A registry that does not take this much at a time takes nothing.
const SMALLEST_PIECE: usize = 64 << 10;

/// Codes of refusals that another way of sending the same would not change.
const ABOUT_CONTENT: [&str; 4] = ["DIGEST_INVALID", "SIZE_INVALID", "DENIED", "TOOMANYREQUESTS"];

/// What became of a request to begin an upload.
pub(crate) enum Begun {
    /// The registry has the blob.
    Mounted,
    /// Bytes may be sent here.
    Upload(Url),
}

/// What a registry says to a request that held bytes and their digest.
pub(crate) enum Judged {
    Stored,
    /// A refusal that may be one of the method alone.
    OtherWay(Error),
    /// The body was larger than the registry, or the network before it, lets pass.
    TooLarge(Error),
}

/// What a registry says to a piece.
pub(crate) enum Piece {
    /// It was taken, or a part of it: the upload goes on here, and this many bytes are there now.
    Taken(Url, u64),
    TooLarge(Error),
    /// The registry answered that it cannot take it now, or has other bytes than these follow.
    Refused(Error),
}

/// The uploads of one image.
pub(crate) struct Uploads {
    pub repository: Repository,
    /// Uploads that were begun, with the blob they were begun for, and not used.
    spare: Mutex<Vec<(Option<Digest>, Url)>>,
    broken: Mutex<HashMap<Digest, Broken>>,
    /// Each ends when the registry has answered to the cancelling of an upload.
    cancelled: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// An upload that broke off.
struct Broken {
    location: Url,
    /// How many bytes were sent at most.
    sent: u64,
    /// How many the registry has, once it was asked.
    received: Option<u64>,
}

impl Uploads {
    pub fn new(repository: Repository) -> Self {
        Self {
            repository,
            spare: Mutex::default(),
            broken: Mutex::default(),
            cancelled: Mutex::default(),
        }
    }

    /// Keeps an upload that broke off after `sent` bytes at most, for the same blob.
    pub fn keep_broken(&self, digest: &Digest, location: Url, sent: u64) {
        let broken = Broken { location, sent, received: None };
        if let Some(earlier) = self.broken().insert(digest.clone(), broken) {
            self.cancel(earlier.location);
        }
    }

    /// Takes an upload whose state the registry has told.
    pub fn take_resumable(&self, digest: &Digest) -> Option<(Url, u64)> {
        let mut broken = self.broken();
        broken.get(digest)?.received?;
        let Broken { location, received, .. } = broken.remove(digest)?;
        Some((location, received?))
    }

    /// Asks how much of a blob whose upload broke off has arrived; 0 where it must begin again.
    pub async fn resume(&self, digest: &Digest) -> Result<u64> {
        let Some(broken) = self.broken().remove(digest) else { return Ok(0) };
        let (location, received) = match self.status(&broken.location).await {
            Ok(Some(known)) => known,
            Ok(None) => return Ok(0),
            Err(error) => {
                self.cancel(broken.location);
                return Err(error);
            }
        };
        // More than was sent is not this blob.
        if received == 0 || received > broken.sent {
            self.cancel(location);
            return Ok(0);
        }
        let broken = Broken { location, received: Some(received), ..broken };
        self.broken().insert(digest.clone(), broken);
        Ok(received)
    }

    /// Asks where an upload stands; `None` when the registry has forgotten it, or does not tell.
    pub async fn status(&self, location: &Url) -> Result<Option<(Url, u64)>> {
        let request = Request::new(Method::GET, Target::Url(location.clone()))
            .scope(self.repository.scope(Access::Push))
            .patience(Some(self.repository.idle_timeout));
        let response = self.repository.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            let error = message::failure(response).await;
            self.repository.host.debug(format!("the state of an upload is not known: {error}"));
            // CNCF distribution forgets an upload whose last request broke off: its URL holds the
            // number of bytes, and that is now another.
            return if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                Ok(None)
            } else {
                Err(error)
            };
        }
        let next = self.next_location(&response, location)?;
        let received = received(response.headers());
        message::drain(response).await;
        Ok(Some((next, received.unwrap_or(0))))
    }

    fn broken(&self) -> MutexGuard<'_, HashMap<Digest, Broken>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the size of pieces to send blobs in; `None` while they go whole.
    pub fn piece_size(&self) -> Option<usize> {
        let size = self.repository.client.piece_size.load(Ordering::Relaxed);
        (size > 0).then(|| self.at_least(size))
    }

    /// Returns this size of pieces, or the least that the registry takes.
    pub fn at_least(&self, size: usize) -> usize {
        size.max(self.repository.client.least_piece.load(Ordering::Relaxed))
    }

    /// Sends blobs in pieces from now on.
    pub fn use_pieces(&self) {
        let size = &self.repository.client.piece_size;
        let _ = size.compare_exchange(0, PIECE, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends smaller pieces than those of `size` from now on; returns whether that is possible.
    pub fn use_smaller_pieces(&self, size: usize) -> bool {
        self.use_pieces();
        let least = self.repository.client.least_piece.load(Ordering::Relaxed).max(SMALLEST_PIECE);
        if size <= least {
            return false;
        }
        let smaller = (size / 2).max(least);
        self.repository.client.piece_size.fetch_min(smaller, Ordering::Relaxed);
        true
    }

    /// Tells whether the registry does not understand mounting.
    pub fn refuses_mounts(&self) -> bool {
        self.repository.client.refuses_mounts.load(Ordering::Relaxed)
    }

    /// Keeps an upload that was begun for another use.
    pub fn keep(&self, digest: Option<&Digest>, location: Url) {
        self.spare().push((digest.cloned(), location));
    }

    /// Takes a kept upload: for a known blob only one that was begun for it, so that the registry
    /// was asked whether it has it.
    pub fn take(&self, digest: Option<&Digest>) -> Option<Url> {
        let mut spare = self.spare();
        let fits = |kept: &(Option<Digest>, Url)| digest.is_none() || kept.0.as_ref() == digest;
        let index = spare.iter().position(fits)?;
        Some(spare.swap_remove(index).1)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<(Option<Digest>, Url)>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload; with `mount`, asks to take the blob over from a repository instead.
    pub async fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Begun> {
        if let Some((digest, from)) = mount
            && !self.refuses_mounts()
            && let Some(begun) = self.try_mount(digest, from).await?
        {
            return Ok(begun);
        }
        let request = self.repository.request(Method::POST, "/blobs/uploads/", Access::Push);
        let response = self.repository.send(request).await?;
        if response.status() == StatusCode::ACCEPTED {
            return self.upload_at(response).await;
        }
        Err(message::failure(response).await.context(self.initiating()))
    }

    async fn upload_at(&self, response: Response) -> Result<Begun> {
        let location = self.location_of(&response)?;
        let least = response.headers().get("oci-chunk-min-length");
        if let Some(least) = number(least).and_then(|least| usize::try_from(least).ok()) {
            let client = &self.repository.client;
            client.least_piece.store(least.min(LARGEST_LEAST_PIECE), Ordering::Relaxed);
        }
        message::drain(response).await;
        Ok(Begun::Upload(location))
    }

    fn path(&self) -> String {
        format!("/v2/{}/blobs/uploads/", self.repository.name.path())
    }

    fn initiating(&self) -> String {
        format!(
            "initiating layer upload to {} in {}",
            self.path(),
            self.repository.client.authority()
        )
    }

    /// Asks to mount a blob; `None` when an upload must be begun without.
    async fn try_mount(&self, digest: &Digest, from: &str) -> Result<Option<Begun>> {
        let rest =
            format!("/blobs/uploads/?mount={}&from={}", escape(digest.as_str()), escape(from));
        let mut request = self.repository.request(Method::POST, &rest, Access::Push);
        let own = from == self.repository.name.path();
        if !own {
            request = request.scope(format!("repository:{from}:pull"));
        }
        let response = match self.repository.send(request).await {
            Ok(response) => response,
            // No token for both repositories: then without the other one.
            Err(error)
                if !own && matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unauthorized) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match response.status().as_u16() {
            201 => {
                message::drain(response).await;
                Ok(Some(Begun::Mounted))
            }
            202 => self.upload_at(response).await.map(Some),
            401 | 403 if !own => {
                message::drain(response).await;
                Ok(None)
            }
            400 | 404 | 405 | 415 | 422 | 501 => {
                let error = message::failure(response).await;
                self.repository.host.debug(format!("mounting is refused: {error}"));
                self.repository.client.refuses_mounts.store(true, Ordering::Relaxed);
                Ok(None)
            }
            _ => Err(message::failure(response).await.context(self.initiating())),
        }
    }

    /// Cancels an upload, if the registry still listens; only the end waits for it, a little.
    pub fn cancel(&self, location: Url) {
        let (repository, host) = (self.repository.clone(), self.repository.host.clone());
        let request = Request::new(Method::DELETE, Target::Url(location))
            .scope(self.repository.scope(Access::Push))
            .patience(Some(Duration::from_secs(10)));
        let (done, answered) = oneshot::channel();
        self.repository.runtime.spawn(async move {
            if let Ok(response) = repository.client.send(&repository.auth, &host, request).await {
                message::drain(response).await;
            }
            let _ = done.send(());
        });
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).push(answered);
    }

    /// Makes a request that sends bytes of a blob, or ends its upload; it waits for the answer as
    /// long as the caller does.
    pub fn request(&self, method: Method, location: Url, payload: Payload) -> Request {
        Request::new(method, Target::Url(location))
            .scope(self.repository.scope(Access::Push))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .payload(payload)
            .patience(None)
            .part_of_upload()
    }

    /// Tells whether bytes and digest may go in one request, as far as is known.
    pub fn takes_single(&self) -> bool {
        self.mode() != PATCHED
    }

    fn mode(&self) -> u8 {
        self.repository.client.upload_mode.load(Ordering::Relaxed)
    }

    fn set_mode(&self, mode: u8) {
        self.repository.client.upload_mode.store(mode, Ordering::Relaxed);
    }

    /// Makes the error of an upload that the registry has forgotten.
    pub fn lost(&self, error: Error) -> Error {
        self.uploading(
            Error::new(ErrorKind::Unavailable, "the registry has lost the upload")
                .with_retry_after(Duration::ZERO)
                .with_source(error),
        )
    }

    pub fn uploading(&self, error: Error) -> Error {
        error.context(format!("uploading layer to {}", self.path()))
    }

    /// Returns where an answer says that an upload goes on.
    fn location_of(&self, response: &Response) -> Result<Url> {
        let missing = || {
            Error::new(ErrorKind::Corrupt, "the registry's answer has no Location")
                .context("determining upload URL")
        };
        let value = response.headers().get(LOCATION).ok_or_else(missing)?;
        let mut url = message::resolve(response.url(), value)
            .map_err(|error| error.context("determining upload URL"))?;
        let here = response.url();
        let client = &self.repository.client;
        let same_host = here.host_str() == url.host_str();
        // A registry behind a proxy may not know that it is reached by HTTPS: credentials and bytes
        // still go the way they came.
        if url.scheme() == "http" && here.scheme() == "https" && same_host {
            let port = here.port();
            let _ = url.set_scheme("https").and_then(|()| url.set_port(port));
        } else if url.scheme() == "http" && client.insists_on_tls() && client.is_home(&url) {
            let message = format!("{} is not reached by HTTPS", errors::redact(&url));
            return Err(Error::new(ErrorKind::Denied, message).context("determining upload URL"));
        }
        Ok(url)
    }

    /// Returns where an upload goes on after an answer: where that says, else where it was.
    fn next_location(&self, response: &Response, current: &Url) -> Result<Url> {
        match response.headers().get(LOCATION) {
            Some(_) => self.location_of(response),
            None => Ok(current.clone()),
        }
    }

    /// Judges the answer to a PUT that held bytes and digest.
    pub async fn judge_single(&self, response: Response) -> Result<Judged> {
        let status = response.status();
        if is_stored(&response) {
            self.set_mode(SINGLE);
            message::drain(response).await;
            return Ok(Judged::Stored);
        }
        let (error, body) = message::failure_with_body(response).await;
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Ok(Judged::TooLarge(self.uploading(error)));
        }
        let method_alone = matches!(status.as_u16(), 400 | 404 | 405 | 411 | 415 | 416 | 501)
            && !errors::has_code(status, &body, &ABOUT_CONTENT)
            && self.mode() != SINGLE;
        if !method_alone {
            return Err(self.uploading(error));
        }
        self.set_mode(PATCHED);
        Ok(Judged::OtherWay(error))
    }

    /// Judges the answer to a PATCH with all of a blob; returns where the upload goes on.
    pub async fn judge_patch(&self, response: Response, location: &Url) -> Result<Url> {
        if !response.status().is_success() {
            return Err(message::failure(response).await.context("uploading layer chunked"));
        }
        let next = self.next_location(&response, location)?;
        message::drain(response).await;
        Ok(next)
    }

    /// Sends a piece of a blob, which begins at byte `from`.
    pub async fn send_piece(&self, location: &Url, from: u64, piece: Bytes) -> Result<Piece> {
        let end = from + piece.len() as u64;
        let range = HeaderValue::from_str(&format!("{from}-{}", end.saturating_sub(1)))
            .expect("digits make a valid header");
        let mut request = self
            .request(Method::PATCH, location.clone(), Payload::Bytes(piece))
            .header(CONTENT_RANGE, range);
        request.fresh_connection = true;
        let response = within(PIECE_PATIENCE, self.repository.send(request)).await?;
        let status = response.status();
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Ok(Piece::TooLarge(
                message::failure(response).await.context("uploading layer chunked"),
            ));
        }
        if !status.is_success() {
            let error = message::failure(response).await.context("uploading layer chunked");
            // It has other bytes than we thought: that can be found out.
            return Ok(Piece::Refused(match status {
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    Error::new(ErrorKind::Unavailable, "the registry has another part of the blob")
                        .with_source(error)
                }
                _ => error,
            }));
        }
        let next = self.next_location(&response, location)?;
        let received = received(response.headers());
        message::drain(response).await;
        if from > 0 && received == Some(from) {
            let message = "the registry took a piece and has no more than before";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let received = received.filter(|it| (from + 1..end).contains(it));
        Ok(Piece::Taken(next, received.unwrap_or(end)))
    }

    /// Tells whether the repository has a blob.
    pub async fn has(&self, digest: &Digest) -> Result<bool> {
        let rest = format!("/blobs/{digest}");
        let request = self.repository.request(Method::HEAD, &rest, Access::Push);
        Ok(self.repository.send(request).await?.status() == StatusCode::OK)
    }

    /// Ends an upload whose bytes were sent.
    pub async fn close(&self, location: &Url, digest: &Digest) -> Result<()> {
        let url = with_digest(location, digest);
        let request = self.request(Method::PUT, url, Payload::Empty);
        let response = within(STORE_PATIENCE, self.repository.send(request)).await?;
        if !is_stored(&response) {
            return Err(self.uploading(message::failure(response).await));
        }
        message::drain(response).await;
        Ok(())
    }

    /// Sends a blob that is all there.
    pub async fn send_all(
        &self,
        location: &mut Url,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<Judged> {
        if self.takes_single() {
            let url = with_digest(location, digest);
            let request = self.request(Method::PUT, url, Payload::Bytes(bytes.clone()));
            let response = within(STORE_PATIENCE, self.repository.send(request)).await?;
            let error = match self.judge_single(response).await? {
                Judged::OtherWay(error) => error,
                judged => return Ok(judged),
            };
            self.repository.host.debug(format!("a PUT with content is refused: {error}"));
            // What the refusal did to the upload is not known: begin another.
            match self.begin(None).await? {
                Begun::Upload(another) => *location = another,
                Begun::Mounted => return Ok(Judged::Stored),
            }
        }
        let request = self.request(Method::PATCH, location.clone(), Payload::Bytes(bytes));
        let response = within(STORE_PATIENCE, self.repository.send(request)).await?;
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Ok(Judged::TooLarge(
                message::failure(response).await.context("uploading layer chunked"),
            ));
        }
        *location = self.judge_patch(response, location).await?;
        self.close(location, digest).await?;
        Ok(Judged::Stored)
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        for (_, location) in std::mem::take(&mut *self.spare()) {
            self.cancel(location);
        }
        for broken in std::mem::take(&mut *self.broken()).into_values() {
            self.cancel(broken.location);
        }
        let cancelled =
            std::mem::take(&mut *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner));
        if cancelled.is_empty() {
            return;
        }
        let answers = async {
            for answered in cancelled {
                let _ = answered.await;
            }
            Ok(())
        };
        // The process may end with the copy. The user may have stopped it: that counts no more.
        let all = within(CANCEL_PATIENCE, answers);
        let _ = self.repository.runtime.block_on(&Host::silent(), all);
    }
}

/// Reads how many bytes of an upload have arrived: `Range: 0-99`, or `bytes=0-99`.
///
/// Registries say `0-0` for nothing; whether it is one byte cannot be told, and nothing is lost by
/// sending that again.
pub(crate) fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?.trim();
    let (first, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    match (first, last) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

/// Adds a digest to the URL of an upload.
pub(crate) fn with_digest(location: &Url, digest: &Digest) -> Url {
    let mut url = location.clone();
    url.query_pairs_mut().append_pair("digest", digest.as_str());
    url
}

fn escape(text: &str) -> String {
    text.replace(':', "%3A").replace('/', "%2F")
}

/// Tells whether an answer says that a blob is stored. A web page with status 200 comes from
/// something else than a registry.
fn is_stored(response: &Response) -> bool {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match response.status().as_u16() {
        200 => !media_type.unwrap_or_default().trim_start().starts_with("text/html"),
        status => matches!(status, 201 | 204),
    }
}

/// Runs a future for a limited time.
pub(crate) async fn within<T>(
    limit: Duration,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("the registry did not answer within {} seconds", limit.as_secs()),
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<u64> {
        received(&HeaderMap::from_iter([(RANGE, HeaderValue::from_str(text).ok()?)]))
    }

    #[test]
    fn the_part_that_arrived_is_read_in_both_forms() {
        assert_eq!(of("0-99"), Some(100));
        assert_eq!(of("bytes=0-99"), Some(100));
        assert_eq!(of("0-0"), Some(0));
        for nonsense in ["", "5-9", "x-y", "0-", "-1", "0-18446744073709551615"] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
        assert_eq!(received(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn any_range_is_read_without_panic(text in "(bytes=)?[0-9 -]{0,50}") {
            of(&text);
        }
    }
}
