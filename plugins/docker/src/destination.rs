//! Writing side: what is there is found out with as few requests as possible.
//!
//! - While an image may be there already, each blob is asked for with HEAD, or mounted from
//!   another repository, which asks and shares in one.
//! - Once an image is thought to be new, nothing is asked beforehand: an upload begins with
//!   "mount this from the repository itself", and a registry that has the blob says so.
//!
//! An upload that was begun and not used is kept for the next blob. Blobs are sent in
//! [`crate::upload`]. The manifest is visible from when it is put: it comes last.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobWanted, BlobWriter, Committed, Descriptor, Destination, Digest,
    Error, ErrorKind, LayerForm, Location, RawManifest, Result, ResultExt, TopLevel, resume,
};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::delete::{content_digest, sha256};
use crate::message::{self, number};
use crate::registry::{Access, Repository};
use crate::upload::Upload;
use crate::uploads::{Begun, Uploads};

/// How many blobs that would do as well are tried.
const MAX_SUBSTITUTES: usize = 5;
/// How long a registry may think about a manifest: some verify all that it names.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(300);

/// An image that is written to a registry.
pub(crate) struct DockerDestination {
    repository: Repository,
    uploads: Arc<Uploads>,
    /// Blobs that the repository was found not to have.
    absent: Mutex<HashSet<Digest>>,
}

/// What a HEAD of a blob says.
enum Found {
    No,
    /// Its size, where the registry tells.
    Yes(Option<u64>),
}

impl DockerDestination {
    pub fn new(repository: Repository) -> Self {
        let uploads = Arc::new(Uploads::new(repository.clone()));
        Self { repository, uploads, absent: Mutex::default() }
    }

