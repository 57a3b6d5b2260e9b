//! Trees that are not part of the store yet, or not any more.
//!
//! They are in a directory of their own beside the layers, so that a layer comes and goes with a
//! rename, and beside it is a lock file that is held as long as the directory is in use. What a
//! killed program leaves behind is removed by whoever writes next: by this plugin, and by the
//! library's newer versions, which keep theirs in the same way in the same place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use diolkos_formats::files::failed;
use diolkos_sdk::{Error, ErrorKind, Host, Result};

use super::lock::Lock;

const DIRECTORY: &str = "temp-dir-";
const LOCK: &str = "lock-";

/// A directory for trees that come or go. Dropping it removes what is in it.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    lock: Lock,
    counter: AtomicU64,
}

impl Temporary {
    /// Makes one below `root`, which is made if need be.
    pub fn new(root: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        // Somebody may take a new lock file for a forgotten one before it is locked, or the
        // directory above for one that nobody needs.
        for _ in 0..1000 {
            match private.create(root) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("mkdir", root, error));
                }
                _ => {}
            }
            let made = tempfile::Builder::new().prefix(LOCK).tempfile_in(root);
            let kept = made.and_then(|file| file.keep().map_err(|error| error.error));
            let path = match kept {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                kept => kept.map_err(|error| failed("create a file in", root, error))?.1,
            };
            let Some(lock) = Lock::try_write(&path)? else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let id = name.strip_prefix(LOCK).unwrap_or(&name);
            let path = root.join(format!("{DIRECTORY}{id}"));
            private.create(&path).map_err(|error| failed("mkdir", &path, error))?;
            return Ok(Self { path, lock, counter: AtomicU64::default() });
        }
        let message = format!("no lock file in {} could be locked", root.display());
        Err(Error::new(ErrorKind::Io, message))
    }

    /// Returns a path in it that nobody else was given.
    pub fn next(&self) -> PathBuf {
        self.path.join(format!("{}-addition", self.counter.fetch_add(1, Ordering::Relaxed)))
    }

    /// Moves something that is to be removed out of the store's sight.
    ///
    /// # Errors
    /// The system's; what is not there is no error.
    pub fn take(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        match fs::rename(path, self.path.join(format!("{number}-{name}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("rename", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what was moved in.
    pub fn clear(&self) {
        clear(&self.path);
    }

    /// Removes a tree in it.
    pub fn remove(&self, tree: &Path) {
        let _ = remove(tree, &self.path);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.clear();
        if fs::remove_dir(&self.path).is_ok() {
            let _ = fs::remove_file(self.lock.path());
        }
    }
}

/// Removes what is in a directory.
fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = remove(&entry.path(), dir);
    }
}

/// Removes a file or a tree. One that is too deep to go through it at once is taken apart: what is
/// below is moved up, to `attic`.
pub(crate) fn remove(path: &Path, attic: &Path) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return fs::remove_file(path);
    }
    if is_shallow(path) && fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    let mut todo = vec![path.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let moved = attic.join(format!("below-{}-{number}", std::process::id()));
                fs::rename(entry.path(), &moved)?;
                todo.push(moved);
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_dir(&dir)?;
    }
    Ok(())
}

/// Tells whether a tree is so flat that removing it takes few descriptors and little stack.
fn is_shallow(path: &Path) -> bool {
    const DEEP: usize = 200;
    let mut level = vec![path.to_owned()];
    for _ in 0..DEEP {
        // Where it cannot be read, its name may have become too long.
        let Ok(dirs) = level.iter().map(fs::read_dir).collect::<io::Result<Vec<_>>>() else {
            return false;
        };
        let below = dirs
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        level = below.map(|entry| entry.path()).collect();
        if level.is_empty() {
            return true;
        }
    }
    false
}

/// Removes what killed programs left below `root`.
pub(crate) fn recover(root: &Path, host: &Host) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let id = name.strip_prefix(DIRECTORY).or_else(|| name.strip_prefix(LOCK));
        let Some(id) = id else { continue };
        let lock = root.join(format!("{LOCK}{id}"));
        if !lock.exists() && fs::File::create_new(&lock).is_err() {
            continue;
        }
        let Ok(Some(_held)) = Lock::try_write(&lock) else { continue };
        host.debug(format!("removing {DIRECTORY}{id}, left by a killed program"));
        let tree = root.join(format!("{DIRECTORY}{id}"));
        clear(&tree);
        match fs::remove_dir(&tree) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                host.warn(format!("cannot remove {}: {error}", tree.display()));
            }
            _ => {
                let _ = fs::remove_file(&lock);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_and_what_was_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tempdirs");
        let used = Temporary::new(&root).unwrap();
        fs::create_dir(used.next()).unwrap();
        for left in ["temp-dir-1/tree", "temp-dir-2"] {
            fs::create_dir_all(root.join(left)).unwrap();
        }
        fs::write(root.join("lock-1"), "").unwrap();
        fs::write(root.join("other"), "").unwrap();
        recover(&root, &Host::silent());
        let mut names: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(
            names[0].starts_with(LOCK) && names[1] == "other" && names[2].starts_with(DIRECTORY)
        );
        assert_eq!(fs::read_dir(&used.path).unwrap().count(), 1);
    }

    #[test]
    fn trees_deeper_than_descriptors_and_paths_go_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = Temporary::new(&dir.path().join("tempdirs")).unwrap();
        let mut tree = temporary.next();
        fs::create_dir(&tree).unwrap();
        for _ in 0..3000 {
            // From the inside out, since no path is that long.
            let above = temporary.next();
            fs::create_dir(&above).unwrap();
            fs::rename(&tree, above.join("d")).unwrap();
            tree = above;
        }
        temporary.remove(&tree);
        assert!(!tree.exists());
        drop(temporary);
        assert_eq!(fs::read_dir(dir.path().join("tempdirs")).unwrap().count(), 0);
    }
}
