//! Files that are complete before they appear under their name, and locks on directories.
//!
//! A writer keeps its unfinished files in a hidden directory beside their final place, so that
//! finishing one is a rename. The directory goes with its writer; what a killed one left behind is
//! removed by the next. Locks are taken with flock on directories themselves: they leave no file
//! behind, and end with the process.
//!
//! Nothing is synced to disk. A killed process loses nothing that was renamed, and a machine that
//! loses power in the middle of a copy leaves blobs whose digest the next reader finds wrong;
//! waiting for the disk at each blob costs more than most copies do.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use diolkos_sdk::{BlobSums, BlobWriter, Error, ErrorKind, FileTarget, Host, Result};
use tempfile::{NamedTempFile, TempDir};

use crate::files::{failed, parent_of, size};

/// How names of unfinished files and directories begin.
pub const PREFIX: &str = ".diolkos-";

/// The only writer's hold on a directory, until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock(Option<File>);

impl DirectoryLock {
    /// Waits for the lock on a directory.
    ///
    /// Network file systems may have no such locks. Then there is none, and work goes on: most
    /// directories have one writer.
    pub fn acquire(directory: &Path, host: &Host) -> Result<Self> {
        let file = File::open(directory).map_err(|error| failed("open", directory, error))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(Some(file))),
                Err(TryLockError::WouldBlock) => {
                    host.check_cancelled()?;
                    sleep(Duration::from_millis(5));
                }
                Err(TryLockError::Error(error)) => {
                    host.debug(format!("no lock on {}: {error}", directory.display()));
                    return Ok(Self(None));
                }
            }
        }
    }
}

/// Makes a directory and those above it, and adds the ones that were missing to `made`.
pub fn make_directory(path: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    let missing: Vec<_> = path
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .map(Path::to_owned)
        .collect();
    fs::create_dir_all(path).map_err(|error| failed("mkdir", path, error))?;
    made.extend(missing.into_iter().rev());
    Ok(())
}

/// A hidden directory for one writer's unfinished files, removed with what is in it.
#[derive(Debug)]
pub struct Staging {
    // In this order: `made` can only be removed once the directory is gone.
    directory: TempDir,
    /// Held for as long as the directory is in use; see [`is_abandoned`].
    _lock: Option<File>,
    made: Made,
}

impl Staging {
    /// Makes a staging directory in `parent`, and removes those of killed writers.
    ///
    /// The directories in `made`, outermost first, were made for this writer. They are removed
    /// again at the end if they are empty, unless [`Staging::keep_directories`] is called.
    pub fn new(parent: &Path, made: Vec<PathBuf>, host: &Host) -> Result<Arc<Self>> {
        let made = Made { directories: made, keep: AtomicBool::new(false) };
        // A directory between mkdir and its own lock would look abandoned to others.
        let guard = DirectoryLock::acquire(parent, host)?;
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_abandoned(&path) {
                host.debug(format!("removing {}, left by a killed writer", path.display()));
                let _ = fs::remove_dir_all(&path);
            } else if guard.0.is_some() && is_staging(&path) && size(&path).is_some() {
                // A file of `replace`, which is only called with this lock.
                let _ = fs::remove_file(&path);
            }
        }
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .map_err(|error| failed("mkdir", parent, error))?;
        let lock = File::open(directory.path()).ok().filter(|file| file.try_lock().is_ok());
        Ok(Arc::new(Self { directory, _lock: lock, made }))
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Says that the directories made for this writer stay, even if they are empty.
    pub fn keep_directories(&self) {
        self.made.keep.store(true, Ordering::Relaxed);
    }

    /// Makes a file that is removed again unless it is persisted under its final name.
    pub fn file(&self) -> Result<NamedTempFile> {
        new_file(self.path(), 0o644)
    }

    /// Writes a small file and puts it under its final name in one step.
    pub fn write(&self, target: &Path, bytes: &[u8]) -> Result<()> {
        self.prepare(bytes)?
            .persist(target)
            .map_err(|error| failed("rename", target, error.error))?;
        Ok(())
    }

    /// Writes a small file without a final name.
    pub fn prepare(&self, bytes: &[u8]) -> Result<NamedTempFile> {
        let mut file = self.file()?;
        file.write_all(bytes).map_err(|error| failed("write", file.path(), error))?;
        Ok(file)
    }

    /// Begins a blob. When it is finished, `place` says where it goes.
    pub fn blob(
        self: &Arc<Self>,
        place: impl FnOnce(&BlobSums) -> Result<PathBuf> + Send + 'static,
    ) -> Result<Box<dyn BlobWriter>> {
        let file = self.file()?;
        Ok(Box::new(StagedBlob { file, place: Box::new(place), _staging: Arc::clone(self) }))
    }
}

