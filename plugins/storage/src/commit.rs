//! An image becomes part of the store: its layers first, then its files, then its record.
//!
//! What takes long happens before any lock is held: with vfs, unpacking; and making a layer from
//! another one's files, where the store has its content upon other layers. The rest is a few renames
//! and the records, under all locks at once, so that nobody sees layers without their image and
//! nobody removes a layer that the image is about to rest on.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use diolkos_formats::bytes::{digest_of, sha256, to_json};
use diolkos_formats::files::{drain, failed};
use diolkos_sdk::{Digest, Error, ErrorKind, Host, Reference, Result, TopLevel};
use sha2::{Digest as _, Sha256};

use crate::destination::{Content, Origin, Staged, Staging, State, StorageDestination};
use crate::manifest::{Config, Manifest};
use crate::source::{Assembled, Metadata};
use crate::store::big_data::{self, MANIFEST, SIGNATURES, manifest_key, signature_key};
use crate::store::copy_tree::copy_tree;
use crate::store::driver::Driver;
use crate::store::layers::{Layers, NewLayer, Writing, gone};
use crate::store::records::{Image, Layer, Record, Records, half_written, now, replace};
use crate::store::{Store, broken};
use crate::unpack::{Unpacked, Unpacker};

/// How often layers that somebody removed are made again.
const TRIES: u32 = 3;

/// Makes the image part of the store.
pub(crate) fn commit(destination: &StorageDestination, top: &TopLevel) -> Result<()> {
    let (reference, host) = (&destination.reference, &destination.host);
    let store = &reference.store;
    let (image, layers) = {
        let mut state = destination.state();
        let image = NewImage::gather(reference.name.as_ref(), top, &mut state)?;
        let layers = wanted(&image, &state.layers)?;
        (image, layers)
    };
    let id = reference.id.clone().unwrap_or_else(|| image.id.clone());
    let top_layer = layers.last().map(|layer| layer.id.as_str()).unwrap_or_default();
    let mut tries = 0;
    let (mut writing, new) = loop {
        let mut preparation = Preparation::new(destination)?;
        let new = match preparation.run(&layers) {
            Ok(new) => new,
            // It was read while somebody removed it.
            Err(error) => match preparation.lost(&layers) {
                Some(_) if tries < TRIES && error.kind() != ErrorKind::Cancelled => {
                    tries += 1;
                    preparation.undo()?;
                    continue;
                }
                Some(id) => return Err(gone(&id).with_source(error)),
                None => return Err(error),
            },
        };
        let writing = store.write(host)?;
        match missing(&preparation, &writing, &layers, &new)? {
            None => break (writing, new),
            // Somebody removed a layer since it was seen; it may have to be made after all.
            Some(_) if tries < TRIES => {
                tries += 1;
                drop(writing);
                preparation.undo()?;
            }
            Some(id) => return Err(gone(&id)),
        }
    };
    // Somebody may have made some meanwhile.
    let new: Vec<NewLayer> =
        new.into_iter().filter(|layer| !writing.has(&layer.layer.id)).collect();
    for parent in new.iter().map(|layer| &layer.layer.parent) {
        if let Some(parent) = writing.records().find(|layer| layer.id == *parent) {
            parent.may_be_built_upon()?;
        }
    }
    let ids: Vec<String> = new.iter().map(|layer| layer.layer.id.clone()).collect();
    if !new.is_empty() {
        writing.add(new, &destination.staging()?.trees)?;
    }
    if let Err(error) = image.write(store, &id, top_layer, host) {
        if !ids.is_empty() {
            let _ = writing.remove(&ids, &destination.staging()?.trees);
        }
        return Err(error);
    }
    host.debug(format!("wrote image {id} and {} layers", ids.len()));
    Ok(())
}

