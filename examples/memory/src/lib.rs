//! The `memory:` transport: images in the memory of the process, by name.
//!
//! This is a whole plugin for Diolkos, built outside its workspace as anybody's is, and the place
//! to start from when writing one:
//!
//! 1. `Cargo.toml` makes a `cdylib`, the library a host loads, and an `rlib` for the tests.
//! 2. `plugin.toml` describes the plugin; hosts read it without loading the library.
//! 3. Below, four small traits say how references are written, and how images are read and
//!    written. All that is hard is the host's: digests, compression, conversion, retries, policy.
//! 4. `tests/conformance.rs` is one line, and runs every case that applies, linked and loaded.
//!
//! To install it, build it with `cargo build --release` and put `plugin.toml`, named
//! `memory.toml`, and `libdiolkos_memory.so` into one directory of the search path, such as
//! `~/.local/share/diolkos/plugins`; `diolkos plugin check memory` then says whether it works.
//!
//! What it promises: an image appears in one step, at commit, and a destination dropped before
//! leaves no trace. Blobs belong to their image, and each image has blobs of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_sdk::*;

/// An image as it is kept: by instance, `None` being the top level, and by digest.
#[derive(Clone, Default)]
struct Image {
    manifests: BTreeMap<Option<Digest>, RawManifest>,
    signatures: BTreeMap<Option<Digest>, Vec<Signature>>,
    blobs: BTreeMap<Digest, Arc<[u8]>>,
}

/// All images of this process. A loaded plugin has its own copy of this, as of every static.
static IMAGES: Mutex<BTreeMap<String, Arc<Image>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_image(name: &str) -> Error {
    Error::new(ErrorKind::ImageNotFound, format!("there is no image `{name}` in memory"))
}

struct Memory;

impl Transport for Memory {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if details.is_empty() || details.len() > 255 || !details.chars().all(valid) {
            let message = "expected a name of letters, digits, `.`, `_` and `-`";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(Box::new(MemoryRef { name: details.to_owned() }))
    }
}

struct MemoryRef {
    name: String,
}

impl ImageRef for MemoryRef {
    fn names(&self) -> Names {
        Names { policy_identity: self.name.clone(), ..Names::new(&self.name) }
    }
    fn open(&self, _: &Session) -> Result<Box<dyn Source>> {
        let image = lock(&IMAGES).get(&self.name).cloned();
        Ok(Box::new(Reading(image.ok_or_else(|| no_image(&self.name))?)))
    }
    fn create(&self, _: &Session) -> Result<Box<dyn Destination>> {
        Ok(Box::new(Writing { name: self.name.clone(), staged: Arc::default() }))
    }
    fn delete(&self, _: &Session) -> Result<()> {
        lock(&IMAGES).remove(&self.name).map(drop).ok_or_else(|| no_image(&self.name))
    }
}

/// An image that is read; it stays as it was when it was opened.
struct Reading(Arc<Image>);

impl Source for Reading {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        self.0.manifests.get(&instance.cloned()).cloned().ok_or_else(|| {
            Error::new(ErrorKind::ImageNotFound, "the image in memory has no such instance")
        })
    }
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let bytes = self.0.blobs.get(&blob.digest).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no blob {} in memory", blob.digest))
        })?;
        let position = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Blob { size: Some(bytes.len() as u64), reader: Box::new(Reader { bytes, position }) })
    }
    fn signatures(&self, instance: Option<&Digest>) -> Result<Vec<Signature>> {
        Ok(self.0.signatures.get(&instance.cloned()).cloned().unwrap_or_default())
    }
}

struct Reader {
    bytes: Arc<[u8]>,
    position: usize,
}

impl BlobReader for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let rest = &self.bytes[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

/// An image that is written: staged apart, and put among the others at commit.
struct Writing {
    name: String,
    staged: Arc<Mutex<Image>>,
}

impl Destination for Writing {
    fn accepts(&self) -> Accepts {
        Accepts { signatures: Ok(()), ..Accepts::default() }
    }
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let digest = &wanted.blob.digest;
        let mut staged = lock(&self.staged);
        if !staged.blobs.contains_key(digest) {
            let images = lock(&IMAGES);
            let found = images.values().find_map(|image| image.blobs.get(digest));
            let Some(found) = found else { return Ok(None) };
            staged.blobs.insert(digest.clone(), found.clone());
        }
        let size = staged.blobs[digest].len() as u64;
        Ok(Some(Descriptor { size: Some(size), ..wanted.blob.clone() }))
    }
    fn put_blob(&self, _: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        Ok(Some(Box::new(Writer { bytes: Vec::new(), staged: self.staged.clone() })))
    }
    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        lock(&self.staged).manifests.insert(instance.cloned(), manifest.clone());
        Ok(())
    }
    fn put_signatures(&self, signatures: &[Signature], instance: Option<&Digest>) -> Result<()> {
        lock(&self.staged).signatures.insert(instance.cloned(), signatures.to_vec());
        Ok(())
    }
    fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
        let image = std::mem::take(&mut *lock(&self.staged));
        lock(&IMAGES).insert(self.name, Arc::new(image));
        Ok(Committed::default())
    }
}

struct Writer {
    bytes: Vec<u8>,
    staged: Arc<Mutex<Image>>,
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
    fn finish(self: Box<Self>, sums: &BlobSums) -> Result<()> {
        lock(&self.staged).blobs.insert(sums.digest.clone(), self.bytes.into());
        Ok(())
    }
}

/// Makes the plugin; tests of the host link it by this function.
pub fn plugin() -> Plugin {
    Plugin::new().with("memory", Memory)
}

diolkos_sdk::export_plugin!(plugin);
