//! Reading an image: layers as they were before they were unpacked, uncompressed.
//!
//! No lock is held while layers are read, so that a large image keeps nobody from writing. A layer
//! that is removed meanwhile ends the copy; one that is changed has another digest than its record
//! says, which the host notices.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use diolkos_formats::files::{self, blob_of_bytes, failed};
use diolkos_sdk::{
    Blob, BlobReader, Descriptor, Digest, Error, ErrorKind, Host, Platform, RawManifest, Reference,
    Result, Session, Signature, Source,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;
use crate::reference::StorageRef;
use crate::store::big_data::{self, MANIFEST, SIGNATURES, manifest_key, signature_key};
use crate::store::layers::{Found as FoundLayer, Layers};
use crate::store::{Store, broken, images};
use crate::tar_split::{Piece, TarSplit};
use crate::unpack::clean;

/// The flag that says which diff ID a layer should have that was never seen whole.
const EXPECTED_DIFF_ID: &str = "expected-layer-diffid";

/// What an image's record says of its signatures.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// Sizes of the signatures of the manifest that was written last.
    #[serde(default, rename = "signature-sizes", skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<usize>,
    /// Sizes of each manifest's signatures.
    #[serde(
        default,
        rename = "signatures-sizes",
        skip_serializing_if = "std::collections::BTreeMap::is_empty"
    )]
    pub of_manifests: std::collections::BTreeMap<String, Vec<usize>>,
}

/// An image that is read.
pub(crate) struct StorageSource {
    reference: StorageRef,
    image: images::Found,
    host: Host,
    layers: Mutex<Option<Layers>>,
}

impl StorageSource {
    /// Finds the image.
    pub fn open(reference: &StorageRef, session: &Session) -> Result<Self> {
        let platform = &session.platform;
        let os = platform.os.clone().unwrap_or_else(|| Platform::host_os().to_owned());
        let architecture = platform.architecture.clone();
        let architecture = architecture.unwrap_or_else(|| Platform::host_architecture().to_owned());
        let store = &reference.store;
        // Images of two platforms may have come from one index, which both are then found by.
        let prefers = |found: &images::Found, digest: &Digest| {
            let dir = store.image_dir(&found.home, &found.image.id);
            let Ok(Some(bytes)) = big_data::read(&dir, &manifest_key(digest)) else { return false };
            let Ok(manifest) = Manifest::parse(&bytes) else { return false };
            let mut fitting = manifest.instances().unwrap_or_default().iter();
            fitting.any(|it| {
                it.is_for(&os, &architecture)
                    && big_data::path(&dir, &manifest_key(&it.digest)).exists()
            })
        };
        let image = reference.find(&session.host, prefers)?;
        Ok(Self {
            reference: reference.clone(),
            image,
            host: session.host.clone(),
            layers: Mutex::default(),
        })
    }

    fn store(&self) -> &Store {
        &self.reference.store
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        big_data::read(&self.store().image_dir(&self.image.home, &self.image.image.id), key)
    }

    fn missing(&self, key: &str) -> Error {
        let id = &self.image.image.id;
        Error::new(
            ErrorKind::NotFound,
            format!(
                "locating item named {key:?} for image with ID {id:?} (consider removing the \
                 image to resolve the issue): file does not exist"
            ),
        )
    }

    fn named_digest(&self) -> Option<&Digest> {
        self.reference.name.as_ref().and_then(Reference::digest)
    }

    fn with_layers<T>(&self, look: impl FnOnce(&Layers) -> Result<T>) -> Result<T> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if layers.is_none() {
            *layers = Some(self.store().layers(&self.host)?);
        }
        look(layers.as_ref().expect("they were just read"))
    }
}

