//! A plugin as it was built for ABI 1.0, kept as source: it must load in every later 1.x host.
//!
//! The binary interface is the frozen copy in `abi-1.0/`, not the SDK's own: when that grows, this
//! plugin stays as it was, as one does that was built and shipped. Only the traits and the plain
//! types are the SDK's, since no layout of theirs crosses. The transport is `examples/memory` as
//! of ABI 1.0, so that the whole conformance kit can judge it.
//!
//! Do not update the copies. A new ABI minor version gets a folder and a plugin of its own.

#![allow(dead_code, missing_docs, unsafe_code, clippy::all, clippy::pedantic)]

#[path = "abi-1.0/entry.rs"]
mod entry;
#[path = "abi-1.0/export.rs"]
mod export;
#[path = "abi-1.0/objects.rs"]
mod objects;
#[path = "abi-1.0/types.rs"]
mod types;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

// `crate::model` and the like, for the frozen copies.
use diolkos_sdk::*;
use diolkos_sdk::{model, session, transport};
use objects::TransportsResult;

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

fn plugin() -> Plugin {
    Plugin::new().with("memory", Memory)
}

// What `export_plugin!` made of it.
extern "C" fn transports() -> TransportsResult {
    export::transports("old-plugin", plugin)
}

extern "C" fn root() -> entry::RootModuleResult {
    entry::root(transports)
}

static LIB_HEADER: entry::LibHeader = entry::lib_header(root);
static HEADER: entry::EntryHeader = entry::header(&LIB_HEADER);

// SAFETY: the name is Diolkos's own and exported once per shared library.
#[unsafe(no_mangle)]
extern "C" fn diolkos_plugin_header() -> *const entry::EntryHeader {
    &raw const HEADER
}
