//! Reading side: manifests and blobs, each with one request.
//!
//! Opening sends nothing. Where there are mirrors, [`crate::mirrors`] decides whom to ask. A blob is
//! resumed with a range. Foreign layers come from the URLs in
//! their descriptor, without credentials, and from the registry only where those fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Algorithm, Blob, BlobReader, Descriptor, Digest, Error, ErrorKind, RawManifest, Result,
    ResultExt, Source,
};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode, Url};

use crate::delete;
use crate::download::{self, Ask, BlobPart, Download, Empty};
use crate::errors;
use crate::message::{self, Request, Response, Target, number};
use crate::mirrors::Mirrors;
use crate::registry::{Access, Place, Repository};

/// An image in a registry, or in mirrors of it.
pub(crate) struct DockerSource {
    mirrors: Mirrors,
    /// How each blob was asked for last, where there are several places.
    asked: Mutex<HashMap<Digest, Asked>>,
    /// The top-level manifest, once it was read: nothing is asked twice.
    top: Mutex<Option<RawManifest>>,
}

impl DockerSource {
    /// Makes the source of an image that may be had in several places, first the best.
    ///
    /// # Errors
    /// The only place cannot be used.
    pub fn new(places: Vec<Place>) -> Result<Self> {
        let mirrors = Mirrors::new(places)?;
        Ok(Self { mirrors, asked: Mutex::default(), top: Mutex::default() })
    }
}

impl Source for DockerSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        if let Some(instance) = instance {
            return self.mirrors.read(|reader| reader.manifest(Some(instance)));
        }
        let mut top = self.top.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(top) = &*top {
            return Ok(top.clone());
        }
        let read = self.mirrors.choose(|reader| {
            let manifest = reader.manifest(None)?;
            // Where one place has something else under a digest, another may have it.
            match reader.repository.name.digest() {
                Some(digest) if !self.mirrors.is_single() && is_other(&manifest, digest) => {
                    let message = format!("the manifest is not the one of {digest}");
                    Err(Error::new(ErrorKind::Corrupt, message))
                }
                _ => Ok(manifest),
            }
        })?;
        *top = Some(read.clone());
        Ok(read)
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        if from > 0 && blob.size == Some(from) {
            return Ok(Blob { size: blob.size, reader: Box::new(Empty) });
        }
        if self.mirrors.is_single() {
            return self.mirrors.read(|reader| reader.blob(blob, from));
        }
        let asked = self.passed_over(blob, from);
        let read = self.mirrors.read_behind(asked.passed_over, |reader| reader.blob(blob, from));
        let Blob { size, reader } = read.inspect_err(|_| {
            // Nobody behind has it: the next try begins with the first place again.
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.digest);
        })?;
        Ok(Blob { size, reader: Box::new(Watched { reader, broke: asked.broke }) })
    }
}

impl DockerSource {
    /// Notes that a blob is asked for, and returns how many places are passed over: each that gave
    /// nothing and broke off when it was asked to go on here.
    fn passed_over(&self, blob: &Descriptor, from: u64) -> Asked {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let places = match asked.get(&blob.digest) {
            Some(last) if last.from == from && last.broke.load(Ordering::Relaxed) => {
                last.passed_over + 1
            }
            Some(last) => last.passed_over,
            None => 0,
        };
        let now = Asked { from, passed_over: places, broke: Arc::default() };
        asked.insert(blob.digest.clone(), now.clone());
        now
    }
}

/// How a blob was asked for.
#[derive(Clone)]
struct Asked {
    from: u64,
    passed_over: usize,
    broke: Arc<AtomicBool>,
}

/// A reader that notes that it broke off.
struct Watched {
    reader: Box<dyn BlobReader>,
    broke: Arc<AtomicBool>,
}

impl BlobReader for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.reader.read(buffer).inspect_err(|_| self.broke.store(true, Ordering::Relaxed))
    }
}

/// Tells whether a manifest is certainly not the one of a digest. The host verifies all of them; the
/// digest of the oldest kind is not that of its bytes.
fn is_other(manifest: &RawManifest, digest: &Digest) -> bool {
    let oldest = [media_type::DOCKER_V2S1, media_type::DOCKER_V2S1_SIGNED];
    digest.algorithm() == Algorithm::Sha256
        && !oldest.contains(&manifest.media_type.as_str())
        && delete::sha256(&manifest.bytes) != *digest
}

/// Reads what one place has.
pub(crate) struct Reader<'a> {
    repository: &'a Repository,
}

