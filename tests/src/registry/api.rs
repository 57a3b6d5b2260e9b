//! What the paths below `/v2/` mean; uploads are in [`super::uploads`].
//!
//! # Source
//! OCI distribution-spec 1.1.

use std::sync::Mutex;

use super::faults::Plan;
use super::store::Store;
use super::uploads;
use crate::http::{Request, Response};
use crate::{lock, sha256};

/// A path below `/v2/`, taken apart.
enum Route<'a> {
    Base,
    Catalog,
    Tags { repository: &'a str },
    Manifest { repository: &'a str, reference: &'a str },
    Blob { repository: &'a str, digest: &'a str },
    NewUpload { repository: &'a str },
    Upload { repository: &'a str, id: &'a str },
}

fn route(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v2")?.trim_start_matches('/');
    if rest.is_empty() {
        return Some(Route::Base);
    }
    if rest == "_catalog" {
        return Some(Route::Catalog);
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return Some(Route::Tags { repository });
    }
    if let Some((repository, id)) = rest.split_once("/blobs/uploads") {
        return Some(match id.trim_start_matches('/') {
            "" => Route::NewUpload { repository },
            id => Route::Upload { repository, id },
        });
    }
    if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
        return Some(Route::Blob { repository, digest });
    }
    let (repository, reference) = rest.rsplit_once("/manifests/")?;
    Some(Route::Manifest { repository, reference })
}

/// Answers one request.
pub(super) fn answer(request: &Request, store: &Mutex<Store>, plan: &Plan) -> Response {
    let Some(route) = route(&request.path) else {
        return Response::new(404).body("404 page not found\n");
    };
    let store = &mut *lock(store);
    let method = request.method.as_str();
    match (route, method) {
        (Route::Base, "GET" | "HEAD") => json("{}"),
        (Route::Catalog, "GET") => {
            json(serde_json::json!({"repositories": store.repositories()}).to_string())
        }
        (Route::Tags { repository }, "GET") => tags(request, store, repository),
        (Route::Manifest { repository, reference }, "GET" | "HEAD") => {
            manifest(store, repository, reference)
        }
        (Route::Manifest { repository, reference }, "PUT") => {
            put_manifest(request, store, repository, reference)
        }
        (Route::Manifest { repository, reference }, "DELETE") => {
            if store.remove_manifest(repository, reference) {
                Response::new(202)
            } else {
                Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            }
        }
        (Route::Blob { repository, digest }, "GET" | "HEAD") => {
            blob(request, store, repository, digest, plan)
        }
        (Route::Blob { repository, digest }, "DELETE") => {
            if store.remove_blob(repository, digest) {
                Response::new(202)
            } else {
                no_blob()
            }
        }
        (Route::NewUpload { repository }, "POST") => {
            uploads::begin(request, store, repository, plan)
        }
        (Route::Upload { repository, id }, _) => uploads::go_on(request, store, repository, id),
        _ => Response::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}

/// Lets a tag name another manifest.
pub(super) fn move_tag(request: &Request, store: &Mutex<Store>, digest: &str) {
    if let Some(Route::Manifest { repository, reference }) = route(&request.path) {
        lock(store).move_tag(repository, reference, digest);
    }
}

/// Keeps what arrived of a body that broke off, or forgets its upload.
pub(super) fn broken_off(request: &Request, store: &Mutex<Store>, forget: bool) {
    if let Some(Route::Upload { id, .. }) = route(&request.path) {
        let store = &mut *lock(store);
        if forget {
            store.end_upload(id);
        } else if matches!(request.method.as_str(), "PATCH" | "PUT") {
            uploads::keep(request, store, id);
        }
    }
}

fn json(body: impl Into<Vec<u8>>) -> Response {
    Response::new(200).json(body)
}

fn no_blob() -> Response {
    Response::error(404, "BLOB_UNKNOWN", "blob unknown to registry")
}

fn tags(request: &Request, store: &Store, repository: &str) -> Response {
    let Some(mut tags) = store.tags(repository) else {
        return Response::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    if let Some(last) = request.query("last") {
        tags.retain(|tag| tag.as_str() > last);
    }
    let count = request.query("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let more = tags.len() > count;
    tags.truncate(count);
    let next = tags
        .last()
        .filter(|_| more)
        .map(|last| format!("</v2/{repository}/tags/list?last={last}&n={count}>; rel=\"next\""));
    let body = serde_json::json!({"name": repository, "tags": tags}).to_string();
    match next {
        Some(next) => json(body).with("Link", next),
        None => json(body),
    }
}

fn manifest(store: &Store, repository: &str, reference: &str) -> Response {
    let Some(manifest) = store.manifest(repository, reference) else {
        return Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    Response::new(200)
        .with("Content-Type", manifest.media_type.as_str())
        .with("Docker-Content-Digest", manifest.digest.as_str())
        .with("Etag", format!("\"{}\"", manifest.digest))
        .shared_body(manifest.bytes.clone())
}

fn put_manifest(
    request: &Request,
    store: &mut Store,
    repository: &str,
    reference: &str,
) -> Response {
    let invalid = |why: &str| Response::error(400, "MANIFEST_INVALID", why);
    let Some(media_type) = request.header("content-type") else {
        return invalid("a manifest without a media type");
    };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&request.body) else {
        return invalid("a manifest that is no JSON");
    };
    if let Some(own) = value.get("mediaType").and_then(|own| own.as_str())
        && own != media_type
    {
        return invalid("the media type is not that of the header");
    }
    let digest = sha256(&request.body);
    let by_digest = reference.contains(':');
    if by_digest && reference != digest {
        return Response::error(400, "DIGEST_INVALID", "provided digest did not match");
    }
    if let Some(missing) = missing_content(store, repository, &value) {
        return Response::error(400, "MANIFEST_BLOB_UNKNOWN", &format!("{missing} is missing"));
    }
    let tag = (!by_digest).then_some(reference);
    store.add_manifest(repository, tag, media_type, &request.body);
    Response::new(201)
        .with("Location", format!("/v2/{repository}/manifests/{digest}"))
        .with("Docker-Content-Digest", digest)
}

/// Returns something that a manifest refers to and the repository lacks.
///
/// Instances of an index may be absent, as most registries allow; foreign layers always may.
fn missing_content(
    store: &Store,
    repository: &str,
    manifest: &serde_json::Value,
) -> Option<String> {
    let layers = manifest.get("layers").and_then(|layers| layers.as_array());
    let content = manifest.get("config").into_iter().chain(layers.into_iter().flatten());
    content
        .filter(|descriptor| descriptor.get("urls").is_none())
        .filter_map(|descriptor| descriptor.get("digest")?.as_str())
        .find(|digest| store.blob(repository, digest).is_none())
        .map(str::to_owned)
}

fn blob(request: &Request, store: &Store, repository: &str, digest: &str, plan: &Plan) -> Response {
    let Some(content) = store.blob(repository, digest) else { return no_blob() };
    let range = request.header("range").filter(|_| !plan.ignore_range).map(|range| {
        let first = range.trim_start_matches("bytes=").trim_end_matches('-').parse::<u64>();
        match (plan.short_part, first) {
            (Some(bytes), Ok(first)) => format!("bytes={first}-{}", first + bytes - 1),
            _ => range.to_owned(),
        }
    });
    Response::new(200)
        .with("Content-Type", "application/octet-stream")
        .with("Docker-Content-Digest", digest)
        .with("Accept-Ranges", "bytes")
        .shared_body(content)
        .ranged(range.as_deref())
}
