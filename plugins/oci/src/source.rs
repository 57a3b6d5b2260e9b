//! Reading side of the `oci:` transport.

use std::collections::HashMap;

use diolkos_formats::files;
use diolkos_formats::layout::{Choice, Entry, Layout};
use diolkos_sdk::{Blob, Descriptor, Digest, Error, ErrorKind, RawManifest, Result, Source};

/// An image that is read.
pub(crate) struct OciSource {
    layout: Layout,
    top: Entry,
    /// What `index.json` says of manifests that are also instances of the image.
    media_types: HashMap<String, String>,
}

impl OciSource {
    /// Finds the image in the layout.
    pub(crate) fn open(layout: Layout, choice: Choice<'_>) -> Result<Self> {
        let index = layout.index()?;
        let (_, top) = index.find(choice)?;
        Ok(Self { layout, top, media_types: index.media_types()? })
    }
}

impl Source for OciSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        let (digest, media_type) = match instance {
            None => (self.top.digest()?, Some(&self.top.media_type)),
            Some(digest) => (digest.clone(), self.media_types.get(digest.as_str())),
        };
        let bytes = self.layout.manifest(&digest)?;
        Ok(RawManifest::new(bytes, media_type.map_or("", String::as_str)))
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        match files::open(&self.layout.blob(&blob.digest)) {
            Ok(file) => Blob::from_file(file, from),
            Err(error) if error.kind() == ErrorKind::NotFound && !blob.urls.is_empty() => {
                let message = format!(
                    "blob {} is not in the layout, its content is at {}",
                    blob.digest,
                    blob.urls.join(", ")
                );
                Err(Error::new(ErrorKind::NotFound, message).with_source(error))
            }
            Err(error) => Err(error),
        }
    }
}
