//! What the registry holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::sha256;

/// A stored manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The `Content-Type` it was pushed with.
    pub media_type: String,
    /// Its bytes as pushed.
    pub bytes: Arc<Vec<u8>>,
    /// Their digest.
    pub digest: String,
}

#[derive(Default)]
struct Repository {
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
    blobs: BTreeSet<String>,
}

/// All repositories; blobs are kept once.
#[derive(Default)]
pub(super) struct Store {
    repositories: BTreeMap<String, Repository>,
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
    uploads: BTreeMap<String, Vec<u8>>,
    last_upload: u64,
}

impl Store {
    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<&Manifest> {
        let repository = self.repositories.get(repository)?;
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        repository.manifests.get(digest)
    }

    pub(super) fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        self.repositories.get(repository)?.blobs.get(digest)?;
        self.blobs.get(digest).cloned()
    }

    /// Returns `None` for a repository that does not exist.
    pub(super) fn tags(&self, repository: &str) -> Option<Vec<String>> {
        Some(self.repositories.get(repository)?.tags.keys().cloned().collect())
    }

    pub(super) fn digests(&self, repository: &str) -> (Vec<String>, Vec<String>) {
        self.repositories.get(repository).map_or_else(Default::default, |repository| {
            let manifests = repository.manifests.keys().cloned().collect();
            (manifests, repository.blobs.iter().cloned().collect())
        })
    }

    pub(super) fn repositories(&self) -> Vec<&str> {
        self.repositories.keys().map(String::as_str).collect()
    }

    pub(super) fn add_blob(&mut self, repository: &str, content: Vec<u8>) -> String {
        let digest = sha256(&content);
        self.blobs.entry(digest.clone()).or_insert_with(|| Arc::new(content));
        self.repository(repository).blobs.insert(digest.clone());
        digest
    }

    /// Lets `repository` have a blob that `from` has; false if that has not.
    pub(super) fn mount(&mut self, repository: &str, digest: &str, from: &str) -> bool {
        let there = self.blob(from, digest).is_some();
        if there {
            self.repository(repository).blobs.insert(digest.to_owned());
        }
        there
    }

    pub(super) fn remove_blob(&mut self, repository: &str, digest: &str) -> bool {
        self.repositories.get_mut(repository).is_some_and(|r| r.blobs.remove(digest))
    }

    pub(super) fn add_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> String {
        let digest = sha256(bytes);
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            bytes: Arc::new(bytes.to_vec()),
            digest: digest.clone(),
        };
        let repository = self.repository(repository);
        repository.manifests.insert(digest.clone(), manifest);
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// Removes a tag, or a manifest and all its tags.
    pub(super) fn remove_manifest(&mut self, repository: &str, reference: &str) -> bool {
        let Some(repository) = self.repositories.get_mut(repository) else { return false };
        if repository.tags.remove(reference).is_some() {
            return true;
        }
        repository.tags.retain(|_, digest| digest != reference);
        repository.manifests.remove(reference).is_some()
    }

    pub(super) fn move_tag(&mut self, repository: &str, tag: &str, digest: &str) {
        self.repository(repository).tags.insert(tag.to_owned(), digest.to_owned());
    }

    pub(super) fn start_upload(&mut self) -> String {
        self.last_upload += 1;
        let id = format!("upload-{}", self.last_upload);
        self.uploads.insert(id.clone(), Vec::new());
        id
    }

    pub(super) fn upload(&mut self, id: &str) -> Option<&mut Vec<u8>> {
        self.uploads.get_mut(id)
    }

    pub(super) fn end_upload(&mut self, id: &str) -> Option<Vec<u8>> {
        self.uploads.remove(id)
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}
