//! Where an archive goes.
//!
//! A file has a temporary name in the same directory until the archive is complete, so that a copy
//! that failed can be repeated, and nobody sees half of it. A pipe gets the archive in the end, from
//! a temporary file: headers are filled in behind the bytes that they describe.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_formats::files::{failed, parent_of};
use diolkos_formats::tar::TarWriter;
use diolkos_sdk::{Result, Session};
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
        // A symbolic link stays: what it means is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let parent = parent_of(&path);
        let mode = fs::metadata(&path).map_or(0o644, |old| old.permissions().mode() & 0o777);
        remove_abandoned(parent);
        let unfinished = unfinished(parent, mode)?;
        let file = unfinished.reopen().map_err(|error| failed("open", &path, error))?;
        Ok(Self { tar: TarWriter::new(file), target: Target::File { unfinished, path } })
    }

    /// Ends the archive and lets it be seen.
    pub fn commit(self) -> Result<()> {
        self.tar.end()?;
        match self.target {
            Target::File { unfinished, path } => unfinished
                .persist(&path)
                .map(drop)
                .map_err(|error| failed("rename", &path, error.error)),
            Target::Stream { stream, path } => self
                .tar
                .copy_to(&stream)
                .map_err(|error| error.context(format!("writing to {}", path.display()))),
        }
    }
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
        // Where there are no locks, nobody removes it either.
        let _ = file.as_file().try_lock();
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
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}
