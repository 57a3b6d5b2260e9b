//! A registry in memory, for the scripted server: small, strict, without authentication.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use diolkos_sdk::conformance::image::sha256;

use super::server::{Reply, Seen};

#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    next_upload: u32,
}

impl Memory {
    pub fn add_blob(&self, repository: &str, bytes: &[u8]) {
        let key = (repository.to_owned(), sha256(bytes).to_string());
        self.state.lock().unwrap().blobs.insert(key, bytes.to_vec());
    }

    pub fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let value = (media_type.to_owned(), bytes.to_vec());
        let mut state = self.state.lock().unwrap();
        for name in [tag, sha256(bytes).as_str()] {
            state.manifests.insert((repository.to_owned(), name.to_owned()), value.clone());
        }
    }

    pub fn blob(&self, repository: &str, bytes: &[u8]) -> bool {
        let key = (repository.to_owned(), sha256(bytes).to_string());
        self.state.lock().unwrap().blobs.get(&key).is_some_and(|stored| stored == bytes)
    }

    pub fn manifest(&self, repository: &str, tag: &str) -> Option<(String, Vec<u8>)> {
        let key = (repository.to_owned(), tag.to_owned());
        self.state.lock().unwrap().manifests.get(&key).cloned()
    }

    pub fn answer(&self, seen: &Seen) -> Reply {
        let path = seen.path().strip_prefix("/v2/").unwrap_or_default();
        let state = &mut *self.state.lock().unwrap();
        if let Some((repository, rest)) = path.split_once("/blobs/uploads/") {
            return upload(state, seen, repository, rest);
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            return match state.blobs.get(&(repository.to_owned(), digest.to_owned())) {
                Some(bytes) => content(seen, bytes),
                None => Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
            };
        }
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return manifest(state, seen, repository, name);
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            return tags(state, repository);
        }
        Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry")
    }
}

fn tags(state: &State, repository: &str) -> Reply {
    let names = state.manifests.keys().filter(|key| key.0 == repository);
    let tags: Vec<&str> =
        names.map(|key| key.1.as_str()).filter(|tag| !tag.contains(':')).collect();
    if tags.is_empty() {
        return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    }
    Reply::new(200).body(serde_json::json!({ "name": repository, "tags": tags }).to_string())
}

fn content(seen: &Seen, bytes: &[u8]) -> Reply {
    let range = seen.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some(from) = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok())
    else {
        return Reply::new(200).body(bytes);
    };
    Reply::new(206)
        .with("content-range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
        .body(&bytes[from..])
}

fn manifest(state: &mut State, seen: &Seen, repository: &str, name: &str) -> Reply {
    let key = (repository.to_owned(), name.to_owned());
    match seen.method.as_str() {
        "PUT" => {
            let media_type = seen.header("content-type").unwrap_or_default().to_owned();
            let digest = sha256(&seen.body).to_string();
            let value = (media_type, seen.body.clone());
            state.manifests.insert((repository.to_owned(), digest.clone()), value.clone());
            state.manifests.insert(key, value);
            Reply::new(201).with("docker-content-digest", &digest)
        }
        "DELETE" => match state.manifests.remove(&key) {
            Some(value) => {
                state.manifests.retain(|other, kept| other.0 != key.0 || *kept != value);
                Reply::new(202)
            }
            None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
        _ => match state.manifests.get(&key) {
            Some((media_type, bytes)) => Reply::new(200)
                .with("content-type", media_type)
                .with("docker-content-digest", sha256(bytes).as_str())
                .body(bytes.clone()),
            None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
    }
}

fn upload(state: &mut State, seen: &Seen, repository: &str, id: &str) -> Reply {
    let location = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?state=s%3D1");
    match seen.method.as_str() {
        "POST" => {
            if let (Some(digest), Some(from)) = (seen.query("mount"), seen.query("from"))
                && let Some(bytes) = state.blobs.get(&(from, digest.clone())).cloned()
            {
                state.blobs.insert((repository.to_owned(), digest), bytes);
                return Reply::new(201);
            }
            state.next_upload += 1;
            let id = format!("u{}", state.next_upload);
            state.uploads.insert(id.clone(), Vec::new());
            Reply::new(202).with("location", &location(&id))
        }
        "PATCH" => match state.uploads.get_mut(id) {
            Some(bytes) => {
                bytes.extend_from_slice(&seen.body);
                Reply::new(202).with("location", &location(id))
            }
            None => Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
        },
        "PUT" => {
            let Some(mut bytes) = state.uploads.remove(id) else {
                return Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
            };
            bytes.extend_from_slice(&seen.body);
            let digest = sha256(&bytes).to_string();
            if seen.query("digest") != Some(digest.clone()) {
                return Reply::error(400, "DIGEST_INVALID", "provided digest did not match");
            }
            state.blobs.insert((repository.to_owned(), digest), bytes);
            Reply::new(201)
        }
        "DELETE" => {
            state.uploads.remove(id);
            Reply::new(204)
        }
        _ => Reply::new(405),
    }
}