impl<'a> Reader<'a> {
    pub fn new(repository: &'a Repository) -> Self {
        Self { repository }
    }

    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        let what = match instance {
            Some(instance) => instance.as_str(),
            None => self.repository.tag_or_digest().unwrap_or("latest"),
        };
        self.repository
            .block_on(self.read_manifest(what))
            .map_err(|error| self.with_way_out(error, what))
            .context(|| format!("reading manifest {what} in {}", self.repository.name.name()))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let foreign = media_type::is_foreign_layer(&blob.media_type) && !blob.urls.is_empty();
        self.repository.block_on(async {
            let failed = if foreign {
                match self.read_foreign(&blob.urls, from).await {
                    Ok(blob) => return Ok(blob),
                    Err(error) => Some(error),
                }
            } else {
                None
            };
            let rest = format!("/blobs/{}", blob.digest);
            let repository = self.repository.clone();
            let ask = Arc::new(move || repository.request(Method::GET, &rest, Access::Pull));
            match (self.read_blob(ask, from).await, failed) {
                (Ok(blob), _) => Ok(blob),
                (Err(error), Some(failed)) if error.kind() == ErrorKind::NotFound => Err(failed),
                (Err(error), _) => Err(error.context("fetching blob")),
            }
        })
    }

    /// Says how to find out which tags there are, where one is missing.
    fn with_way_out(&self, error: Error, what: &str) -> Error {
        if error.kind() != ErrorKind::ImageNotFound || self.repository.name.tag() != Some(what) {
            return error;
        }
        let repository = self.repository.name.familiar_name();
        error.with_hint(format!("`list-tags docker://{repository}` shows which tags there are"))
    }

    async fn read_manifest(&self, what: &str) -> Result<RawManifest> {
        let request = || self.repository.manifest_request(Method::GET, what, Access::Pull);
        let limit = usize::try_from(RawManifest::MAX_SIZE).unwrap_or(usize::MAX);
        match self.repository.fetch(request, limit).await? {
            Ok(whole) => Ok(RawManifest::new(whole.body, media_type_of(&whole.headers))),
            Err(response) => Err(manifest_failure(response).await),
        }
    }

    /// Reads a blob from byte `from`; a server that gives no parts sends it whole, and what was read
    /// before is passed over.
    async fn read_blob(&self, ask: Ask, from: u64) -> Result<Blob> {
        if from > 0 {
            let request = download::with_range(ask(), from, None);
            let response = download::ask_for_bytes(self.repository, request).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT => match BlobPart::of(response.headers()) {
                    Some(BlobPart { first, size }) if first == from => {
                        return Ok(self.download(&ask, response, size, (from, false)));
                    }
                    _ => drop(response),
                },
                StatusCode::OK => {
                    let size = number(response.headers().get(CONTENT_LENGTH));
                    return Ok(self.download(&ask, response, size, (from, true)));
                }
                StatusCode::BAD_REQUEST
                | StatusCode::RANGE_NOT_SATISFIABLE
                | StatusCode::NOT_IMPLEMENTED => message::drain(response).await,
                _ => return Err(message::failure(response).await),
            }
            self.repository
                .host
                .debug("no part of the blob is to be had: reading it from the start");
        }
        let response = download::ask_for_bytes(self.repository, ask()).await?;
        if response.status() != StatusCode::OK {
            return Err(message::failure(response).await);
        }
        let size = number(response.headers().get(CONTENT_LENGTH));
        Ok(self.download(&ask, response, size, (from, from > 0)))
    }

    fn download(
        &self,
        ask: &Ask,
        response: Response,
        size: Option<u64>,
        begin: (u64, bool),
    ) -> Blob {
        Blob {
            size,
            reader: Box::new(Download::start(self.repository, ask, response, size, begin)),
        }
    }

    async fn read_foreign(&self, urls: &[String], from: u64) -> Result<Blob> {
        let mut last = Error::new(ErrorKind::NotFound, "no URL is http or https");
        for text in urls {
            let Some(url) = Url::parse(text).ok().filter(|url| url.scheme().starts_with("http"))
            else {
                continue;
            };
            let shown = errors::redact(&url);
            let ask =
                Arc::new(move || Request::new(Method::GET, Target::Url(url.clone())).anonymous());
            match self.read_blob(ask, from).await {
                Ok(blob) => return Ok(blob),
                Err(error) => {
                    last = error.context(format!("error fetching external blob from {shown:?}"));
                }
            }
        }
        Err(last.context("failed fetching external blob from all urls"))
    }
}

/// Makes the error of a manifest that could not be had.
pub(crate) async fn manifest_failure(response: Response) -> Error {
    let status = response.status();
    let (error, body) = message::failure_with_body(response).await;
    let unknown_repository = errors::has_code(status, &body, &["NAME_UNKNOWN"]);
    if error.kind() != ErrorKind::NotFound || unknown_repository {
        return error;
    }
    let mut message = error.message().to_owned();
    if body.is_empty() {
        "manifest unknown".clone_into(&mut message);
    }
    let missing = Error::new(ErrorKind::ImageNotFound, message);
    match error.hint() {
        Some(hint) => missing.with_hint(hint.to_owned()),
        None => missing,
    }
}

/// Returns the type in `Content-Type`, without parameters; empty where there is none.
fn media_type_of(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn parameters_are_no_part_of_a_media_type() {
        let of = |text| {
            media_type_of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]))
        };
        assert_eq!(of("Application/JSON; charset=utf-8"), "application/json");
        assert_eq!(media_type_of(&HeaderMap::new()), "");
    }
}
