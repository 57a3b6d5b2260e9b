//! Blobs on their way in: begun, sent in pieces, broken off and taken up again, finished.
//!
//! # Source
//! OCI distribution-spec 1.1, "Pushing blobs".

use super::faults::Plan;
use super::store::Store;
use crate::http::{Request, Response};
use crate::sha256;

fn created(repository: &str, digest: &str) -> Response {
    Response::new(201)
        .with("Location", format!("/v2/{repository}/blobs/{digest}"))
        .with("Docker-Content-Digest", digest)
}

/// Begins an upload, mounts a blob, or takes one that is all there.
pub(super) fn begin(
    request: &Request,
    store: &mut Store,
    repository: &str,
    plan: &Plan,
) -> Response {
    if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from"))
        && !plan.ignore_mount
        && store.mount(repository, digest, from)
    {
        return created(repository, digest);
    }
    if let Some(digest) = request.query("digest") {
        return finish(store, repository, digest, request.body.clone());
    }
    let id = store.start_upload();
    Response::new(202)
        .with("Location", format!("/v2/{repository}/blobs/uploads/{id}"))
        .with("Docker-Upload-Uuid", id)
        .with("Range", "0-0")
}

/// Answers a request to an upload that was begun.
pub(super) fn go_on(request: &Request, store: &mut Store, repository: &str, id: &str) -> Response {
    let Some(so_far) = store.upload(id) else {
        return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
    };
    match request.method.as_str() {
        "GET" => progress(Response::new(204), repository, id, so_far.len()),
        "PATCH" => {
            if !continues(request, so_far.len()) {
                return progress(Response::new(416), repository, id, so_far.len());
            }
            so_far.extend_from_slice(&request.body);
            progress(Response::new(202), repository, id, so_far.len())
        }
        "PUT" => {
            let Some(digest) = request.query("digest") else {
                return Response::error(400, "DIGEST_INVALID", "no digest was provided");
            };
            if !continues(request, so_far.len()) {
                return progress(Response::new(416), repository, id, so_far.len());
            }
            let mut content = store.end_upload(id).expect("the upload was just looked at");
            content.extend_from_slice(&request.body);
            finish(store, repository, digest, content)
        }
        "DELETE" => {
            store.end_upload(id);
            Response::new(204)
        }
        _ => Response::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}

/// Adds what arrived of a body to its upload, if it goes on where that is.
pub(super) fn keep(request: &Request, store: &mut Store, id: &str) {
    if let Some(so_far) = store.upload(id)
        && continues(request, so_far.len())
    {
        so_far.extend_from_slice(&request.body);
    }
}

/// Tells whether a body begins where an upload ends.
fn continues(request: &Request, size: usize) -> bool {
    let range = request.header("content-range");
    let start = range.and_then(|range| {
        range.trim_start_matches("bytes ").split('-').next()?.parse::<usize>().ok()
    });
    start.is_none_or(|start| start == size)
}

fn progress(response: Response, repository: &str, id: &str, size: usize) -> Response {
    response
        .with("Location", format!("/v2/{repository}/blobs/uploads/{id}"))
        .with("Docker-Upload-Uuid", id)
        .with("Range", format!("0-{}", size.saturating_sub(1)))
}

fn finish(store: &mut Store, repository: &str, digest: &str, content: Vec<u8>) -> Response {
    if sha256(&content) != digest {
        return Response::error(400, "DIGEST_INVALID", "provided digest did not match");
    }
    store.add_blob(repository, content);
    created(repository, digest)
}