#[derive(Debug)]
struct Made {
    directories: Vec<PathBuf>,
    keep: AtomicBool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            for directory in self.directories.iter().rev() {
                // Fails where somebody has put something, and is right to.
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Tells whether a path is a staging directory whose writer is gone.
pub fn is_abandoned(path: &Path) -> bool {
    if !is_staging(path) || !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return false;
    }
    File::open(path).is_ok_and(|directory| directory.try_lock().is_ok())
}

/// Tells whether a path is named like something unfinished.
pub fn is_staging(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

/// Replaces a file in one step; it keeps its permissions.
///
/// The caller holds the lock on the file's directory.
pub fn replace(path: &Path, bytes: &[u8], _held: &DirectoryLock) -> Result<()> {
    let parent = parent_of(path);
    let mut file = new_file(parent, 0o644)?;
    file.write_all(bytes).map_err(|error| failed("write", path, error))?;
    if let Ok(old) = fs::metadata(path) {
        file.as_file()
            .set_permissions(Permissions::from_mode(old.permissions().mode() & 0o777))
            .map_err(|error| failed("chmod", path, error))?;
    }
    file.persist(path).map_err(|error| failed("rename", path, error.error))?;
    Ok(())
}

fn new_file(directory: &Path, mode: u32) -> Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(|error| failed("create a file in", directory, error))
}

type Place = Box<dyn FnOnce(&BlobSums) -> Result<PathBuf> + Send>;

struct StagedBlob {
    file: NamedTempFile,
    place: Place,
    /// The directory stays as long as something is written in it.
    _staging: Arc<Staging>,
}

impl BlobWriter for StagedBlob {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).map_err(|error| failed("write", self.file.path(), error))
    }

    fn file(&self) -> Option<FileTarget<'_>> {
        Some(FileTarget { file: self.file.as_file().as_fd(), offset: 0 })
    }

    fn finish(self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let written = self.file.as_file().metadata();
        let written = written.map_err(|error| failed("stat", self.file.path(), error))?.len();
        if written != sums.size {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "Size mismatch when copying {}, expected {}, got {written}",
                    sums.digest, sums.size
                ),
            ));
        }
        let target = (self.place)(sums)?;
        self.file.persist(&target).map_err(|error| failed("rename", &target, error.error))?;
        Ok(())
    }
}

/// Makes the missing parent directory of a file.
pub fn make_parent(path: &Path) -> Result<()> {
    match path.parent().map(fs::create_dir_all) {
        Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("mkdir", path.parent().unwrap_or(path), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_dropped_writer_leaves_nothing_and_takes_the_directories_it_made_along() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("a/b");
        let mut made = Vec::new();
        make_directory(&deep, &mut made).unwrap();
        assert_eq!(made, [temp.path().join("a"), deep.clone()]);
        let staging = Staging::new(&deep, made, &Host::silent()).unwrap();
        let mut blob = staging.blob(|_| panic!("never finished")).unwrap();
        blob.write(b"half").unwrap();
        drop(staging);
        assert!(deep.exists(), "a blob is still being written");
        drop(blob);
        assert!(names(temp.path()).is_empty());
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_what_a_living_one_has_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let living = Staging::new(temp.path(), Vec::new(), &Host::silent()).unwrap();
        let killed = temp.path().join(format!("{PREFIX}killed"));
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join("x"), "x").unwrap();
        let next = Staging::new(temp.path(), Vec::new(), &Host::silent()).unwrap();
        assert!(!killed.exists());
        assert!(living.path().exists() && next.path().exists());
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions_and_has_no_leftovers_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let lock = DirectoryLock::acquire(temp.path(), &Host::silent()).unwrap();
        replace(&path, b"new", &lock).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(temp.path()), ["f"]);
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(temp.path(), &Host::silent()).unwrap();
        let path = temp.path().to_owned();
        let other = std::thread::spawn(move || DirectoryLock::acquire(&path, &Host::silent()));
        sleep(Duration::from_millis(30));
        assert!(!other.is_finished());
        drop(lock);
        assert!(other.join().unwrap().is_ok());
    }

    #[test]
    fn a_blob_of_another_size_than_announced_is_refused_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("blob");
        let staging = Staging::new(temp.path(), Vec::new(), &Host::silent()).unwrap();
        let place = target.clone();
        let mut blob = staging.blob(move |_| Ok(place)).unwrap();
        blob.write(b"three").unwrap();
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        assert!(blob.finish(&BlobSums { digest, size: 6, diff_id: None }).is_err());
        assert!(!target.exists());
        assert!(names(staging.path()).is_empty());
    }
}
