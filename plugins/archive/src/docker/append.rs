//! Adding an image to an archive that holds others.
//!
//! The archive is made anew under its temporary name: what it holds is copied, but for the lists of
//! its images, which are written again at its end. Layers that it has are not written twice.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use diolkos_formats::bytes::{digest_of, sha256};
use diolkos_formats::docker_archive::{Image, Images, NAME};
use diolkos_formats::files::{drain, failed};
use diolkos_formats::inflate::Form;
use diolkos_formats::tar::{Member, TarFile};
use diolkos_sdk::{Algorithm, Digest, Error, ErrorKind, Host, Reference, Result, Session};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::legacy::{REPOSITORIES, Repositories};
use crate::output::Output;

/// What lists an archive's images; what is left of an OCI layout would not know the new one.
const LISTS: [&str; 4] = [NAME, REPOSITORIES, "index.json", "oci-layout"];
/// The largest lists and configs that are read, in bytes.
const MAX_JSON: u64 = 32 << 20;

/// What an archive holds that an image is added to.
#[derive(Default)]
pub(super) struct Existing {
    pub images: Vec<Image>,
    pub repositories: Repositories,
    /// Where uncompressed layers and configs are, and under which name, as the archive says.
    pub blobs: HashMap<Digest, (Member, String)>,
    /// All of it, as it is in the new archive.
    members: Option<TarFile>,
    /// Keeps others from adding images meanwhile.
    lock: Option<File>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Existing {
    /// Copies an archive to the beginning of another, and says what it holds.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while somebody else adds an image; [`ErrorKind::Unsupported`] for one
    /// that is compressed as a whole; [`ErrorKind::Corrupt`] for what is no such archive.
    pub fn take_over(path: &Path, output: &Output, session: &Session) -> Result<Self> {
        let file = lock(path)?;
        let form = Form::of_reader(&file).map_err(|error| failed("read", path, error))?;
        if form.is_some() {
            let message = format!("{} is compressed: nothing can be added to it", path.display());
            return Err(Error::unsupported(message).with_hint("decompress it first"));
        }
        let cloned = file.try_clone().map_err(|error| failed("open", path, error))?;
        let old = TarFile::new(path, cloned)?;
        let images = Images::read(&old)?.into_entries();
        let repositories = match old.read(REPOSITORIES, MAX_JSON)? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Repositories::default(),
        };
        if old.find("index.json")?.is_some() {
            session.host.info(format!("the OCI layout in {} is left out", path.display()));
        }
        output.tar.take_over(&file, path, &LISTS, &session.host)?;
        let members = output.tar.as_file(path)?;
        let mut existing =
            Self { images, repositories, blobs: HashMap::new(), members, lock: Some(file) };
        if let Some(members) = &existing.members {
            for image in &existing.images {
                // One that cannot be read is kept as it is; its layers are just written again.
                let _ = note_blobs(image, members, &mut existing.blobs);
            }
        }
        Ok(existing)
    }

    /// Tells whether the archive has a member of that name.
    pub fn has(&self, name: &str) -> bool {
        self.members.as_ref().is_some_and(|tar| tar.find(name).is_ok_and(|it| it.is_some()))
    }

    /// Tells whether a blob that the archive should have is what its digest says.
    pub fn is_sound(&self, digest: &Digest, member: Member, host: &Host) -> Result<bool> {
        let Some(tar) = &self.members else { return Ok(false) };
        if digest.algorithm() != Algorithm::Sha256 {
            return Ok(false);
        }
        let mut hash = Sha256::new();
        let reading = |error| Error::io("cannot read the archive back", error);
        drain(&mut tar.content(member, 0), host, reading, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(digest_of(hash) == *digest)
    }

    /// Adds an image to the list. Names that others had are its own now; one that is there already
    /// stays in its place and gets them in addition.
    pub fn add(&self, new: Image) -> Vec<Image> {
        let mut images = self.images.clone();
        let names = new.repo_tags.clone().unwrap_or_default();
        let is_taken = |tag: &String| {
            tag.parse::<Reference>().is_ok_and(|tag| names.contains(&tag.to_string()))
        };
        for image in &mut images {
            if let Some(tags) = &mut image.repo_tags {
                tags.retain(|tag| !is_taken(tag));
            }
        }
        match images.iter_mut().find(|image| image.config == new.config) {
            Some(same) => {
                same.repo_tags.get_or_insert_default().extend(names);
                // Where one of its layers was damaged, a sound one is there now.
                same.layers = new.layers;
            }
            None => images.push(new),
        }
        images
    }

    /// Makes sure that the archive is still the one that was copied.
    pub fn check(&self, path: &Path) -> Result<()> {
        match &self.lock {
            Some(file) if !is_at(file, path)? => Err(busy(path)),
            _ => Ok(()),
        }
    }
}

/// Opens an archive that nobody else adds to.
fn lock(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    // Where there are no locks, the check before the commit is all there is.
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => Err(busy(path)),
        _ if !is_at(&file, path)? => Err(busy(path)),
        _ => Ok(file),
    }
}

fn busy(path: &Path) -> Error {
    let message = format!("somebody else writes {}", path.display());
    Error::new(ErrorKind::Conflict, message).with_hint("try again when that is done")
}

fn is_at(file: &File, path: &Path) -> Result<bool> {
    let here = file.metadata().map_err(|error| failed("stat", path, error))?;
    let there = std::fs::metadata(path).map_err(|error| failed("stat", path, error))?;
    Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
}

/// Notes where an image's layers and config are, by their digests.
fn note_blobs(
    image: &Image,
    tar: &TarFile,
    blobs: &mut HashMap<Digest, (Member, String)>,
) -> Result<()> {
    let Some((name, member)) = tar.locate(&image.config)? else { return Ok(()) };
    let Some(config) = tar.read(&name, MAX_JSON)? else { return Ok(()) };
    blobs.entry(sha256(&config)).or_insert((member, image.config.clone()));
    let names = image.layers.as_deref().unwrap_or_default();
    let Ok(parsed) = serde_json::from_slice::<Config>(&config) else { return Ok(()) };
    if parsed.rootfs.diff_ids.len() != names.len() {
        return Ok(());
    }
    for (diff_id, name) in parsed.rootfs.diff_ids.into_iter().zip(names) {
        // Some programs do not follow links.
        let Some((name, member)) = tar.locate(name)? else { continue };
        if matches!(Form::of_reader(tar.content(member, 0)), Ok(None)) {
            blobs.entry(diff_id).or_insert((member, name));
        }
    }
    Ok(())
}
