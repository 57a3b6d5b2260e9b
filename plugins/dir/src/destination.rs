//! Writing side of the `dir:` transport.
//!
//! Everything is staged in a hidden directory inside the destination, and moves to its place in
//! [`Destination::commit`], under the directory's lock:
//! 1. blobs and manifests of instances, which the old image does not notice;
//! 2. the new signatures *behind* the old ones, so that either image has all of its own;
//! 3. `manifest.json`: from now on it is the new image;
//! 4. the signatures to their final numbers, and whatever is not part of the new image goes.
//!
//! Killed at any moment, the directory holds the old image or the new one. Files of the old image
//! are never taken over by name, since nobody has verified them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::files::{self, failed};
use diolkos_formats::paths::ImagePath;
use diolkos_formats::staging::{DirectoryLock, Staging, is_abandoned, is_staging, make_directory};
use diolkos_sdk::{
    Accepts, Algorithm, BlobIncoming, BlobWanted, BlobWriter, Committed, Descriptor, Destination,
    Digest, Error, ErrorKind, Host, RawManifest, Result, Signature, TopLevel,
};

use crate::names::{self, Version};
use crate::options::DirOptions;
use crate::source::{MAX_VERSION_SIZE, check_supported};

/// An image that is written.
pub(crate) struct DirDestination {
    path: ImagePath,
    options: DirOptions,
    host: Host,
    staging: Arc<Staging>,
    staged: Arc<Mutex<Staged>>,
}

/// What lies in the staging directory under its final name, and signatures by what they sign.
#[derive(Default)]
struct Staged {
    files: BTreeSet<String>,
    manifest: bool,
    signatures: BTreeMap<Option<Digest>, Vec<Vec<u8>>>,
    other_digests: bool,
}

impl Staged {
    fn add(&mut self, name: &str, digest: Option<&Digest>) {
        self.files.insert(name.to_owned());
        self.note(digest);
    }

    fn note(&mut self, digest: Option<&Digest>) {
        self.other_digests |= digest.is_some_and(|d| d.algorithm() != Algorithm::Sha256);
    }
}

impl DirDestination {
    /// Prepares a directory, which may hold an image but nothing else.
    pub(crate) fn create(path: ImagePath, options: DirOptions, host: Host) -> Result<Self> {
        let mut made = Vec::new();
        if fs::metadata(path.path()).is_ok() {
            current_version(&path)?;
        } else {
            make_directory(Path::new(path.resolved()), &mut made)?;
        }
        let staging = Staging::new(path.path(), made, &host)?;
        Ok(Self { path, options, host, staging, staged: Arc::default() })
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        lock(&self.staged)
    }

    fn publish(&self, name: &str) -> Result<()> {
        let target = self.path.join(name);
        fs::rename(self.staging.path().join(name), &target)
            .map_err(|error| failed("rename", &target, error))
    }

    /// Removes all that is not part of the new image; that the image is complete matters more
    /// than that the rest is gone.
    fn remove_others(&self, keep: &BTreeSet<String>) {
        for entry in fs::read_dir(self.path.path()).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if name.to_str().is_some_and(|name| keep.contains(name)) {
                continue;
            }
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && is_staging(&path) && !is_abandoned(&path) {
                continue;
            }
            let removed =
                if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                let name = path.display();
                self.host.warn(format!("cannot remove {name} of the overwritten image: {error}"));
            }
        }
    }
}

fn lock(staged: &Mutex<Staged>) -> MutexGuard<'_, Staged> {
    staged.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the version of the image in an existing directory, `None` where it is empty.
///
/// # Errors
/// The directory holds something other than an image, or one that is too new.
fn current_version(path: &ImagePath) -> Result<Option<Version>> {
    let directory = path.path();
    let entries = fs::read_dir(directory).map_err(|error| failed("open", directory, error))?;
    if entries.flatten().all(|entry| is_staging(&entry.path())) {
        return Ok(None);
    }
    let found = files::read_if_any(&path.join(names::VERSION), MAX_VERSION_SIZE)?;
    let Some(version) = found.and_then(|text| Version::parse(&text)) else {
        let message = "not a containers image directory, don't want to overwrite important data";
        return Err(Error::new(ErrorKind::Conflict, message)
            .with_hint("choose a directory that is empty, new, or holds an image"));
    };
    check_supported(version, path)?;
    Ok(Some(version))
}

