//! The images of a store, and finding one by its name.

use std::fs;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Digest, Error, ErrorKind, Host, Reference, Result};

use super::Store;
use super::lock::Lock;
use super::records::{HALF_WRITTEN, Image, Records};
use crate::reference::{StorageRef, is_id};

/// An image that was found, and the home whose record it is.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub image: Image,
    pub home: PathBuf,
}

/// The records of images in the store's own home, under their lock.
#[derive(Debug)]
pub(crate) struct WritingImages {
    lock: Lock,
    path: PathBuf,
    pub records: Records<Image>,
}

impl WritingImages {
    /// Writes the records.
    pub fn save(&self) -> Result<()> {
        self.lock.record_write()?;
        self.records.write(&self.path)
    }
}

impl Store {
    /// Takes the lock under which images are changed, and removes what killed programs have left:
    /// half a file, and directories of images that have no record. Where there is no file of records,
    /// it may have been lost, and the directories stay.
    pub fn write_images(&self, host: &Host) -> Result<WritingImages> {
        let dir = self.images_dir(self.root());
        let lock = Lock::write(&dir.join("images.lock"), host)?;
        let path = dir.join("images.json");
        let records = Records::<Image>::read(&path)?;
        let has_records = path.exists();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_known = || records.0.iter().any(|record| record.value.id == name);
            if name.starts_with(HALF_WRITTEN) {
                let _ = fs::remove_file(entry.path());
            } else if has_records && is_id(name) && !is_known() {
                host.debug(format!("removing the files of image {name}, which has no record"));
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(WritingImages { lock, path, records })
    }

    /// Returns the directory of an image's files.
    pub fn image_dir(&self, home: &Path, id: &str) -> PathBuf {
        self.images_dir(home).join(id)
    }

    /// Reads the records of all homes. Where two have an image of one ID, the first counts.
    pub fn images(&self, host: &Host) -> Result<Vec<Found>> {
        self.images_of(self.homes(), host)
    }

    /// Finds an image by its ID in the homes that are only read.
    pub fn image_in_another_home(&self, id: &str, host: &Host) -> Result<Option<Found>> {
        let found = self.images_of(self.other_homes(), host)?;
        Ok(found.into_iter().find(|found| found.image.id == id))
    }

    fn images_of<'a>(
        &self,
        homes: impl Iterator<Item = &'a Path>,
        host: &Host,
    ) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::new();
        for home in homes {
            let dir = self.images_dir(home);
            let _lock = Lock::read(&dir.join("images.lock"), host)?;
            for record in Records::<Image>::read(&dir.join("images.json"))?.0 {
                if !found.iter().any(|known| known.image.id == record.value.id) {
                    found.push(Found { image: record.value, home: home.to_owned() });
                }
            }
        }
        Ok(found)
    }
}

impl StorageRef {
    /// Finds the image that is meant.
    ///
    /// By its name; or, for a name with a digest, by that and a name of the same repository, those
    /// first that `prefers` says; or by its ID, which must have a name of that repository.
    ///
    /// # Errors
    /// [`ErrorKind::ImageNotFound`].
    pub fn find(&self, host: &Host, prefers: impl Fn(&Found, &Digest) -> bool) -> Result<Found> {
        let images = self.store.images(host)?;
        let missing = || {
            let message = format!("reference {:?} does not resolve to an image ID", self.details());
            Error::new(ErrorKind::ImageNotFound, message)
        };
        let found = match (&self.id, &self.name) {
            (Some(id), _) => images.into_iter().find(|found| found.image.id == *id),
            (None, Some(name)) => {
                let text = name.to_string();
                let by_name = images.iter().find(|found| found.image.names.contains(&text));
                by_name.or_else(|| by_digest(&images, name, prefers)).cloned()
            }
            (None, None) => None,
        };
        let found = found.ok_or_else(missing)?;
        match &self.name {
            Some(name) if !has_repository(&found.image, name) => Err(missing()),
            _ => Ok(found),
        }
    }
}

fn by_digest<'a>(
    images: &'a [Found],
    name: &Reference,
    prefers: impl Fn(&Found, &Digest) -> bool,
) -> Option<&'a Found> {
    let digest = name.digest()?;
    let mut fitting = images
        .iter()
        .filter(|found| found.image.has_digest(digest) && has_repository(&found.image, name));
    let first = fitting.next()?;
    Some(
        std::iter::once(first).chain(fitting).find(|found| prefers(found, digest)).unwrap_or(first),
    )
}

fn has_repository(image: &Image, name: &Reference) -> bool {
    let repository = name.name();
    let is_of = |text: &String| text.parse::<Reference>().is_ok_and(|it| it.name() == repository);
    image.names.iter().any(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Places;

    #[test]
    fn files_of_images_without_a_record_go_where_there_are_records() {
        let dir = tempfile::tempdir().unwrap();
        let details = format!("[overlay@{0}/root+{0}/run]x", dir.path().display());
        let store = StorageRef::parse(&details, &Places::of_this_process()).unwrap().store;
        let images = dir.path().join("root/overlay-images");
        let (known, unknown) = ("a".repeat(64), "b".repeat(64));
        let names = || {
            let entries = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        for name in [known.as_str(), unknown.as_str(), "of-somebody-else"] {
            fs::create_dir_all(images.join(name).join("d")).unwrap();
        }
        fs::write(images.join(".tmp-images.json123"), "[{").unwrap();
        store.write_images(&Host::silent()).unwrap();
        // The records may have been lost.
        assert_eq!(names(), [&known, &unknown, "images.lock", "of-somebody-else"]);
        let record = format!(r#"[{{"id":"{known}"}}]"#);
        fs::write(images.join("images.json"), record).unwrap();
        let writing = store.write_images(&Host::silent()).unwrap();
        assert_eq!(writing.records.0[0].value.id, known);
        assert_eq!(names(), [&known, "images.json", "images.lock", "of-somebody-else"]);
    }
}
