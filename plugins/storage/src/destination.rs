//! Writing an image: its layers, as they come. What makes them part of the store is in
//! [`crate::commit`].
//!
//! With overlay a layer is unpacked while it comes, all of an image at the same time: each has only
//! what it changes. With vfs each begins as a copy of the one below, which has to be whole; its
//! archive waits in a file.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::files::failed;
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobRole, BlobSums, BlobWanted, BlobWriter, Committed, Descriptor,
    Destination, Digest, Error, ErrorKind, Host, LayerForm, RawManifest, Result, Session,
    Signature, TopLevel, source_manifest, unpacked_layers,
};

use crate::manifest::{Config, Manifest, TYPES};
use crate::reference::StorageRef;
use crate::source::Assembled;
use crate::store::Store;
use crate::store::driver::Driver;
use crate::store::layers::Layers;
use crate::store::temporary::Temporary;
use crate::unpack::{Rules, Unpacked, Unpacker, Whiteouts};

/// The largest config that is kept in memory, in bytes.
const MOST: usize = 32 << 20;
/// The mode of a layer's root.
const ROOT_MODE: u32 = 0o555;

/// An image that is written.
pub(crate) struct StorageDestination {
    pub(crate) reference: StorageRef,
    pub(crate) host: Host,
    /// The layers that the store had at the beginning.
    known: Layers,
    state: Arc<Mutex<State>>,
    /// The host hands layers over uncompressed.
    unpacks: AtomicBool,
}

/// What has come so far.
#[derive(Default)]
pub(crate) struct State {
    pub staging: Option<Arc<Staging>>,
    /// By the digest in the manifest.
    pub layers: HashMap<Digest, Origin>,
    /// Configs, by digest.
    pub configs: HashMap<Digest, Vec<u8>>,
    pub manifest: Option<RawManifest>,
    /// The manifest that the source has, where that is another one.
    pub source_manifest: Option<Vec<u8>>,
    pub signatures: Vec<Signature>,
}

/// Where the layer of a blob comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// It was unpacked, or waits to be.
    Staged(Arc<Staged>),
    /// The store has a layer of this diff ID.
    Known(Digest),
}

/// A layer that came.
#[derive(Debug)]
pub(crate) struct Staged {
    pub diff_id: Digest,
    pub blob: Digest,
    pub blob_size: u64,
    /// As the records number them.
    pub compression: i64,
    pub content: Content,
}

/// In which form a layer is there.
#[derive(Debug)]
pub(crate) enum Content {
    /// A tree and its tar-split.
    Tree { tree: PathBuf, tar_split: PathBuf, unpacked: Unpacked },
    /// The archive, uncompressed.
    Archive(PathBuf),
}

/// The temporary directories of a copy.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Beside the layers' trees, perhaps on a mount of their own.
    pub trees: Temporary,
    /// Beside the records.
    pub files: Temporary,
}

