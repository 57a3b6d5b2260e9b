//! Reading side of the `dir:` transport.
//!
//! The types of manifests are not recorded in the directory; the host finds them in the bytes.

use diolkos_formats::files;
use diolkos_formats::paths::ImagePath;
use diolkos_sdk::{
    Blob, Descriptor, Digest, Error, ErrorKind, RawManifest, Result, ResultExt, Signature, Source,
};

use crate::names::{self, Version};

/// An image that is read.
pub(crate) struct DirSource {
    path: ImagePath,
}

impl DirSource {
    /// Opens an image. A `version` file may be missing, as old tools wrote none.
    pub(crate) fn open(path: ImagePath) -> Result<Self> {
        let file = path.join(names::VERSION);
        let found = files::read_if_any(&file, MAX_VERSION_SIZE)
            .context(|| format!("reading version file {:?}", file.display().to_string()))?;
        if let Some(text) = found {
            let shown = String::from_utf8_lossy(&text);
            let version = Version::parse(&text).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("invalid version file content: {shown:?}"))
            })?;
            check_supported(version, &path)?;
        }
        Ok(Self { path })
    }
}

/// More than any version file has.
pub(crate) const MAX_VERSION_SIZE: u64 = 4096;

/// The largest signature file that is read, in bytes.
const MAX_SIGNATURE_SIZE: u64 = 4 * 1024 * 1024;

/// Refuses versions that are newer than what we know.
pub(crate) fn check_supported(version: Version, path: &ImagePath) -> Result<()> {
    if version <= Version::NEWEST {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "unsupported directory transport version {:?} at {}",
        version.to_text(),
        path.resolved()
    )))
}

impl Source for DirSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        let path = self.path.join(names::manifest(instance));
        Ok(RawManifest::new(files::read(&path, RawManifest::MAX_SIZE)?, ""))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let path = self.path.join(names::blob(&blob.digest));
        Blob::from_file(files::open(&path)?, from)
    }

    fn signatures(&self, instance: Option<&Digest>) -> Result<Vec<Signature>> {
        let mut signatures = Vec::new();
        loop {
            let path = self.path.join(names::signature(instance, signatures.len() + 1));
            let Some(bytes) = files::read_if_any(&path, MAX_SIGNATURE_SIZE)? else {
                return Ok(signatures);
            };
            let signature = Signature::from_blob(&bytes)
                .context(|| format!("parsing signature {:?}", path.display().to_string()))?;
            signatures.push(signature);
        }
    }
}
