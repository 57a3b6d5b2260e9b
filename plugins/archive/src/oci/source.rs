//! Reading an image from an archive, in place.

use std::collections::HashMap;

use diolkos_formats::layout::{
    Choice, Entry, Index, MAX_INDEX_SIZE, MAX_VERSION_SIZE, blob_name, check_version,
};
use diolkos_formats::tar::TarFile;
use diolkos_sdk::{Blob, Descriptor, Digest, Error, ErrorKind, RawManifest, Result, Source};

/// An image that is read.
pub(crate) struct ArchiveSource {
    tar: TarFile,
    top: Entry,
    /// What `index.json` says of manifests that are also instances of the image.
    media_types: HashMap<String, String>,
}

/// Reads the archive's `index.json`.
pub(super) fn index(tar: &TarFile) -> Result<Index> {
    let bytes = tar.read("index.json", MAX_INDEX_SIZE)?.ok_or_else(|| {
        let error = tar.broken("it holds no index.json");
        if tar.find("manifest.json").is_ok_and(|found| found.is_some()) {
            error.with_hint("it looks like what `docker save` writes: `docker-archive:` reads it")
        } else {
            error.with_hint("check that it is an archive of an OCI image layout")
        }
    })?;
    if let Some(version) = tar.read("oci-layout", MAX_VERSION_SIZE)? {
        check_version(&version, "oci-layout")?;
    }
    Index::parse(&bytes).map_err(|error| error.context("parsing index.json"))
}

impl ArchiveSource {
    /// Finds the image in the archive.
    pub fn open(tar: TarFile, choice: Choice<'_>) -> Result<Self> {
        let index = index(&tar)?;
        let (_, top) = index.find(choice)?;
        Ok(Self { tar, top, media_types: index.media_types()? })
    }
}

impl Source for ArchiveSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        let (digest, media_type) = match instance {
            None => (self.top.digest()?, Some(&self.top.media_type)),
            Some(digest) => (digest.clone(), self.media_types.get(digest.as_str())),
        };
        let bytes =
            self.tar.read(&blob_name(&digest), RawManifest::MAX_SIZE)?.ok_or_else(|| {
                let message = format!("manifest {digest} is not in the archive");
                Error::new(ErrorKind::NotFound, message)
            })?;
        Ok(RawManifest::new(bytes, media_type.map_or("", String::as_str)))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        if let Some(member) = self.tar.find(&blob_name(&blob.digest))? {
            return Ok(self.tar.blob(member, from));
        }
        let mut message = format!("blob {} is not in the archive", blob.digest);
        if !blob.urls.is_empty() {
            message = format!("{message}, its content is at {}", blob.urls.join(", "));
        }
        Err(Error::new(ErrorKind::NotFound, message))
    }
}
