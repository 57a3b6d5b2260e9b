//! Archives as they come.
//!
//! A regular file is read where it is. What cannot seek, or is compressed as a whole, is brought
//! into a temporary file first, which nobody else sees.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use diolkos_formats::files::failed;
use diolkos_formats::inflate::{Form, MAGIC};
use diolkos_formats::tar::TarFile;
use diolkos_sdk::{Error, ErrorKind, Host, Result, Session};

/// Opens the archive at a path: a file, a pipe, compressed or not.
///
/// # Errors
/// As the operating system says; [`ErrorKind::Corrupt`] for what is no archive.
pub(crate) fn open(path: &Path, session: &Session) -> Result<TarFile> {
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    let found = file.metadata().map_err(|error| failed("stat", path, error))?;
    if found.is_dir() {
        let message = format!("{} is a directory, and no archive", path.display());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    if found.is_file() {
        let mut start = [0; MAGIC];
        let count = file.read_at(&mut start, 0).map_err(|error| failed("read", path, error))?;
        return match Form::of(&start[..count]) {
            None => TarFile::new(path, file),
            Some(form) => {
                let inflated = form.inflate(file).map_err(|error| failed("read", path, error))?;
                spool(path, inflated, session)
            }
        };
    }
    let mut file = file;
    let mut start = Vec::new();
    (&mut file)
        .take(MAGIC as u64)
        .read_to_end(&mut start)
        .map_err(|error| failed("read", path, error))?;
    let form = Form::of(&start);
    let whole = io::Cursor::new(start).chain(file);
    match form {
        None => spool(path, whole, session),
        Some(form) => {
            let inflated = form.inflate(whole).map_err(|error| failed("read", path, error))?;
            spool(path, inflated, session)
        }
    }
}

fn spool(path: &Path, from: impl Read, session: &Session) -> Result<TarFile> {
    let directory = &session.temp_dir;
    let mut file = tempfile::tempfile_in(directory)
        .map_err(|error| failed("create a file in", directory, error))?;
    copy(from, &mut file, &session.host).map_err(|failure| match failure {
        Failure::Reading(error) => failed("read", path, error),
        Failure::Writing(error) => failed("write to a file in", directory, error),
        Failure::Stopped(error) => error,
    })?;
    file.rewind().map_err(|error| failed("read", path, error))?;
    TarFile::new(path, file)
}

enum Failure {
    Reading(io::Error),
    Writing(io::Error),
    Stopped(Error),
}

fn copy(mut from: impl Read, to: &mut File, host: &Host) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        host.check_cancelled().map_err(Failure::Stopped)?;
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Reading(error)),
        };
        to.write_all(&buffer[..count]).map_err(Failure::Writing)?;
    }
}