impl Source for StorageSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        let bytes = if let Some(digest) = instance {
            let key = manifest_key(digest);
            self.read(&key)?.ok_or_else(|| {
                let why = self.missing(&key);
                why.context(format!("reading manifest for image instance {:?}", digest.to_string()))
            })?
        } else {
            // The one that is asked for by its digest; images of old versions have no such key.
            let named = self.named_digest().map(|digest| self.read(&manifest_key(digest)));
            match named.transpose()?.flatten() {
                Some(bytes) => bytes,
                None => self.read(MANIFEST)?.ok_or_else(|| self.missing(MANIFEST))?,
            }
        };
        Ok(RawManifest::new(bytes, ""))
    }

    fn layers(&self, instance: Option<&Digest>) -> Result<Option<Vec<Descriptor>>> {
        let mut manifest = Manifest::parse(&self.manifest(instance)?.bytes)?;
        if manifest.instances().is_some() {
            // An index that the image is known by; it is one of its instances.
            let bytes = self.read(MANIFEST)?.ok_or_else(|| self.missing(MANIFEST))?;
            manifest = Manifest::parse(&bytes)?;
        }
        self.with_layers(|layers| {
            let chain = layers.chain(&self.image.image.top_layer)?;
            let kept = chain.into_iter().enumerate().map(|(index, found)| {
                let size = u64::try_from(found.layer.diff_size).ok();
                Ok(manifest.layer_as_kept(index, diff_id_of(found)?, size))
            });
            kept.collect::<Result<Vec<_>>>().map(Some)
        })
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let layer = self.with_layers(|layers| {
            // Those of this image first: of others it is not known that they are what was meant.
            let own = layers.chain(&self.image.image.top_layer).unwrap_or_default();
            let own = own.into_iter().find(|it| diff_id_of(it).is_ok_and(|it| it == blob.digest));
            Ok(own.or_else(|| layers.by_diff_id(&blob.digest)).cloned())
        })?;
        let Some(layer) = layer else {
            let key = blob.digest.to_string();
            let bytes = self.read(&key)?.ok_or_else(|| self.missing(&key))?;
            return Ok(blob_of_bytes(&bytes, from));
        };
        if from > 0 {
            return Err(Error::unsupported("a layer in a store is read from its start alone"));
        }
        let size = u64::try_from(layer.layer.diff_size).ok();
        Ok(Blob { size, reader: Box::new(Assembled::open(self.store(), &layer, &self.host)?) })
    }

    fn signatures(&self, instance: Option<&Digest>) -> Result<Vec<Signature>> {
        let image = &self.image.image;
        let metadata: Metadata = match image.metadata.as_str() {
            "" => Metadata::default(),
            text => serde_json::from_str(text).map_err(|error| {
                broken(format!("the metadata of image {} makes no sense", image.id))
                    .with_source(error)
            })?,
        };
        let (key, sizes) = match instance {
            None => (SIGNATURES.to_owned(), metadata.sizes),
            Some(digest) => {
                let sizes = metadata.of_manifests.get(&digest.to_string());
                (signature_key(digest), sizes.cloned().unwrap_or_default())
            }
        };
        if sizes.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = self.read(&key)?.ok_or_else(|| self.missing(&key))?;
        let wrong = || {
            broken(format!(
                "the signatures of image {} have other sizes than its record says",
                image.id
            ))
        };
        let mut rest = bytes.as_slice();
        let mut signatures = Vec::new();
        for size in sizes {
            let (signature, after) = rest.split_at_checked(size).ok_or_else(wrong)?;
            signatures.push(Signature::from_blob(signature)?);
            rest = after;
        }
        if rest.is_empty() { Ok(signatures) } else { Err(wrong()) }
    }
}

/// Returns the diff ID of a layer, or the one that it should have.
fn diff_id_of(found: &FoundLayer) -> Result<Digest> {
    let layer = &found.layer;
    if let Some(diff_id) = &layer.diff_id {
        return Ok(diff_id.clone());
    }
    let expected = layer.flags.get(EXPECTED_DIFF_ID).and_then(|flag| flag.as_str());
    expected.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::unsupported(format!(
            "layer {} was pulled by parts, and its diff ID is not known",
            layer.id
        ))
        .with_hint("pull the image again with `enable_partial_images=\"false\"` in storage.conf")
    })
}

/// Tells whether a layer's files are kept where composefs has them.
fn is_composefs(store: &Store, found: &FoundLayer) -> bool {
    store.tree(&found.home, &found.layer.id).with_file_name("composefs-data").exists()
}

/// A layer's archive, made again from its files.
pub(crate) struct Assembled {
    split: TarSplit<File>,
    /// The layer's tree, and for overlay those below.
    trees: Vec<(PathBuf, OwnedFd)>,
    /// A segment, and how much of it was given.
    segment: (Vec<u8>, usize),
    /// A file, and how many bytes of it are left.
    file: Option<(File, u64)>,
    /// For messages.
    layer: String,
    host: Host,
}

