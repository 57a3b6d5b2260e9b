//! The uploads of one image: begin one, send the bytes, name the digest.
//!
//! With a digest known beforehand, bytes and digest go in one PUT; otherwise the bytes go in a
//! PATCH and the digest in a PUT. A registry that refuses the former gets the latter from then on.
//! An upload that was begun in vain is kept for another blob, or cancelled in the end. The bytes
//! come from [`crate::upload`].
//!
//! # Source
//! OCI distribution-spec 1.1, "Pushing blobs".

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diolkos_sdk::{Digest, Error, ErrorKind, Host, Result};
use reqwest::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::oneshot;

use crate::errors;
use crate::message::{self, Payload, Request, Response, Target};
use crate::registry::{Access, Repository};

/// How long a registry may take to store a blob after its last byte.
pub(crate) const STORE_PATIENCE: Duration = Duration::from_secs(900);

/// How long all uploads that are cancelled may take together, at the end of a copy.
const CANCEL_PATIENCE: Duration = Duration::from_millis(500);

/// States of [`crate::client::Client::upload_mode`]; 0 is unknown.
const SINGLE: u8 = 1;
const PATCHED: u8 = 2;

/// Codes of refusals that another way of sending the same would not change.
const ABOUT_CONTENT: [&str; 4] = ["DIGEST_INVALID", "SIZE_INVALID", "DENIED", "TOOMANYREQUESTS"];

/// What became of a request to begin an upload.
pub(crate) enum Begun {
    /// The registry has the blob.
    Mounted,
    /// Bytes may be sent here.
    Upload(Url),
}

/// The uploads of one image.
pub(crate) struct Uploads {
    pub repository: Repository,
    /// Uploads that were begun, with the blob they were begun for, and not used.
    spare: Mutex<Vec<(Option<Digest>, Url)>>,
    /// Each ends when the registry has answered to the cancelling of an upload.
    cancelled: Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Uploads {
    pub fn new(repository: Repository) -> Self {
        Self { repository, spare: Mutex::default(), cancelled: Mutex::default() }
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
            return upload_at(response).await;
        }
        Err(message::failure(response).await.context(self.initiating()))
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
            202 => upload_at(response).await.map(Some),
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
        let (client, host) = (self.repository.client.clone(), self.repository.host.clone());
        let request = Request::new(Method::DELETE, Target::Url(location))
            .scope(self.repository.scope(Access::Push))
            .patience(Some(Duration::from_secs(10)));
        let (done, answered) = oneshot::channel();
        self.repository.runtime.spawn(async move {
            if let Ok(response) = client.send(&host, request).await {
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

    pub fn uploading(&self, error: Error) -> Error {
        error.context(format!("uploading layer to {}", self.path()))
    }

    /// Judges the answer to a PUT that held bytes and digest.
    ///
    /// `Ok(Some(error))` is a refusal that may be one of the method alone.
    pub async fn judge_single(&self, response: Response) -> Result<Option<Error>> {
        let status = response.status();
        if is_stored(status) {
            self.set_mode(SINGLE);
            message::drain(response).await;
            return Ok(None);
        }
        let (error, body) = message::failure_with_body(response).await;
        let method_alone = matches!(status.as_u16(), 400 | 404 | 405 | 411 | 415 | 416 | 501)
            && !errors::has_code(status, &body, &ABOUT_CONTENT)
            && self.mode() != SINGLE;
        if !method_alone {
            return Err(self.uploading(error));
        }
        self.set_mode(PATCHED);
        Ok(Some(error))
    }

    /// Judges the answer to a PATCH; returns where the upload goes on.
    pub async fn judge_patch(&self, response: Response, location: &Url) -> Result<Url> {
        if !response.status().is_success() {
            return Err(message::failure(response).await.context("uploading layer chunked"));
        }
        let next = match response.headers().get(LOCATION) {
            Some(_) => location_of(&response)?,
            None => location.clone(),
        };
        message::drain(response).await;
        Ok(next)
    }

    /// Ends an upload whose bytes were sent.
    pub async fn close(&self, location: &Url, digest: &Digest) -> Result<()> {
        let url = with_digest(location, digest);
        let request = self.request(Method::PUT, url, Payload::Empty);
        let response = within(STORE_PATIENCE, self.repository.send(request)).await?;
        if !is_stored(response.status()) {
            return Err(self.uploading(message::failure(response).await));
        }
        message::drain(response).await;
        Ok(())
    }

    /// Sends a blob that is all there.
    pub async fn send_all(&self, location: &mut Url, digest: &Digest, bytes: Bytes) -> Result<()> {
        if self.mode() != PATCHED {
            let url = with_digest(location, digest);
            let request = self.request(Method::PUT, url, Payload::Bytes(bytes.clone()));
            let response = within(STORE_PATIENCE, self.repository.send(request)).await?;
            let Some(error) = self.judge_single(response).await? else { return Ok(()) };
            self.repository.host.debug(format!("a PUT with content is refused: {error}"));
            // What the refusal did to the upload is not known: begin another.
            match self.begin(None).await? {
                Begun::Upload(another) => *location = another,
                Begun::Mounted => return Ok(()),
            }
        }
        let request = self.request(Method::PATCH, location.clone(), Payload::Bytes(bytes));
        let response = within(STORE_PATIENCE, self.repository.send(request)).await?;
        *location = self.judge_patch(response, location).await?;
        self.close(location, digest).await
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        for (_, location) in std::mem::take(&mut *self.spare()) {
            self.cancel(location);
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

async fn upload_at(response: Response) -> Result<Begun> {
    let location = location_of(&response)?;
    message::drain(response).await;
    Ok(Begun::Upload(location))
}

/// Returns where an answer says that an upload goes on.
fn location_of(response: &Response) -> Result<Url> {
    let missing = || {
        Error::new(ErrorKind::Corrupt, "the registry's answer has no Location")
            .context("determining upload URL")
    };
    let value = response.headers().get(LOCATION).ok_or_else(missing)?;
    let mut url = message::resolve(response.url(), value)
        .map_err(|error| error.context("determining upload URL"))?;
    let here = response.url();
    // A registry behind a proxy may not know that it is reached by HTTPS: credentials and bytes
    // still go the way they came.
    if here.scheme() == "https" && url.scheme() == "http" && here.host_str() == url.host_str() {
        let port = here.port();
        let _ = url.set_scheme("https").and_then(|()| url.set_port(port));
    }
    Ok(url)
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

fn is_stored(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 201 | 204)
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
