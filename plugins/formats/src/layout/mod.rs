//! OCI image layouts: where the files are, and how `index.json` is read and replaced.
//!
//! A [`Layout`] only knows paths. [`Index`] is the parsed `index.json`; it is replaced as a whole,
//! under the lock of the layout's directory, so that no two writers lose each other's entries and
//! no reader sees half a file. What names may look like is in [`name`], references are in
//! [`mod@reference`].
//!
//! # Source
//! OCI image-spec 1.1, "Image Layout".

mod index;
mod json;
pub mod name;
pub mod reference;

use std::path::{Path, PathBuf};

use diolkos_sdk::{Digest, Error, ErrorKind, Host, RawManifest, Result};
use serde::Deserialize;

pub use index::{Choice, Entry, Index, NewEntry};

use crate::files;
use crate::staging::{DirectoryLock, replace};

/// The annotation that names an entry of `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What the file `oci-layout` holds.
pub const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The largest `oci-layout` that is read, in bytes.
pub const MAX_VERSION_SIZE: u64 = 64 * 1024;
/// The largest `index.json` that is read, in bytes.
pub const MAX_INDEX_SIZE: u64 = 64 * 1024 * 1024;

/// The places of a layout's files.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
    blobs: PathBuf,
}

impl Layout {
    /// Names the layout in a directory, perhaps with its blobs in a directory that several
    /// layouts share.
    pub fn new(directory: impl Into<PathBuf>, shared_blobs: Option<&Path>) -> Self {
        let directory = directory.into();
        // Files in the current directory are named without `./`.
        let directory = if directory == Path::new(".") { PathBuf::new() } else { directory };
        let blobs = shared_blobs.map_or_else(|| directory.join("blobs"), Path::to_owned);
        Self { directory, blobs }
    }

    /// Returns the layout's directory.
    pub fn directory(&self) -> &Path {
        if self.directory.as_os_str().is_empty() { Path::new(".") } else { &self.directory }
    }

    /// Returns the layout's own directory of blobs, which exists even if others are used.
    pub fn own_blobs(&self) -> PathBuf {
        self.directory.join("blobs")
    }

    /// Returns the path of a blob, manifests included.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().name()).join(digest.hex())
    }

    /// Returns the path a blob has in the layout's own directory.
    pub fn own_blob(&self, digest: &Digest) -> PathBuf {
        self.directory.join(blob_name(digest))
    }

    /// Reads `index.json`.
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`]: there is none.
    /// - [`ErrorKind::Corrupt`]: it is no index, or larger than [`MAX_INDEX_SIZE`].
    /// - [`ErrorKind::Unsupported`]: `oci-layout` announces a format that we do not know.
    pub fn index(&self) -> Result<Index> {
        let path = self.directory.join("index.json");
        let bytes = files::read(&path, MAX_INDEX_SIZE).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint(format!(
                "`{}` holds no OCI layout, check the path",
                self.directory().display()
            )),
            _ => error,
        })?;
        self.check_version()?;
        Index::parse(&bytes).map_err(|error| error.context(format!("parsing {}", path.display())))
    }

    /// Does [`Layout::index`], with an empty index where there is none yet.
    pub fn index_or_new(&self) -> Result<Index> {
        match self.index() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Index::new()),
            result => result,
        }
    }

    /// Reads a manifest or index by its digest.
    pub fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        files::read(&self.blob(digest), RawManifest::MAX_SIZE)
    }

    /// Waits to be the only one who changes the layout.
    pub fn lock(&self, host: &Host) -> Result<DirectoryLock> {
        DirectoryLock::acquire(self.directory(), host)
    }

    /// Replaces `index.json` in one step, and writes `oci-layout` where it is missing.
    pub fn replace_index(&self, text: &str, lock: &DirectoryLock) -> Result<()> {
        let version = self.directory.join("oci-layout");
        if files::size(&version).is_none() {
            replace(&version, OCI_LAYOUT.as_bytes(), lock)?;
        }
        replace(&self.directory.join("index.json"), text.as_bytes(), lock)
    }

    /// Other tools read layouts without `oci-layout`, so its absence is no error; but if it names
    /// another major version, nothing else in the directory can be trusted to mean what we think.
    fn check_version(&self) -> Result<()> {
        let path = self.directory.join("oci-layout");
        match files::read_if_any(&path, MAX_VERSION_SIZE)? {
            Some(bytes) => check_version(&bytes, &path.display().to_string()),
            None => Ok(()),
        }
    }
}

/// Returns the name of a blob within a layout.
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Checks what the file `oci-layout` holds; `name` is for messages.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a format that we do not know, [`ErrorKind::Corrupt`] for what is no
/// such file.
pub fn check_version(bytes: &[u8], name: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct OciLayout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let found: OciLayout = serde_json::from_slice(bytes).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("parsing {name}")).with_source(error)
    })?;
    if found.version.split('.').next() != Some("1") {
        let version = found.version;
        return Err(Error::unsupported(format!(
            "unsupported OCI layout version {version:?} in {name}"
        )));
    }
    Ok(())
}
