//! Opening and reading files that others may have made: only regular ones, never more than a limit.
//!
//! Writing is in [`crate::staging`].

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use diolkos_sdk::{Blob, BlobReader, Error, ErrorKind, Extent, Host, Result, Session};

/// The largest buffer that is made because a file says how large it is, in bytes.
const LITTLE: usize = 1 << 20;

/// Makes the error of an operation on a path, worded as scripts know it from skopeo:
/// `open PATH: no such file or directory`.
pub fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    let cause = os_text(&error);
    let full = error.kind() == io::ErrorKind::StorageFull;
    let kind = Error::io("", error).kind();
    let outer = Error::new(kind, format!("{operation} {}", path.display())).with_source(cause);
    if full { outer.with_hint("free some space there, or choose another place") } else { outer }
}

/// Makes the error of writing to a temporary file in a directory.
pub fn no_room(directory: &Path, error: io::Error) -> Error {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let error = failed("write to a file in", directory, error);
    if full {
        error.with_hint("free some space there, or name another directory with --tmpdir")
    } else {
        error
    }
}

/// Returns an operating system's error in lower case and without its number.
pub fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Opens a regular file for reading; symbolic links are followed.
///
/// # Errors
/// As the operating system says, and [`ErrorKind::Corrupt`] for a directory, a pipe or a device,
/// which no image format has, and which could block for ever.
pub fn open(path: &Path) -> Result<File> {
    open_with_size(path).map(|(file, _)| file)
}

/// Does [`open`], with the file's size in bytes as it was before.
fn open_with_size(path: &Path) -> Result<(File, u64)> {
    let found = fs::metadata(path).map_err(|error| failed("open", path, error))?;
    if !found.is_file() {
        let message = format!("{} is not a regular file", path.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    Ok((file, found.len()))
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open`], and [`ErrorKind::Corrupt`] for a larger file.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, size) = open_with_size(path)?;
    // With room for more than a small file has, its end is found without a larger buffer.
    let room = usize::try_from(size.min(limit)).unwrap_or_default().min(LITTLE);
    let mut bytes = Vec::with_capacity(room + 64);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| failed("read", path, error))?;
    if bytes.len() as u64 > limit {
        let message = format!("{} is larger than {limit} bytes", path.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(bytes)
}

/// Does [`read`], with `None` for a file that does not exist.
pub fn read_if_any(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read(path, limit) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Returns the directory that a path is in.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Brings what cannot be read twice, such as a pipe, into a temporary file that nobody else sees.
/// `path` is for messages.
pub fn spool(mut from: impl Read, path: &Path, session: &Session) -> Result<File> {
    let directory = &session.temp_dir;
    let mut file = tempfile::tempfile_in(directory)
        .map_err(|error| failed("create a file in", directory, error))?;
    let reading = |error| failed("read", path, error);
    drain(&mut from, &session.host, reading, |bytes| {
        file.write_all(bytes).map_err(|error| no_room(directory, error))
    })?;
    Ok(file)
}

/// Reads to the end and hands over what comes; `reading` makes the error of a read that fails.
///
/// # Errors
/// Those of `reading` and of `take`, and [`ErrorKind::Cancelled`].
pub fn drain(
    from: &mut impl Read,
    host: &Host,
    reading: impl Fn(io::Error) -> Error,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        host.check_cancelled()?;
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(reading(error)),
        }
    }
}

/// Makes a blob of bytes in memory, read from byte `from`.
pub fn blob_of_bytes(bytes: &[u8], from: u64) -> Blob {
    let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    let reader = Box::new(Bytes(io::Cursor::new(bytes[start..].to_vec())));
    Blob { size: Some(bytes.len() as u64), reader }
}

struct Bytes(io::Cursor<Vec<u8>>);

impl BlobReader for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer).map_err(|error| Error::io("cannot read memory", error))
    }
}

/// A stretch of a file that several readers share: none moves the file's position.
pub struct Stretch {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Stretch {
    /// Begins at byte `offset`, and is `length` bytes long.
    pub fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self { file, offset, left: length }
    }
}

impl Read for Stretch {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        loop {
            match self.file.read_at(&mut buffer[..most], self.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.offset += count as u64;
                    self.left -= count as u64;
                    return Ok(count);
                }
            }
        }
    }
}

impl BlobReader for Stretch {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Read::read(self, buffer).map_err(|error| Error::io("cannot read the file", error))
    }

    fn extent(&self) -> Option<Extent<'_>> {
        Some(Extent { file: self.file.as_fd(), offset: self.offset, length: self.left })
    }
}

/// Returns the size of a regular file, `None` for whatever else is or is not there.
pub fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|found| found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_reported_in_the_words_scripts_know() {
        let error = open(Path::new("/diolkos-has-no-such/x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.chain().join(": "),
            "open /diolkos-has-no-such/x: no such file or directory"
        );
    }

    #[test]
    fn no_more_than_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(read_if_any(&dir.path().join("g"), 4).unwrap(), None);
    }

    #[test]
    fn directories_and_devices_are_no_files() {
        for path in ["/", "/dev/zero"] {
            let error = read(Path::new(path), 10).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{path}");
        }
    }

    #[test]
    fn a_full_disk_is_an_io_error_that_names_the_path() {
        let error = failed("write", Path::new("/x"), io::ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.message(), "write /x");
        assert!(error.hint().is_some());
    }
}
