//! Which blobs an image consists of: all that can be reached from its entry in `index.json`.
//!
//! Layouts come from anywhere, so an index may name itself, or the same instance a thousand times:
//! every manifest is read once.

use std::collections::HashSet;

use diolkos_formats::files;
use diolkos_formats::layout::{Entry, Layout};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{Descriptor, Digest, Error, ErrorKind, Result};
use serde::Deserialize;

/// Collects the blobs of an image, manifests included.
///
/// # Errors
/// A manifest is missing, malformed, or neither an OCI manifest nor an OCI index.
pub(crate) fn reach(layout: &Layout, from: &Entry, found: &mut Reached) -> Result<()> {
    let mut todo = vec![(from.digest()?, from.media_type.clone())];
    while let Some(manifest) = todo.pop() {
        found.blobs.insert(manifest.0.clone());
        if !found.manifests.insert(manifest.clone()) {
            continue;
        }
        let (digest, media_type) = manifest;
        match media_type.as_str() {
            media_type::OCI_MANIFEST => {
                let parsed: Manifest = parse(layout, &digest)?;
                found.blobs.extend(parsed.config.map(|config| config.digest));
                let layers = parsed.layers.unwrap_or_default();
                found.blobs.extend(layers.into_iter().map(|layer| layer.digest));
            }
            media_type::OCI_INDEX => {
                let parsed: Index = parse(layout, &digest)?;
                let manifests = parsed.manifests.unwrap_or_default();
                todo.extend(manifests.into_iter().map(|found| (found.digest, found.media_type)));
            }
            other => {
                return Err(Error::unsupported(format!(
                    "unsupported mediaType in index: {other:?}"
                )));
            }
        }
    }
    Ok(())
}

/// Blobs that were reached, and the manifests that were looked into as what they are said to be.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// All blobs, manifests included.
    pub(crate) blobs: HashSet<Digest>,
    manifests: HashSet<(Digest, String)>,
}

impl Reached {
    /// Tells whether the layout has every blob.
    pub(crate) fn is_complete(&self, layout: &Layout) -> bool {
        self.blobs.iter().all(|digest| files::size(&layout.blob(digest)).is_some())
    }
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Descriptor>>,
}

fn parse<T: for<'de> Deserialize<'de>>(layout: &Layout, digest: &Digest) -> Result<T> {
    serde_json::from_slice(&layout.manifest(digest)?).map_err(|error| {
        let message = format!("parsing {}", layout.blob(digest).display());
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })
}
