//! Changing a file of credentials.
//!
//! A file is replaced in one step, and readable by its owner alone from its first byte on. Who
//! changes one holds a lock on its directory: a lock on the file itself would not outlive the
//! replacement, and a lock file would stay behind. Other programs take no lock, but they replace
//! the file in one step as well; readers need none.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use diolkos_sdk::{Error, ErrorKind, Host, Result, ResultExt};

use super::auth_file::broken_file;
use super::object::Object;
use super::quote;

/// The largest file of credentials that is read, in bytes; real ones have a few hundred.
const MAX_SIZE: u64 = 4 * 1024 * 1024;
/// How long another program may keep a directory locked.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How names of unfinished files begin.
const PREFIX: &str = ".diolkos-auth-";
/// How many links may lead from one to the next.
const MAX_LINKS: usize = 40;

/// Whether a file has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Changed,
    Same,
}

/// Reads a file, `None` when there is none.
///
/// # Errors
/// It cannot be read, or is larger than [`MAX_SIZE`].
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let cannot = || format!("reading JSON file {}", quote(path));
    let file = match File::open(path) {
        Ok(file) => file,
        // A file in the place of a directory above it is as good as no file.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(of_file(cannot(), error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|error| of_file(cannot(), error))?;
    if bytes.len() as u64 > MAX_SIZE {
        let message = format!("{}: it is larger than {MAX_SIZE} bytes", cannot());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(Some(bytes))
}

/// Makes the error of a file that we may not read or write: trying again would not help.
fn of_file(message: String, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, message).with_source(error)
}

/// Changes the file at `path`, which need not exist; it is written if `change` says so.
pub(super) fn update<T>(
    path: &Path,
    host: &Host,
    change: impl FnOnce(&mut Object) -> Result<(T, Change)>,
) -> Result<T> {
    let target = follow(path)?;
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let make = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make.map_err(|error| {
        of_file(format!("mkdir {}", dir.display()), error)
            .with_hint("name a file that you may write with --authfile or $REGISTRY_AUTH_FILE")
    })?;
    let _lock = lock(dir, host)?;
    let mut content = match read(&target)? {
        Some(bytes) => Object::parse(&bytes).map_err(|broken| broken_file(path, broken))?,
        None => Object::default(),
    };
    let (result, changed) = change(&mut content)?;
    if changed == Change::Changed {
        replace(&target, dir, &content.to_bytes())
            .context(|| format!("writing to file {}", quote(path)))?;
    }
    Ok(result)
}

/// Follows symbolic links to the file that they mean, which need not exist.
fn follow(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    let message = format!("{}: too many levels of symbolic links", path.display());
    Err(Error::new(ErrorKind::Io, message))
}

/// Waits for the lock on a directory; it ends with the file that is returned.
///
/// Network file systems may have no such locks. Then there is none: two logins at the same moment
/// are rare.
fn lock(dir: &Path, host: &Host) -> Result<Option<File>> {
    let file =
        File::open(dir).map_err(|error| of_file(format!("open {}", dir.display()), error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => {
                host.debug(format!("no lock on {}: {error}", dir.display()));
                return Ok(None);
            }
            Err(TryLockError::WouldBlock) => {}
        }
        host.check_cancelled()?;
        if Instant::now() > deadline {
            let message = format!("another program keeps `{}` locked", dir.display());
            return Err(Error::new(ErrorKind::Conflict, message)
                .with_hint("find it with fuser(1), or use another file with --authfile"));
        }
        sleep(Duration::from_millis(5));
    }
    remove_leftovers(dir);
    Ok(Some(file))
}

/// Removes the unfinished files of killed writers; with the lock held, nobody else has one.
fn remove_leftovers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn replace(target: &Path, dir: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: io::Error| of_file(format!("replacing {}", target.display()), error);
    // Made with mode 0600.
    let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir);
    let mut file = file.map_err(|error| {
        // The library's error names a file that nobody knows.
        let error = error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
        of_file(format!("cannot make a file in {}", dir.display()), error)
    })?;
    file.write_all(bytes).map_err(failed)?;
    if let Ok(old) = fs::metadata(target) {
        // Others lose what access they had, as they do with other programs that log in.
        let mode = old.permissions().mode() & 0o777;
        let mode = if mode == mode & 0o700 { mode } else { 0o600 };
        file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        keep_owner(file.as_file(), &old);
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(target).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Leaves a user's file to the user when root changes it; others cannot give files away.
fn keep_owner(file: &File, old: &fs::Metadata) {
    let Ok(new) = file.metadata() else { return };
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        let _ = std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::tests_support::silent;
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set(path: &Path, name: &str) {
        let set = |object: &mut Object| {
            object.set_text(name, "x");
            Ok(((), Change::Changed))
        };
        update(path, &silent(), set).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_new_file_and_its_directories_are_the_owners_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b/auth.json");
        set(&path, "one");
        set(&path, "two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\n\t\"one\": \"x\",\n\t\"two\": \"x\"\n}");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(mode(&temp.path().join("a")), 0o700);
        assert_eq!(names(path.parent().unwrap()), ["auth.json"]);
    }

    #[test]
    fn access_of_others_ends_and_stricter_permissions_stay() {
        let temp = tempfile::tempdir().unwrap();
        for (before, after) in [(0o644, 0o600), (0o400, 0o400), (0o600, 0o600)] {
            let path = temp.path().join(format!("{before:o}"));
            fs::write(&path, "{}").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            set(&path, "a");
            assert_eq!(mode(&path), after);
        }
    }

    #[test]
    fn a_link_stays_a_link_to_the_file_that_is_changed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("real")).unwrap();
        let link = temp.path().join("auth.json");
        symlink("real/auth.json", &link).unwrap();
        set(&link, "a");
        set(&link, "b");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&temp.path().join("real")), ["auth.json"]);
        let ring = temp.path().join("ring");
        symlink("ring", &ring).unwrap();
        let error = update(&ring, &silent(), |_| Ok(((), Change::Same))).unwrap_err();
        assert!(error.message().contains("symbolic links"), "{error}");
    }

    #[test]
    fn what_does_not_change_is_not_written_and_what_is_broken_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("auth.json");
        update(&path, &silent(), |_| Ok(((), Change::Same))).unwrap();
        assert!(!path.exists());
        fs::write(&path, "hush").unwrap();
        let error = update(&path, &silent(), |_| Ok(((), Change::Changed))).unwrap_err();
        assert!(!error.chain().join(" ").contains("hush"), "{error:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "hush");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(format!("{PREFIX}killed")), "secret").unwrap();
        set(&temp.path().join("auth.json"), "a");
        assert_eq!(names(temp.path()), ["auth.json"]);
    }

    #[test]
    fn many_writers_at_once_lose_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("auth.json");
        std::thread::scope(|scope| {
            for index in 0..16 {
                let path = &path;
                scope.spawn(move || set(path, &index.to_string()));
            }
        });
        let content = Object::parse(&fs::read(&path).unwrap()).ok().unwrap();
        assert_eq!(content.names().count(), 16);
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("auth.json");
        File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap();
        assert!(read(&path).unwrap_err().message().contains("larger than"));
        assert_eq!(read(&temp.path().join("none")).unwrap(), None);
        assert_eq!(read(&path.join("below")).unwrap(), None);
    }
}