    /// Returns the repository a location names, if blobs can be mounted from there.
    fn place<'a>(&self, location: &'a Location) -> Option<&'a str> {
        (location.scope == self.repository.name.domain()).then_some(location.place.as_str())
    }

    fn is_here(&self, place: &str) -> bool {
        place == self.repository.name.path()
    }

    async fn find(&self, digest: &Digest) -> Result<Found> {
        let rest = format!("/blobs/{digest}");
        let request = self.repository.request(Method::HEAD, &rest, Access::Push);
        let response = self.repository.send(request).await?;
        match response.status() {
            StatusCode::OK => Ok(Found::Yes(number(response.headers().get(CONTENT_LENGTH)))),
            StatusCode::NOT_FOUND => {
                self.absent().insert(digest.clone());
                Ok(Found::No)
            }
            // Some registries, and proxies before them, know no HEAD: the upload finds out.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(Found::No),
            _ => Err(message::failure(response).await.context(format!(
                "checking whether a blob {digest} exists in {}",
                self.repository.name.name()
            ))),
        }
    }

    fn absent(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a blob in this repository; one of another size than wanted is not the same.
    async fn reuse_here(&self, blob: &Descriptor) -> Result<Option<Descriptor>> {
        match self.find(&blob.digest).await? {
            Found::Yes(size) if blob.size.is_none() || size.is_none() || size == blob.size => {
                Ok(Some(Descriptor { size: blob.size.or(size), ..blob.clone() }))
            }
            _ => Ok(None),
        }
    }

    /// Mounts a blob from another repository; an upload that begins instead is kept.
    async fn reuse_from(&self, blob: &Descriptor, place: &str) -> Result<Option<Descriptor>> {
        match self.uploads.begin(Some((&blob.digest, place))).await? {
            Begun::Mounted if blob.size.is_none() => self.reuse_here(blob).await,
            Begun::Mounted => Ok(Some(blob.clone())),
            Begun::Upload(location) => {
                self.uploads.keep(Some(&blob.digest), location);
                Ok(None)
            }
        }
    }

    async fn reuse_any(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let (mut here, mut elsewhere, mut substitutes) = (false, None, Vec::new());
        for candidate in &wanted.candidates {
            let place = candidate.location.as_ref().and_then(|location| self.place(location));
            if candidate.blob.digest != wanted.blob.digest {
                // A place in another registry says nothing about this one.
                if place.is_some() || candidate.location.is_none() {
                    substitutes.push((&candidate.blob, place));
                }
            } else if let Some(place) = place {
                here |= self.is_here(place);
                elsewhere = elsewhere.or(Some(place).filter(|place| !self.is_here(place)));
            }
        }
        let mountable = !self.uploads.refuses_mounts();
        if !wanted.probably_new
            && (here || elsewhere.is_none() || !mountable)
            && let Some(found) = self.reuse_here(&wanted.blob).await?
        {
            return Ok(Some(found));
        }
        if let Some(place) = elsewhere
            && mountable
            && let Some(found) = self.reuse_from(&wanted.blob, place).await?
        {
            return Ok(Some(found));
        }
        for (blob, place) in substitutes.into_iter().take(MAX_SUBSTITUTES) {
            let found = match place {
                Some(place) if !self.is_here(place) => {
                    if mountable {
                        self.reuse_from(blob, place).await?
                    } else {
                        None
                    }
                }
                _ if wanted.probably_new => None,
                _ => self.reuse_here(blob).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Begins an upload of a blob whose digest is known; `None` when it is there already.
    async fn begin(&self, blob: &BlobIncoming, digest: &Digest) -> Result<Option<reqwest::Url>> {
        if let Some(location) = self.uploads.take(Some(digest)) {
            return Ok(Some(location));
        }
        let known_absent = self.absent().contains(digest);
        let elsewhere = blob
            .locations
            .iter()
            .filter_map(|location| self.place(location))
            .find(|place| !self.is_here(place));
        let from = match elsewhere {
            Some(place) => Some(place),
            None => (!known_absent).then(|| self.repository.name.path()),
        };
        if self.uploads.refuses_mounts()
            && !known_absent
            && let Found::Yes(_) = self.find(digest).await?
        {
            return Ok(None);
        }
        match self.uploads.begin(from.map(|from| (digest, from))).await? {
            Begun::Mounted => Ok(None),
            Begun::Upload(location) => Ok(Some(location)),
        }
    }
}

impl Destination for DockerDestination {
    fn accepts(&self) -> Accepts {
        let types = [
            media_type::OCI_MANIFEST,
            media_type::DOCKER_V2S2,
            media_type::OCI_INDEX,
            media_type::DOCKER_LIST,
            media_type::DOCKER_V2S1_SIGNED,
            media_type::DOCKER_V2S1,
        ];
        Accepts {
            manifest_types: types.map(str::to_owned).to_vec(),
            layer_form: LayerForm::Compress,
            signatures: Err(
                "the registry has no extension for signatures, and no lookaside storage is \
                 configured"
                    .into(),
            ),
            several_images: true,
            foreign_layers: true,
            parallel_blobs: true,
            needs_size: false,
        }
    }

    fn current(&self) -> Result<Option<Digest>> {
        let Some(what) = self.repository.tag_or_digest() else { return Ok(None) };
        self.repository.block_on(async {
            let request = self.repository.manifest_request(Method::HEAD, what, Access::Push);
            let response = self.repository.send(request).await?;
            match response.status() {
                StatusCode::OK => Ok(content_digest(response.headers())),
                StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED => Ok(None),
                _ => Err(message::failure(response).await.context(format!(
                    "reading manifest {what} in {}",
                    self.repository.name.name()
                ))),
            }
        })
    }

    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        self.repository.block_on(self.reuse_any(wanted))
    }

    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        if let Some(digest) = &blob.digest
            && let Some((location, received)) = self.uploads.take_resumable(digest)
        {
            let (uploads, digest) = (self.uploads.clone(), digest.clone());
            let upload = Upload::resumed(uploads, location, received, digest, blob.size);
            return Ok(Some(Box::new(upload)));
        }
        let location = match &blob.digest {
            // Where the digest comes last, the upload begins with the first bytes.
            None => None,
            Some(digest) => match self.repository.block_on(self.begin(blob, digest))? {
                None => return Ok(None),
                begun => begun,
            },
        };
        let upload = Upload::new(self.uploads.clone(), location, blob.digest.clone(), blob.size);
        Ok(Some(Box::new(upload)))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        let named = instance.map(Digest::as_str).or(self.repository.tag_or_digest());
        let what = named.map_or_else(|| sha256(&manifest.bytes).to_string(), str::to_owned);
        let content_type = HeaderValue::from_str(type_of(manifest)).map_err(|_| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("{:?} is no media type of a manifest", manifest.media_type),
            )
        })?;
        let bytes = manifest.bytes.clone().into();
        let request = self
            .repository
            .manifest_upload(&what, content_type, bytes)
            .patience(Some(MANIFEST_PATIENCE));
        self.repository
            .block_on(async {
                let response = self.repository.send(request).await?;
                if response.status().is_success() {
                    message::drain(response).await;
                    return Ok(());
                }
                Err(rejection(response).await)
            })
            .context(|| format!("uploading manifest {what} to {}", self.repository.name.name()))
    }

    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        resume::answer(name, input, |digest| self.repository.block_on(self.uploads.resume(digest)))
    }

    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        if self.repository.tag_or_digest().is_some() {
            return Ok(Committed::default());
        }
        let name = self.repository.name.with_digest(top.digest.clone());
        Ok(Committed { details: Some(format!("//{}", name.familiar())) })
    }
}

/// Makes the error of a manifest that the registry did not take.
async fn rejection(response: message::Response) -> Error {
    let status = response.status();
    let error = message::failure(response).await;
    if status != StatusCode::UNSUPPORTED_MEDIA_TYPE {
        return error;
    }
    Error::new(ErrorKind::ManifestRejected, error.message().to_owned())
}

/// Returns a manifest's media type; guessed from its fields where the source did not tell.
fn type_of(manifest: &RawManifest) -> &str {
    if !manifest.media_type.is_empty() {
        return &manifest.media_type;
    }
    let value: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
    let known = [
        media_type::OCI_MANIFEST,
        media_type::OCI_INDEX,
        media_type::DOCKER_V2S2,
        media_type::DOCKER_LIST,
        media_type::DOCKER_V2S1,
        media_type::DOCKER_V2S1_SIGNED,
    ];
    let named = value.get("mediaType").and_then(Value::as_str);
    if let Some(known) = named.and_then(|named| known.into_iter().find(|known| *known == named)) {
        return known;
    }
    match value.get("schemaVersion").and_then(Value::as_u64) {
        Some(1) if value.get("signatures").is_none() => media_type::DOCKER_V2S1,
        Some(1) => media_type::DOCKER_V2S1_SIGNED,
        _ if value.get("manifests").is_some() => media_type::OCI_INDEX,
        _ => media_type::OCI_MANIFEST,
    }
}
