//! OCI layouts and `dir:` directories as they are on disk, read back without any of our code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use crate::sha256;

/// An OCI layout on disk.
pub struct Layout(PathBuf);

impl Layout {
    /// Opens a layout; nothing is read yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// Returns the descriptor that a tag names.
    pub fn tag(&self, tag: &str) -> io::Result<Value> {
        let index: Value = serde_json::from_slice(&fs::read(self.0.join("index.json"))?)?;
        let entries = index["manifests"].as_array().into_iter().flatten();
        let mut named = entries
            .filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag);
        named.next().cloned().ok_or_else(|| missing(&format!("tag {tag}")))
    }

    /// Returns a blob's content.
    pub fn blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        let (algorithm, hex) = digest.split_once(':').ok_or_else(|| missing(digest))?;
        fs::read(self.0.join("blobs").join(algorithm).join(hex))
    }

    /// Returns the manifest that a tag names, as JSON.
    pub fn manifest(&self, tag: &str) -> io::Result<Value> {
        let entry = self.tag(tag)?;
        let digest = entry["digest"].as_str().ok_or_else(|| missing("digest"))?;
        Ok(serde_json::from_slice(&self.blob(digest)?)?)
    }

    /// Returns the names of all blobs whose content has another digest, and of all other files
    /// among the blobs. A sound layout has none.
    pub fn unsound(&self) -> io::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for entry in fs::read_dir(self.0.join("blobs/sha256"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if sha256(&fs::read(entry.path())?) != format!("sha256:{name}") {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }

    /// Returns the names of the files in the layout's own directory, sorted.
    pub fn top_files(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// Returns every file of a directory with the digest of its content.
pub fn directory_digests(directory: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, sha256(&fs::read(entry.path())?));
    }
    Ok(files)
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the layout has no {what}"))
}
