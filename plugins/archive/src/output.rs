//! Where an archive goes.
//!
//! A file has a temporary name in the same directory until the archive is complete, so that a copy
//! that failed can be repeated, and nobody sees half of it. A pipe gets the archive in the end, from
//! a temporary file: headers are filled in behind the bytes that they describe.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_formats::files::{failed, parent_of};
use diolkos_formats::tar::TarWriter;
use diolkos_sdk::{Error, ErrorKind, Result, Session};
use tempfile::NamedTempFile;

/// How archives are called that are not complete.
const PREFIX: &str = ".diolkos-archive-";

/// An archive that is being written.
pub(crate) struct Output {
    pub tar: Arc<TarWriter>,
    target: Target,
}

enum Target {
    File { unfinished: NamedTempFile, path: PathBuf },
    Stream { stream: File, path: PathBuf },
}

impl Output {
    /// Prepares an archive at a path; nothing is to be seen there yet.
    pub fn create(path: &Path, session: &Session) -> Result<Self> {
        // A file behind one of these names is open already, and cannot be replaced.
        let is_open = ["/dev/", "/proc/"].iter().any(|parent| path.starts_with(parent));
        let is_file = fs::metadata(path).map_or(true, |found| found.is_file());
        if is_open || !is_file {
            let opened = OpenOptions::new().write(true).open(path);
            let stream = opened.map_err(|error| failed("open", path, error))?;
            let directory = &session.temp_dir;
            let file = tempfile::tempfile_in(directory)
                .map_err(|error| failed("create a file in", directory, error))?;
            let target = Target::Stream { stream, path: path.to_owned() };
            return Ok(Self { tar: TarWriter::new(file), target });
        }
        // A symbolic link stays: what it means is replaced, or made.
        let path = fs::canonicalize(path).unwrap_or_else(|_| behind_link(path));
        let parent = parent_of(&path);
        remove_abandoned(parent);
        let unfinished = unfinished(parent, 0o644)?;
        let file = unfinished.reopen().map_err(|error| failed("open", &path, error))?;
        if let Ok(old) = fs::metadata(&path) {
            // It is the old one with another content, as far as we may.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            let _ = file.set_permissions(old.permissions());
        }
        Ok(Self { tar: TarWriter::new(file), target: Target::File { unfinished, path } })
    }

    /// Ends the archive and lets it be seen; with `replace`, in place of a file that is there.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where somebody else has made a file meanwhile.
    pub fn commit(self, replace: bool) -> Result<()> {
        self.tar.end()?;
        match self.target {
            Target::File { unfinished, path } if replace => unfinished
                .persist(&path)
                .map(drop)
                .map_err(|error| failed("rename", &path, error.error)),
            Target::File { unfinished, path } => {
                unfinished.persist_noclobber(&path).map(drop).map_err(|error| {
                    if error.error.kind() == io::ErrorKind::AlreadyExists {
                        let message = format!("somebody else has made {}", path.display());
                        Error::new(ErrorKind::Conflict, message)
                    } else {
                        failed("rename", &path, error.error)
                    }
                })
            }
            Target::Stream { stream, path } => self
                .tar
                .copy_to(&stream)
                .map_err(|error| error.context(format!("writing to {}", path.display()))),
        }
    }
}

/// Returns what a link means that leads to nothing yet.
fn behind_link(path: &Path) -> PathBuf {
    let target = fs::read_link(path).map(|target| parent_of(path).join(target));
    target.unwrap_or_else(|_| path.to_owned())
}

/// Makes a file that is locked as long as somebody writes it.
fn unfinished(parent: &Path, mode: u32) -> Result<NamedTempFile> {
    let cannot = |error| failed("create a file in", parent, error);
    loop {
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(parent)
            .map_err(cannot)?;
        // Where there are no locks, nobody removes it either. Who has it locked is about to.
        if matches!(file.as_file().try_lock(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        // Somebody may have taken it for abandoned just before it was locked.
        if file.as_file().metadata().map_err(cannot)?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Removes what writers left that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // The lock is held until it is gone: who has just made it sees that it is.
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}