impl Destination for DirDestination {
    fn accepts(&self) -> Accepts {
        Accepts {
            manifest_types: Vec::new(),
            layer_form: self.options.layer_form,
            signatures: Ok(()),
            several_images: true,
            foreign_layers: false,
            parallel_blobs: true,
            needs_size: false,
        }
    }

    /// Reuses what this copy has written before: instances of an index share blobs.
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let blob = &wanted.blob;
        let name = names::blob(&blob.digest);
        if !self.staged().files.contains(&name) {
            return Ok(None);
        }
        let found = files::size(&self.staging.path().join(name));
        Ok(found
            .filter(|size| blob.size.is_none_or(|wanted| wanted == *size))
            .map(|size| Descriptor { size: Some(size), ..blob.clone() }))
    }

    fn put_blob(&self, _: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        let (directory, staged) = (self.staging.path().to_owned(), Arc::clone(&self.staged));
        let writer = self.staging.blob(move |sums| {
            let name = names::blob(&sums.digest);
            lock(&staged).add(&name, Some(&sums.digest));
            Ok(directory.join(name))
        })?;
        Ok(Some(writer))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        let name = names::manifest(instance);
        self.staging.write(&self.staging.path().join(&name), &manifest.bytes)?;
        match instance {
            Some(_) => self.staged().add(&name, instance),
            None => self.staged().manifest = true,
        }
        Ok(())
    }

    fn put_signatures(&self, signatures: &[Signature], instance: Option<&Digest>) -> Result<()> {
        let blobs = signatures.iter().map(Signature::to_blob).collect();
        let mut staged = self.staged();
        staged.signatures.insert(instance.cloned(), blobs);
        staged.note(instance);
        Ok(())
    }

    fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
        let staged = std::mem::take(&mut *self.staged());
        if !staged.manifest {
            return Err(Error::new(ErrorKind::Internal, "commit of a dir: image without manifest"));
        }
        let version = if staged.other_digests { Version::ANY_DIGEST } else { Version::SHA256_ONLY };
        let version_path = self.path.join(names::VERSION);
        // All that needs space is written before anything is replaced.
        let mut signatures = Vec::new();
        for (instance, blobs) in &staged.signatures {
            for (index, blob) in blobs.iter().enumerate() {
                let name = names::signature(instance.as_ref(), index + 1);
                signatures.push((name, self.staging.prepare(blob)?));
            }
        }
        let version_text = version.to_text();
        let new_version = self.staging.prepare(version_text.as_bytes())?;

        let _held = DirectoryLock::acquire(self.path.path(), &self.host)?;
        let old_version = current_version(&self.path)?;
        if old_version.is_none_or(|old| old < version) {
            self.staging.write(&version_path, version_text.as_bytes())?;
        }
        for name in &staged.files {
            self.publish(name)?;
        }
        for (instance, blobs) in &staged.signatures {
            let path = |number| self.path.join(names::signature(instance.as_ref(), number));
            let mut next = 1;
            while files::size(&path(next)).is_some() {
                next += 1;
            }
            for (index, blob) in blobs.iter().enumerate() {
                self.staging.write(&path(next + index), blob)?;
            }
        }
        self.publish(&names::manifest(None))?;

        let mut keep = staged.files;
        for (name, file) in signatures {
            let target = self.path.join(&name);
            file.persist(&target).map_err(|error| failed("rename", &target, error.error))?;
            keep.insert(name);
        }
        new_version
            .persist(&version_path)
            .map_err(|error| failed("rename", &version_path, error.error))?;
        keep.extend([names::manifest(None), names::VERSION.to_owned()]);
        self.remove_others(&keep);
        self.staging.keep_directories();
        Ok(Committed::default())
    }
}