/// Returns a layer that is neither about to be in the store nor there, or not the one any more that
/// was there.
fn missing(
    preparation: &Preparation<'_>,
    writing: &Writing<'_>,
    layers: &[Wanted],
    new: &[NewLayer],
) -> Result<Option<String>> {
    let (store, host) = (preparation.store, preparation.host);
    for layer in layers {
        if new.iter().any(|new| new.layer.id == layer.id) {
            continue;
        }
        let seen = preparation.known.find(&layer.id).map(|found| &found.layer.created);
        let is_there = match writing.records().find(|record| record.id == layer.id) {
            Some(record) => seen == Some(&record.created),
            None => store.has_in_another_home(&layer.id, host)?,
        };
        if !is_there {
            return Ok(Some(layer.id.clone()));
        }
    }
    Ok(None)
}

/// A layer of the image.
struct Wanted {
    id: String,
    parent: String,
    diff_id: Digest,
    blob: Digest,
    origin: Origin,
}

/// Lists the image's layers from the bottom, with their IDs.
///
/// # Errors
/// [`ErrorKind::Corrupt`] where the config says otherwise.
fn wanted(image: &NewImage, origins: &HashMap<Digest, Origin>) -> Result<Vec<Wanted>> {
    let mut layers: Vec<Wanted> = Vec::new();
    for (index, descriptor) in image.manifest.layers.iter().enumerate() {
        let blob = &descriptor.digest;
        let origin = origins.get(blob).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("layer {blob} was neither written nor found"))
        })?;
        let diff_id = match &origin {
            Origin::Staged(staged) => staged.diff_id.clone(),
            Origin::Known(diff_id) => diff_id.clone(),
        };
        image.config.check_diff_id(index, blob, &diff_id)?;
        let parent = layers.last().map(|layer| layer.id.clone()).unwrap_or_default();
        let id = if parent.is_empty() {
            diff_id.hex().to_owned()
        } else {
            let chained = format!("{parent}+{}", diff_id.hex());
            digest_of(Sha256::new_with_prefix(chained)).hex().to_owned()
        };
        layers.push(Wanted { id, parent, diff_id, blob: blob.clone(), origin });
    }
    Ok(layers)
}

/// Making what the store does not have.
struct Preparation<'a> {
    store: &'a Store,
    host: &'a Host,
    destination: &'a StorageDestination,
    known: Layers,
    /// Trees and tar-splits of this image, by diff ID, for layers that it has twice.
    trees: HashMap<Digest, (PathBuf, PathBuf)>,
    /// The trees that were made here.
    made: Vec<PathBuf>,
}

impl<'a> Preparation<'a> {
    fn new(destination: &'a StorageDestination) -> Result<Self> {
        let (store, host) = (&*destination.reference.store, &destination.host);
        let known = store.layers(host)?;
        let (trees, made) = (HashMap::new(), Vec::new());
        Ok(Self { store, host, destination, known, trees, made })
    }

    /// Returns a layer that the image was to have from the store, and which is not there any more.
    fn lost(&self, layers: &[Wanted]) -> Option<String> {
        let now = self.store.layers(self.host).ok()?;
        let own = layers.iter().filter_map(|layer| self.known.find(&layer.id));
        let equal = layers.iter().filter_map(|layer| self.known.by_diff_id(&layer.diff_id));
        let equal = equal.filter_map(|found| self.known.chain(&found.layer.id).ok()).flatten();
        let mut ids = own.chain(equal).map(|found| &found.layer.id);
        ids.find(|id| now.find(id).is_none()).cloned()
    }

    /// Removes what was made, for another try.
    fn undo(self) -> Result<()> {
        let staging = self.destination.staging()?;
        self.made.iter().for_each(|tree| staging.trees.remove(tree));
        Ok(())
    }

    fn run(&mut self, layers: &[Wanted]) -> Result<Vec<NewLayer>> {
        let mut new: Vec<NewLayer> = Vec::new();
        for layer in layers {
            self.host.check_cancelled()?;
            if self.known.find(&layer.id).is_some() {
                continue;
            }
            let made = self.make(layer, new.last())?;
            let at = (made.tree.clone(), made.tar_split.clone());
            self.trees.entry(layer.diff_id.clone()).or_insert(at);
            new.push(made);
        }
        Ok(new)
    }

