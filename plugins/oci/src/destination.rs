//! Writing side of the `oci:` transport.
//!
//! Blobs and manifests of instances appear under their digest as soon as they are complete; until
//! an entry names them they are harmless, and a copy that is tried again finds them. The entry
//! itself is made by [`Destination::commit`]: under the lock of the layout, `index.json` is read
//! again, changed and replaced in one step, so that two writers lose nothing of each other.
//! Reading is in [`crate::source`].

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::files;
use diolkos_formats::layout::{Choice, Layout, NewEntry};
use diolkos_formats::staging::{Staging, make_directory, make_parent};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobWanted, BlobWriter, Committed, Descriptor, Destination, Digest,
    Error, ErrorKind, Host, LayerForm, RawManifest, Result, Signature, TopLevel,
};

use crate::options::OciOptions;
use crate::reach::{Reached, reach};

const NO_SIGNATURES: &str = "Pushing signatures for OCI images is not supported";

/// An image that is written.
pub(crate) struct OciDestination {
    layout: Layout,
    name: String,
    layer_form: LayerForm,
    host: Host,
    staging: Arc<Staging>,
    state: Arc<Mutex<State>>,
}

/// What this copy relies on, and what it has brought itself.
#[derive(Default)]
struct State {
    needed: BTreeSet<Digest>,
    written: HashSet<Digest>,
    manifest: Option<Vec<u8>>,
}

impl OciDestination {
    /// Prepares a layout, which may exist.
    pub(crate) fn create(
        layout: Layout,
        name: String,
        options: &OciOptions,
        host: Host,
    ) -> Result<Self> {
        layout.index_or_new()?; // An index we cannot extend is an error before any work is done.
        let mut made = Vec::new();
        make_directory(&absolute(layout.directory())?, &mut made)?;
        make_directory(&absolute(&layout.own_blobs())?, &mut made)?;
        // Beside the blobs, since a shared directory may be on another file system.
        let parent = match &options.shared_blobs {
            Some(shared) => {
                make_directory(&absolute(shared)?, &mut made)?;
                shared.as_path()
            }
            None => layout.directory(),
        };
        let staging = Staging::new(parent, made, &host)?;
        let layer_form = options.layer_form;
        Ok(Self { layout, name, layer_form, host, staging, state: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn put_file(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let path = self.layout.blob(digest);
        make_parent(&path)?;
        self.staging.write(&path, bytes)?;
        let mut state = self.state();
        state.needed.insert(digest.clone());
        state.written.insert(digest.clone());
        Ok(())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directories that are made must be found again at the end, whatever the working directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| files::failed("open", path, error))
}

impl Destination for OciDestination {
    fn accepts(&self) -> Accepts {
        Accepts {
            manifest_types: vec![media_type::OCI_MANIFEST.into(), media_type::OCI_INDEX.into()],
            layer_form: self.layer_form,
            signatures: Err(NO_SIGNATURES.into()),
            several_images: true,
            foreign_layers: true,
            parallel_blobs: true,
            needs_size: false,
        }
    }

    /// Returns the digest under the image's name, if the image is there with all its blobs: one
    /// that has lost some is mended by copying it again.
    fn current(&self) -> Result<Option<Digest>> {
        if self.name.is_empty() {
            return Ok(None);
        }
        let whole = || {
            let (_, entry) = self.layout.index()?.find(Choice::Name(&self.name))?;
            let mut reached = Reached::default();
            reach(&self.layout, &entry, &mut reached)?;
            entry.digest().map(|digest| reached.is_complete(&self.layout).then_some(digest))
        };
        Ok(whole().unwrap_or_default())
    }

    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let candidates = wanted.candidates.iter().map(|candidate| &candidate.blob);
        for blob in std::iter::once(&wanted.blob).chain(candidates) {
            let is_substitute = blob.digest != wanted.blob.digest;
            // Whether another layer of this very copy has arrived yet is a matter of timing, and
            // the result must not depend on it.
            if is_substitute && self.state().written.contains(&blob.digest) {
                continue;
            }
            let Some(size) = files::size(&self.layout.blob(&blob.digest)) else { continue };
            if blob.size.is_none_or(|wanted| wanted == size) {
                self.state().needed.insert(blob.digest.clone());
                return Ok(Some(Descriptor { size: Some(size), ..blob.clone() }));
            }
        }
        Ok(None)
    }

    fn put_blob(&self, _: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        let (layout, state) = (self.layout.clone(), Arc::clone(&self.state));
        let writer = self.staging.blob(move |sums| {
            let path = layout.blob(&sums.digest);
            make_parent(&path)?;
            let mut state = lock(&state);
            state.needed.insert(sums.digest.clone());
            state.written.insert(sums.digest.clone());
            Ok(path)
        })?;
        Ok(Some(writer))
    }

    /// Keeps a manifest of any type. Those that [`Self::accepts`] names are what a layout is for,
    /// but a Docker image whose digest must not change has to stay as it is, and other tools keep
    /// and read it here too.
    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        match instance {
            Some(digest) => self.put_file(digest, &manifest.bytes)?,
            None => self.state().manifest = Some(manifest.bytes.clone()),
        }
        Ok(())
    }

    fn put_signatures(&self, signatures: &[Signature], _: Option<&Digest>) -> Result<()> {
        if signatures.is_empty() { Ok(()) } else { Err(Error::unsupported(NO_SIGNATURES)) }
    }

    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        let manifest = self.state().manifest.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "commit of an oci: image without manifest")
        })?;
        let held = self.layout.lock(&self.host)?;
        self.put_file(&top.digest, &manifest)?;
        // Somebody may have deleted an image that had blobs in common with this one.
        let needed = std::mem::take(&mut self.state().needed);
        for digest in &needed {
            let path = self.layout.blob(digest);
            if files::size(&path).is_none() {
                let message = format!("{} was removed during the copy", path.display());
                return Err(Error::new(ErrorKind::Conflict, message)
                    .with_hint("run the copy again when nothing else changes the layout"));
            }
        }
        let mut index = self.layout.index_or_new()?;
        index.add(&NewEntry {
            media_type: top.media_type.clone(),
            digest: top.digest.clone(),
            size: manifest.len() as u64,
            name: self.name.clone(),
        })?;
        self.layout.replace_index(&index.to_text(), &held)?;
        self.staging.keep_directories();
        Ok(Committed::default())
    }
}