impl StorageDestination {
    /// Looks at the store, which need not be there yet.
    pub fn create(reference: &StorageRef, session: &Session) -> Result<Self> {
        let store = &reference.store;
        store.may_be_written()?;
        Ok(Self {
            reference: reference.clone(),
            host: session.host.clone(),
            known: store.layers(&session.host)?,
            state: Arc::default(),
            unpacks: AtomicBool::new(false),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the temporary directories, making them and the store if need be.
    pub(crate) fn staging(&self) -> Result<Arc<Staging>> {
        let mut state = self.state();
        if let Some(staging) = &state.staging {
            return Ok(Arc::clone(staging));
        }
        let staging = Arc::new(Staging::new(&self.reference.store)?);
        state.staging = Some(Arc::clone(&staging));
        Ok(staging)
    }
}

impl Staging {
    /// Makes the directories, and the store if need be.
    pub fn new(store: &Store) -> Result<Self> {
        store.make()?;
        let trees = Temporary::new(&store.temporary_root())?;
        let files = Temporary::new(&store.temporary_files_root())?;
        Ok(Self { trees, files })
    }

    /// Makes the root of a tree that a layer is unpacked to.
    pub fn tree(&self) -> Result<PathBuf> {
        let tree = self.trees.next();
        DirBuilder::new()
            .mode(0o700)
            .create(&tree)
            .map_err(|error| failed("mkdir", &tree, error))?;
        // The process may have a mask.
        fs::set_permissions(&tree, fs::Permissions::from_mode(ROOT_MODE))
            .map_err(|error| failed("chmod", &tree, error))?;
        Ok(tree)
    }
}

impl Store {
    /// Returns how layers of this store are unpacked.
    pub(crate) fn rules(&self) -> Rules {
        let settings = self.settings();
        let is_confined = self.is_confined();
        let whiteouts = match self.driver() {
            Driver::Vfs => Whiteouts::Remove,
            Driver::Overlay if settings.mount_program.is_some() => Whiteouts::Files,
            Driver::Overlay if is_confined => Whiteouts::Devices("user.overlay.opaque"),
            Driver::Overlay => Whiteouts::Devices("trusted.overlay.opaque"),
        };
        Rules { whiteouts, is_confined, ignores_chown_errors: settings.ignores_chown_errors }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destination for StorageDestination {
    fn accepts(&self) -> Accepts {
        Accepts {
            manifest_types: TYPES.map(str::to_owned).to_vec(),
            // The manifest stays as it is; the layers are handed over uncompressed all the same.
            layer_form: LayerForm::Preserve,
            signatures: Ok(()),
            several_images: false,
            foreign_layers: false,
            parallel_blobs: true,
            needs_size: false,
        }
    }

    /// Finds a layer by the digest of its archive or of the blob that it was made from, which are
    /// known of the store's layers because they were seen.
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        if !matches!(wanted.role, BlobRole::Layer(_)) {
            return Ok(None);
        }
        let blob = &wanted.blob;
        let equal = wanted.candidates.iter().map(|candidate| &candidate.blob.digest);
        let (mut found, mut size) = (None, blob.size);
        for digest in std::iter::once(&blob.digest).chain(equal) {
            let is_blob = *digest == blob.digest;
            let by_diff_id = self.known.by_diff_id(digest);
            let Some(layer) = by_diff_id.or_else(|| self.known.by_blob(digest)) else { continue };
            // Upon other layers it is made again from its archive.
            if !Assembled::is_possible(&self.reference.store, layer) {
                continue;
            }
            let layer = &layer.layer;
            let Some(diff_id) = &layer.diff_id else { continue };
            let known = if by_diff_id.is_some() { layer.diff_size } else { layer.blob_size };
            let known = u64::try_from(known).ok();
            if is_blob && size.is_some() && size != known {
                continue;
            }
            if is_blob {
                size = size.or(known);
            }
            found = Some(diff_id.clone());
            break;
        }
        let (Some(diff_id), Some(size)) = (found, size) else { return Ok(None) };
        self.state().layers.entry(blob.digest.clone()).or_insert(Origin::Known(diff_id));
        // The same content, so that the manifest need not change.
        Ok(Some(Descriptor { size: Some(size), ..blob.clone() }))
    }

    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        let state = Arc::clone(&self.state);
        if blob.role == BlobRole::Config {
            return Ok(Some(Box::new(ConfigWriter { bytes: Vec::new(), state })));
        }
        if !self.unpacks.load(Ordering::Relaxed) {
            let message = "the host is too old for this plugin: it does not unpack layers";
            return Err(Error::unsupported(message).with_hint("use a newer host"));
        }
        let staging = self.staging()?;
        let store = &self.reference.store;
        let to = match store.driver() {
            Driver::Overlay => {
                let (tree, tar_split) = (staging.tree()?, staging.files.next());
                let unpacker = Unpacker::new(&tree, &tar_split, store.rules())?;
                To::Tree { unpacker: Box::new(unpacker), tree, tar_split }
            }
            Driver::Vfs => {
                let path = staging.files.next();
                let file = File::create_new(&path).map_err(|error| failed("open", &path, error))?;
                To::Archive { file, path }
            }
        };
        let media_type = blob.media_type.as_str();
        let compression = if media_type.contains("zstd") {
            4
        } else if media_type.contains("gzip") {
            2
        } else {
            0
        };
        let host = self.host.clone();
        Ok(Some(Box::new(LayerWriter { to: Some(to), compression, state, host, staging })))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        if instance.is_some() {
            return Err(Error::unsupported("a store keeps no lists of images"));
        }
        Manifest::parse(&manifest.bytes)?.check_is_image()?;
        self.state().manifest = Some(manifest.clone());
        Ok(())
    }

    fn put_signatures(&self, signatures: &[Signature], _: Option<&Digest>) -> Result<()> {
        self.state().signatures = signatures.to_vec();
        Ok(())
    }

    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        crate::commit::commit(&self, top)?;
        Ok(Committed::default())
    }

    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        unpacked_layers::answer(name, || self.unpacks.store(true, Ordering::Relaxed)).or_else(
            || {
                source_manifest::answer(name, input, |manifest| {
                    self.state().source_manifest = Some(manifest.to_vec());
                    Ok(())
                })
            },
        )
    }
}

impl Drop for StorageDestination {
    fn drop(&mut self) {
        let staging = self.state().staging.take().and_then(Arc::into_inner);
        if let Some(Staging { trees, files }) = staging {
            self.reference.store.leave(vec![trees, files]);
        }
    }
}

/// Takes a config.
struct ConfigWriter {
    bytes: Vec<u8>,
    state: Arc<Mutex<State>>,
}

impl BlobWriter for ConfigWriter {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        if self.bytes.len() + chunk.len() > MOST {
            let message = format!("the config has more than {MOST} bytes");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, sums: &BlobSums) -> Result<()> {
        // Before the image is whole, so that nothing is done for one that cannot be kept.
        Config::parse(&self.bytes)?;
        lock(&self.state).configs.insert(sums.digest.clone(), self.bytes);
        Ok(())
    }
}

/// Takes a layer.
struct LayerWriter {
    to: Option<To>,
    compression: i64,
    state: Arc<Mutex<State>>,
    host: Host,
    staging: Arc<Staging>,
}

enum To {
    Tree { unpacker: Box<Unpacker>, tree: PathBuf, tar_split: PathBuf },
    Archive { file: File, path: PathBuf },
}

impl BlobWriter for LayerWriter {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.host.check_cancelled()?;
        match self.to.as_mut().expect("a writer is written to until it is finished") {
            To::Tree { unpacker, .. } => unpacker.push(chunk),
            To::Archive { file, path } => {
                file.write_all(chunk).map_err(|error| failed("write", path, error))
            }
        }
    }