    fn make(&mut self, layer: &Wanted, below: Option<&NewLayer>) -> Result<NewLayer> {
        let staged = match &layer.origin {
            Origin::Staged(staged) => Some(&**staged),
            Origin::Known(_) => None,
        };
        if let Some(Staged { content: Content::Tree { tree, tar_split, unpacked }, .. }) = staged
            && !self.trees.contains_key(&layer.diff_id)
        {
            let record = self.record(layer, staged, unpacked);
            return Ok(NewLayer {
                layer: record,
                tree: tree.clone(),
                tar_split: tar_split.clone(),
                has_root: unpacked.has_root,
            });
        }
        let staging = self.destination.staging()?;
        let tree = match self.store.driver() {
            Driver::Overlay => staging.tree()?,
            Driver::Vfs => self.copy_of_parent(layer, below, &staging)?,
        };
        self.made.push(tree.clone());
        let tar_split = staging.files.next();
        let mut unpacker = Unpacker::new(&tree, &tar_split, self.store.rules())?;
        if let Some(Content::Archive(path)) = staged.map(|it| &it.content) {
            let mut file = File::open(path).map_err(|error| failed("open", path, error))?;
            let reading = |error| failed("read", path, error);
            drain(&mut file, self.host, reading, |bytes| unpacker.push(bytes))?;
        } else {
            self.unpack_assembled(layer, &mut unpacker)?;
        }
        let unpacked = unpacker.finish()?;
        let record = self.record(layer, staged, &unpacked);
        Ok(NewLayer { layer: record, tree, tar_split, has_root: unpacked.has_root })
    }

    /// Unpacks what the store, or this image, has upon other layers.
    fn unpack_assembled(&self, layer: &Wanted, unpacker: &mut Unpacker) -> Result<()> {
        let mut assembled = self.assembled(layer)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = assembled.fill(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            unpacker.push(&buffer[..count])?;
        }
        if digest_of(hash) != layer.diff_id {
            let message = format!("the store's layer of diff ID {} is damaged", layer.diff_id);
            return Err(broken(message));
        }
        Ok(())
    }

    /// Opens the archive of a layer that the store, or this image, has upon other layers.
    fn assembled(&self, layer: &Wanted) -> Result<Assembled> {
        if let Some((tree, tar_split)) = self.trees.get(&layer.diff_id) {
            return Assembled::new(&layer.id, vec![tree.clone()], tar_split, self.host);
        }
        let known = self.known.by_diff_id(&layer.diff_id).ok_or_else(|| gone(&layer.id))?;
        Assembled::open(self.store, known, self.host)
    }

    /// Makes a tree that begins as a copy of the one below.
    fn copy_of_parent(
        &self,
        layer: &Wanted,
        below: Option<&NewLayer>,
        staging: &Staging,
    ) -> Result<PathBuf> {
        let below = match (layer.parent.as_str(), below) {
            ("", _) => return staging.tree(),
            (parent, Some(below)) if below.layer.id == parent => below.tree.clone(),
            (parent, _) => {
                let found = self.known.find(parent).ok_or_else(|| gone(parent))?;
                self.store.tree(&found.home, parent)
            }
        };
        let tree = staging.trees.next();
        DirBuilder::new()
            .mode(0o700)
            .create(&tree)
            .map_err(|error| failed("mkdir", &tree, error))?;
        copy_tree(&below, &tree, self.store.is_confined(), self.host)
            .inspect_err(|_| staging.trees.remove(&tree))?;
        Ok(tree)
    }

