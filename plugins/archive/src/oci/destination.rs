//! Writing an image into an archive of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::layout::{Index, NewEntry, OCI_LAYOUT, blob_name};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobWanted, BlobWriter, Committed, Descriptor, Destination, Digest,
    Error, ErrorKind, LayerForm, RawManifest, Result, Session, TopLevel,
};

use crate::output::Output;

/// An image that is written. An archive that was there is replaced.
pub(crate) struct ArchiveDestination {
    output: Output,
    name: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The blobs that the archive has by now, and their sizes.
    blobs: HashMap<Digest, u64>,
    manifest: Option<Vec<u8>>,
}

impl ArchiveDestination {
    /// Prepares an archive.
    pub fn create(path: &Path, name: String, session: &Session) -> Result<Self> {
        Ok(Self { output: Output::create(path, session)?, name, state: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn add(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.state().blobs.insert(digest.clone(), bytes.len() as u64).is_some() {
            return Ok(());
        }
        self.output.tar.add(&blob_name(digest), bytes)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destination for ArchiveDestination {
    fn accepts(&self) -> Accepts {
        Accepts {
            manifest_types: vec![media_type::OCI_MANIFEST.into(), media_type::OCI_INDEX.into()],
            layer_form: LayerForm::Compress,
            signatures: Err("Pushing signatures for OCI images is not supported".into()),
            several_images: true,
            foreign_layers: true,
            parallel_blobs: false,
            needs_size: false,
        }
    }

    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let state = self.state();
        let size = state.blobs.get(&wanted.blob.digest);
        Ok(size.map(|size| Descriptor { size: Some(*size), ..wanted.blob.clone() }))
    }

    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        if let Some(digest) = &blob.digest
            && self.state().blobs.contains_key(digest)
        {
            return Ok(None);
        }
        let state = Arc::clone(&self.state);
        let long = blob.digest.as_ref().is_some_and(|digest| blob_name(digest).len() > 100);
        let writer = self.output.tar.member(long, move |sums, _| {
            lock(&state).blobs.insert(sums.digest.clone(), sums.size);
            Ok(Some(blob_name(&sums.digest)))
        })?;
        Ok(Some(Box::new(writer)))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        match instance {
            Some(digest) => self.add(digest, &manifest.bytes)?,
            None => self.state().manifest = Some(manifest.bytes.clone()),
        }
        Ok(())
    }

    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        let manifest = self.state().manifest.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "commit of an oci-archive: image without manifest")
        })?;
        self.add(&top.digest, &manifest)?;
        let mut index = Index::new();
        index.add(&NewEntry {
            media_type: top.media_type.clone(),
            digest: top.digest.clone(),
            size: manifest.len() as u64,
            name: self.name.clone(),
        })?;
        self.output.tar.add("oci-layout", OCI_LAYOUT.as_bytes())?;
        self.output.tar.add("index.json", index.to_text().as_bytes())?;
        self.output.commit(true)?;
        Ok(Committed::default())
    }
}
