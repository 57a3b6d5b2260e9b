//! Archives as they come.
//!
//! A regular file is read where it is. What cannot seek, or is compressed as a whole, is brought
//! into a temporary file first, which nobody else sees.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use diolkos_formats::files::{failed, spool};
use diolkos_formats::inflate::{Form, MAGIC};
use diolkos_formats::tar::TarFile;
use diolkos_sdk::{Error, ErrorKind, Result, Session};

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
    let mut start = Vec::new();
    (&file)
        .take(MAGIC as u64)
        .read_to_end(&mut start)
        .map_err(|error| failed("read", path, error))?;
    let form = Form::of(&start);
    let whole = io::Cursor::new(start).chain(&file);
    let spooled = match form {
        None if found.is_file() => return TarFile::new(path, file),
        None => spool(whole, path, session)?,
        Some(form) => {
            let inflated = form.inflate(whole).map_err(|error| failed("read", path, error))?;
            spool(inflated, path, session)?
        }
    };
    TarFile::new(path, spooled)
}