    fn record(&self, layer: &Wanted, staged: Option<&Staged>, unpacked: &Unpacked) -> Layer {
        let size = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let mut record = Layer {
            id: layer.id.clone(),
            parent: layer.parent.clone(),
            created: now(),
            // What was not seen compressed counts as not compressed.
            blob: Some(layer.diff_id.clone()),
            blob_size: size(unpacked.size),
            diff_id: Some(layer.diff_id.clone()),
            diff_size: size(unpacked.size),
            uidset: unpacked.uids.clone(),
            gidset: unpacked.gids.clone(),
            ..Layer::default()
        };
        let known = self.known.by_diff_id(&layer.diff_id).map(|found| &found.layer);
        if let Some(staged) = staged {
            record.blob = Some(staged.blob.clone());
            record.blob_size = size(staged.blob_size);
            record.compression = staged.compression;
        } else if let Some(known) = known.filter(|it| it.blob.as_ref() == Some(&layer.blob)) {
            record.blob = Some(layer.blob.clone());
            record.blob_size = known.blob_size;
        }
        record
    }
}

/// All that an image's record and files are made from.
struct NewImage {
    /// The one that an image of this config has.
    id: String,
    name: Option<Reference>,
    manifest: Manifest,
    config: Config,
    metadata: String,
    /// Keys and contents in the order in which they are recorded, each with its digest.
    data: Vec<(String, Vec<u8>, Digest)>,
}