impl Assembled {
    /// Opens a layer of a store.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a layer that cannot be given back bit for bit.
    pub fn open(store: &Store, found: &FoundLayer, host: &Host) -> Result<Self> {
        let (home, id) = (&found.home, &found.layer.id);
        if is_composefs(store, found) {
            return Err(Error::unsupported(format!("layer {id} is kept with composefs"))
                .with_hint("podman, buildah and skopeo can read it"));
        }
        let mut trees = vec![store.tree(home, id)];
        // A layer that was made for other owners has its files in the one that it was made from.
        if !found.layer.uidmap.is_empty() || !found.layer.gidmap.is_empty() {
            trees.extend(store.trees_below(home, id)?);
        }
        Self::new(id, trees, &store.tar_split(home, id), host)
    }

    /// Tells whether a layer's archive can be made again, as far as that shows at once.
    pub fn is_possible(store: &Store, found: &FoundLayer) -> bool {
        store.tar_split(&found.home, &found.layer.id).is_file() && !is_composefs(store, found)
    }

    /// Opens trees, of which only the first has to be there, and a tar-split.
    pub fn new(layer: &str, trees: Vec<PathBuf>, tar_split: &Path, host: &Host) -> Result<Self> {
        let split = files::open(tar_split).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::unsupported(format!(
                "layer {layer} has no tar-split, without which its archive cannot be made again"
            ))
            .with_hint("`podman save` can save the image, with another digest"),
            _ => error,
        })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &PathBuf| rustix::fs::open(path, flags, Mode::empty());
        let first = open(&trees[0]).map_err(|error| failed("open", &trees[0], error.into()))?;
        let mut opened = vec![(trees[0].clone(), first)];
        opened.extend(trees[1..].iter().filter_map(|path| Some((path.clone(), open(path).ok()?))));
        Ok(Self {
            split: TarSplit::new(split),
            trees: opened,
            segment: (Vec::new(), 0),
            file: None,
            layer: layer.to_owned(),
            host: host.clone(),
        })
    }

    fn next(&mut self) -> Result<bool> {
        let wrong = |layer: &str, error: std::io::Error| {
            broken(format!("the tar-split of layer {layer} cannot be read")).with_source(error)
        };
        let piece = self.split.next_piece().map_err(|error| wrong(&self.layer, error))?;
        match piece {
            None => return Ok(false),
            Some(Piece::Segment(bytes)) => {
                self.segment.0.clear();
                self.segment.0.extend_from_slice(bytes);
                self.segment.1 = 0;
            }
            Some(Piece::File { name, size }) => {
                let file = open_within(&self.trees, name).map_err(|error| {
                    let name = Path::new(std::ffi::OsStr::from_bytes(name));
                    let error = failed("open", &self.trees[0].0.join(name), error);
                    let message =
                        format!("layer {} is damaged, or was removed meanwhile", self.layer);
                    broken(message).with_source(error)
                })?;
                self.file = Some((file, size));
            }
        }
        Ok(true)
    }

    /// Fills a buffer as far as there are bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.host.check_cancelled()?;
        let mut filled = 0;
        while filled < buffer.len() {
            let room = &mut buffer[filled..];
            let (segment, given) = &mut self.segment;
            if *given < segment.len() {
                let count = room.len().min(segment.len() - *given);
                room[..count].copy_from_slice(&segment[*given..*given + count]);
                *given += count;
                filled += count;
            } else if let Some((file, left)) = &mut self.file {
                let most = room.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let count = match file.read(&mut room[..most]) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    read => {
                        read.map_err(|error| Error::io("cannot read a file of the layer", error))?
                    }
                };
                if count == 0 {
                    return Err(broken(format!("a file of layer {} is too short", self.layer)));
                }
                filled += count;
                *left -= count as u64;
                if *left == 0 {
                    self.file = None;
                }
            } else if !self.next()? {
                break;
            }
        }
        Ok(filled)
    }
}

impl BlobReader for Assembled {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.fill(buffer)
    }
}

/// Opens a file of a layer, whatever its name says and links in the tree do.
fn open_within(trees: &[(PathBuf, OwnedFd)], name: &[u8]) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // As it was unpacked, which is without going through what stands before a `..`.
    let name = clean(name).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut first = None;
    for (_, tree) in trees {
        match rustix::fs::openat2(tree, name.as_slice(), flags, Mode::empty(), within) {
            Ok(file) => return Ok(File::from(file)),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or(rustix::io::Errno::NOENT).into())
}