    fn finish(mut self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let diff_id = sums.diff_id.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the host did not say what an unpacked layer's diff ID is",
            )
        })?;
        let content = match self.to.take().expect("a writer is finished once") {
            To::Tree { unpacker, tree, tar_split } => {
                let unpacked = match unpacker.finish() {
                    Ok(unpacked) => unpacked,
                    Err(error) => {
                        self.staging.trees.remove(&tree);
                        return Err(error);
                    }
                };
                if unpacked.lost_xattrs > 0 {
                    self.host.warn(format!(
                        "{} extended attributes of {} could not be set here",
                        unpacked.lost_xattrs, sums.digest
                    ));
                }
                Content::Tree { tree, tar_split, unpacked }
            }
            To::Archive { path, .. } => Content::Archive(path),
        };
        let compression = if diff_id == sums.digest { 0 } else { self.compression };
        let (blob, blob_size) = (sums.digest.clone(), sums.size);
        let staged = Staged { diff_id, blob: blob.clone(), blob_size, compression, content };
        lock(&self.state).layers.insert(blob, Origin::Staged(Arc::new(staged)));
        Ok(())
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        match self.to.take() {
            Some(To::Tree { tree, tar_split, .. }) => {
                self.staging.trees.remove(&tree);
                let _ = fs::remove_file(tar_split);
            }
            Some(To::Archive { path, .. }) => {
                let _ = fs::remove_file(path);
            }
            None => {}
        }
    }
}