impl NewImage {
    /// Takes what came.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what is no image, and [`ErrorKind::Corrupt`] if the digest in
    /// the name is neither that of the manifest nor that of the source's.
    fn gather(name: Option<&Reference>, top: &TopLevel, state: &mut State) -> Result<Self> {
        let raw = state.manifest.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "commit of an image without manifest")
        })?;
        let manifest = Manifest::parse(&raw.bytes)?;
        let source = state.source_manifest.take().map(|bytes| (sha256(&bytes), bytes));
        if let Some(wanted) = name.and_then(Reference::digest)
            && *wanted != top.digest
            && source.as_ref().is_none_or(|(digest, _)| digest != wanted)
        {
            let message = format!("Manifest to be saved does not match expected digest {wanted}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let config = manifest.config.as_ref().map(|config| &config.digest);
        let found = config.and_then(|digest| Some((digest.clone(), state.configs.remove(digest)?)));
        let (config_digest, config) = found.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "commit of an image without its config")
        })?;
        let mut data = Vec::new();
        let parsed = Config::parse(&config)?;
        data.push((config_digest.to_string(), config, config_digest.clone()));
        if let Some((digest, bytes)) = source {
            data.push((manifest_key(&digest), bytes, digest));
        }
        data.push((manifest_key(&top.digest), raw.bytes.clone(), top.digest.clone()));
        data.push((MANIFEST.to_owned(), raw.bytes, top.digest.clone()));
        let mut metadata = Metadata::default();
        let mut signatures = Vec::new();
        for signature in &state.signatures {
            let blob = signature.to_blob();
            metadata.sizes.push(blob.len());
            signatures.extend(blob);
        }
        metadata.of_manifests.insert(top.digest.to_string(), metadata.sizes.clone());
        let digest = sha256(&signatures);
        if !signatures.is_empty() {
            data.push((SIGNATURES.to_owned(), signatures.clone(), digest.clone()));
        }
        // Even where there are none, so that nobody takes older ones for this manifest's.
        data.push((signature_key(&top.digest), signatures, digest));
        let metadata = String::from_utf8_lossy(&to_json(&metadata)?).into_owned();
        let id = config_digest.hex().to_owned();
        Ok(Self { id, name: name.cloned(), manifest, config: parsed, metadata, data })
    }

    /// Writes files and record; the caller has the layers' lock.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is an image of this ID with other layers.
    fn write(&self, store: &Store, id: &str, top_layer: &str, host: &Host) -> Result<()> {
        let mut writing = store.write_images(host)?;
        let images = &writing.records;
        let dir = store.image_dir(store.root(), id);
        let at = images.0.iter().position(|record| record.value.id == id);
        let mut image = match at {
            Some(at) => {
                let image = images.0[at].value.clone();
                image.may_be_changed()?;
                if image.top_layer != top_layer {
                    let message = format!(
                        "image with ID {id:?} already exists, but uses a different top layer: \
                         that ID is already in use"
                    );
                    return Err(Error::unsupported(message)
                        .with_hint("give another ID behind the `@`, or none"));
                }
                image
            }
            None => self.first(store, id, top_layer, host)?,
        };
        let written = self.files(&mut image, &dir).and_then(|()| {
            let images = &mut writing.records;
            image.metadata.clone_from(&self.metadata);
            if let Some(name) = &self.name {
                take_name(&mut image, &name.to_string(), at, images);
            }
            match at {
                Some(at) if images.0[at].value == image => return Ok(()),
                Some(at) => *images.0[at].change() = image,
                None => images.0.push(Record::new(image)),
            }
            writing.save()
        });
        if written.is_err() && at.is_none() {
            let _ = fs::remove_dir_all(&dir);
        }
        written
    }

    /// Begins a record; what a home that is only read has of the image is taken over.
    fn first(&self, store: &Store, id: &str, top_layer: &str, host: &Host) -> Result<Image> {
        let mut image = Image {
            id: id.to_owned(),
            top_layer: top_layer.to_owned(),
            created: self.config.created().unwrap_or_else(now),
            ..Image::default()
        };
        let Some(other) = store.image_in_another_home(id, host)? else { return Ok(image) };
        let (from, to) = (store.image_dir(&other.home, id), store.image_dir(store.root(), id));
        make_private(&to)?;
        for key in &other.image.big_data_names {
            let path = big_data::path(&to, key);
            fs::copy(big_data::path(&from, key), &path)
                .map_err(|error| failed("copy", &path, error))?;
        }
        image.digest = other.image.digest;
        image.names = other.image.names;
        image.names_history = other.image.names_history;
        image.big_data_names = other.image.big_data_names;
        image.big_data_sizes = other.image.big_data_sizes;
        image.big_data_digests = other.image.big_data_digests;
        Ok(image)
    }

    fn files(&self, image: &mut Image, dir: &std::path::Path) -> Result<()> {
        make_private(dir)?;
        // Last those that are another manifest's until now, so that a failure leaves that whole.
        let is_shared = |key: &str| matches!(key, MANIFEST | SIGNATURES);
        let (last, first): (Vec<_>, Vec<_>) =
            self.data.iter().partition(|(key, ..)| is_shared(key));
        for (key, bytes, _) in first.into_iter().chain(last) {
            // What is there already need not be written to disk again.
            if big_data::read(dir, key).ok().flatten().as_ref() != Some(bytes) {
                replace(&big_data::path(dir, key), &half_written(dir), bytes)?;
            }
        }
        for (key, bytes, digest) in &self.data {
            if !image.big_data_names.contains(key) {
                image.big_data_names.push(key.clone());
            }
            let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
            image.big_data_sizes.insert(key.clone(), size);
            image.big_data_digests.insert(key.clone(), digest.to_string());
            if image.digest.is_empty() && key.starts_with(MANIFEST) {
                image.digest = digest.to_string();
            }
        }
        Ok(())
    }
}

/// Gives an image a name, which no other keeps; its own old record is `at`.
fn take_name(image: &mut Image, name: &str, at: Option<usize>, others: &mut Records<Image>) {
    for (index, other) in others.0.iter_mut().enumerate() {
        if Some(index) != at && other.value.names.iter().any(|it| it == name) {
            other.change().names.retain(|it| it != name);
        }
    }
    let mut names = vec![name.to_owned()];
    names.extend(image.names.drain(..).filter(|old| old != name));
    for name in &names {
        image.names_history.retain(|old| old != name);
        image.names_history.insert(0, name.clone());
    }
    image.names = names;
}

fn make_private(dir: &std::path::Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| failed("mkdir", dir, error))
}

#[cfg(test)]
mod tests;
