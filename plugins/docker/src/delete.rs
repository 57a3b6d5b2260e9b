//! Deleting an image: registries delete manifests by digest alone.

use diolkos_sdk::{Algorithm, Digest, Error, ErrorKind, RawManifest, Result};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use sha2::Digest as _;

use crate::message::{self, Repeated};
use crate::registry::{Access, Repository};

/// Deletes the image that a reference names, under all of its tags.
pub(crate) fn delete(repository: &Repository) -> Result<()> {
    repository.block_on(async {
        let digest = match (repository.name.digest(), repository.name.tag()) {
            (Some(digest), _) => digest.clone(),
            (None, Some(tag)) => find(repository, tag).await?,
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "Docker reference without a tag or digest cannot be deleted",
                ));
            }
        };
        let request = repository.manifest_request(Method::DELETE, digest.as_str(), Access::Delete);
        let response = repository.send(request).await?;
        match response.status() {
            status if status.is_success() => {
                message::drain(response).await;
                Ok(())
            }
            // The answer to the first request alone was lost.
            StatusCode::NOT_FOUND if response.extensions().get::<Repeated>().is_some() => Ok(()),
            StatusCode::NOT_FOUND => Err(missing(repository)),
            StatusCode::METHOD_NOT_ALLOWED => {
                let error = message::failure(response).await;
                let hint = "the registry does not allow deleting; registries made from \
                    distribution allow it with REGISTRY_STORAGE_DELETE_ENABLED=true";
                Err(deleting(repository, error).with_hint(hint))
            }
            _ => Err(deleting(repository, message::failure(response).await)),
        }
    })
}

fn deleting(repository: &Repository, error: Error) -> Error {
    error.context(format!("deleting {}", repository.name))
}

fn missing(repository: &Repository) -> Error {
    // Not "image not found": whether it is there or in another form, nobody can tell.
    Error::new(
        ErrorKind::NotFound,
        format!(
            "Unable to delete {}. Image may not exist or is not stored with a v2 Schema in a v2 \
             registry",
            repository.name
        ),
    )
}

/// Finds out the digest of a tag's manifest.
async fn find(repository: &Repository, tag: &str) -> Result<Digest> {
    let request = repository.manifest_request(Method::HEAD, tag, Access::Delete);
    let response = repository.send(request).await?;
    match response.status() {
        StatusCode::OK => {
            if let Some(digest) = content_digest(response.headers()) {
                return Ok(digest);
            }
        }
        StatusCode::NOT_FOUND => return Err(missing(repository)),
        StatusCode::METHOD_NOT_ALLOWED => {}
        _ => return Err(deleting(repository, message::failure(response).await)),
    }
    let request = repository.manifest_request(Method::GET, tag, Access::Delete);
    let response = repository.send(request).await?;
    match response.status() {
        StatusCode::OK => {
            let limit = usize::try_from(RawManifest::MAX_SIZE).unwrap_or(usize::MAX);
            let bytes = message::body(response, limit).await?;
            Ok(sha256(&bytes))
        }
        StatusCode::NOT_FOUND => Err(missing(repository)),
        _ => Err(deleting(repository, message::failure(response).await)),
    }
}

/// Returns the digest that a registry gives with a manifest.
pub(crate) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.trim().parse().ok()
}

/// Returns the digest of a manifest.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let hash = sha2::Sha256::digest(bytes);
    Digest::from_hash(Algorithm::Sha256, &hash).expect("the hash has the algorithm's length")
}
