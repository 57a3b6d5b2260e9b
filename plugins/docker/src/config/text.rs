//! Reading configuration files: whole, as text, within a limit.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Result};

/// The most bytes of a file that are read; real ones have a few thousand.
const LIMIT: u64 = 1 << 20;

/// Reads a file, `None` if there is none.
///
/// Unlike the files of an image it may be a device or a pipe: `/dev/null` is the usual way to say
/// that nothing is configured, and shells make pipes.
///
/// # Errors
/// As the operating system says, and [`ErrorKind::InvalidInput`] for what is no text or too much.
pub(crate) fn read_if_any(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if is_missing(&error) => return Ok(None),
        file => file.map_err(|error| failed("open", path, error))?,
    };
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| failed("read", path, error))?;
    if bytes.len() as u64 > LIMIT {
        return Err(invalid(format!("`{}` is larger than {LIMIT} bytes", path.display())));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| invalid(format!("`{}` is not UTF-8 text", path.display())))
}

/// Reads a file that somebody named, so that it must be there.
///
/// # Errors
/// Those of [`read_if_any`], and [`ErrorKind::InvalidInput`] where there is no such file.
pub(crate) fn read(path: &Path) -> Result<String> {
    read_if_any(path)?
        .ok_or_else(|| invalid(format!("open {}: no such file or directory", path.display())))
}

/// Lists the files of a directory whose names end in `suffix`, sorted; none if there is no such
/// directory. Directories below it are left out.
pub(crate) fn list(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed("open", dir, error))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed("read", dir, error))?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.ends_with(suffix.as_bytes()) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Makes the error of a text that makes no sense.
pub(crate) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Tells whether there is nothing at a path.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format!("{operation} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_none_or_named() {
        let path = Path::new("/diolkos-has-no-such/x");
        assert_eq!(read_if_any(path).unwrap(), None);
        assert_eq!(read_if_any(Path::new("/dev/null/x")).unwrap(), None);
        let error = read(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.message(), "open /diolkos-has-no-such/x: no such file or directory");
    }

    #[test]
    fn a_device_is_read_like_a_file_and_no_further_than_the_limit() {
        assert_eq!(read(Path::new("/dev/null")).unwrap(), "");
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert!(error.message().contains("larger than"), "{error}");
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(read(&path).unwrap_err().message().contains("UTF-8"));
    }

    #[test]
    fn files_are_listed_by_suffix_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", "c.ignored"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("d.conf")).unwrap();
        let names: Vec<_> = list(dir.path(), ".conf").unwrap();
        assert_eq!(names, [dir.path().join("a.conf"), dir.path().join("b.conf")]);
        assert_eq!(list(&dir.path().join("none"), ".conf").unwrap(), Vec::<PathBuf>::new());
    }
}
