//! The store's lock files, as its library uses them.
//!
//! They are POSIX record locks on whole files. Those belong to the process: closing any descriptor
//! of such a file drops its lock. So each that others may know is opened in this module alone, and
//! by one holder at a time; others of the process wait. Who writes leaves a token in the file, by which other programs
//! see that what they have in memory is old.
//!
//! Locks are always taken in this order: `storage.lock`, `layers.lock`, `images.lock`,
//! `containers.lock`; those of temporary directories whenever, since nobody waits for them.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diolkos_formats::files::failed;
use diolkos_sdk::{Error, Host, Result};
use rustix::fs::FlockOperation;

/// How long is waited before a lock is tried again.
const PAUSE: Duration = Duration::from_millis(2);
/// The length of a token, in bytes.
const TOKEN: usize = 64;

/// The lock files that this process has open.
static OPEN: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
/// Told when one was closed.
static CLOSED: Condvar = Condvar::new();

/// A lock file that is held; dropping it lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    // Only ever `None` while it is dropped: the file must be closed before others may open it.
    file: Option<File>,
}

impl Lock {
    /// Waits until nobody else has the lock, and makes its file if need be.
    pub fn write(path: &Path, host: &Host) -> Result<Self> {
        let mut lock = Self::open(path, host)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(|error| cannot_open(path, error))?;
        lock.file = Some(file);
        lock.wait(FlockOperation::NonBlockingLockExclusive, host)?;
        Ok(lock)
    }

    /// Waits until nobody writes. Where there is no lock file, nobody ever did: then there is `None`.
    pub fn read(path: &Path, host: &Host) -> Result<Option<Self>> {
        let mut lock = Self::open(path, host)?;
        match File::open(path) {
            Ok(file) => lock.file = Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_open(path, error)),
        }
        lock.wait(FlockOperation::NonBlockingLockShared, host)?;
        Ok(Some(lock))
    }

    /// Takes a lock if it is free; `None` if somebody has it, or the file is gone meanwhile.
    pub fn try_write(path: &Path) -> Result<Option<Self>> {
        let path = &real(path);
        {
            let mut open = registry();
            if !open.get_or_insert_default().insert(path.to_owned()) {
                return Ok(None);
            }
        }
        let mut lock = Self { path: path.to_owned(), file: None };
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_open(path, error)),
        };
        let locked =
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        lock.file = Some(file);
        // Whoever held it before may have removed it since it was opened.
        Ok((locked && lock.is_there()).then_some(lock))
    }

    /// Waits for the others of this process.
    fn open(path: &Path, host: &Host) -> Result<Self> {
        let path = &real(path);
        let mut open = registry();
        while !open.get_or_insert_default().insert(path.to_owned()) {
            host.check_cancelled()?;
            let waited = CLOSED.wait_timeout(open, 10 * PAUSE);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(Self { path: path.to_owned(), file: None })
    }

    /// Waits for other processes. Not in the kernel, which would not let go when the copy is
    /// stopped.
    fn wait(&self, operation: FlockOperation, host: &Host) -> Result<()> {
        let file = self.file.as_ref().expect("a lock that is waited for has been opened");
        loop {
            match rustix::fs::fcntl_lock(file, operation) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                    host.check_cancelled()?;
                    sleep(PAUSE);
                }
                Err(error) => return Err(failed("lock", &self.path, error.into())),
            }
        }
    }

    fn is_there(&self) -> bool {
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let held = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        held.is_some() && held == std::fs::metadata(&self.path).ok().map(identity)
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves a token that says that this process wrote. Comes before what is written is there, so
    /// that a kill in between makes others look once too often rather than once too seldom.
    pub fn record_write(&self) -> Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let mut token = [0; TOKEN];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        token[..8].copy_from_slice(&nanos.to_le_bytes());
        token[8..16].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        token[16..20].copy_from_slice(&std::process::id().to_le_bytes());
        random(&mut token[20..])
            .map_err(|error| failed("open", Path::new("/dev/urandom"), error))?;
        let file = self.file.as_ref().expect("a lock that is held is open");
        file.write_all_at(&token, 0).map_err(|error| failed("write", &self.path, error))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut open = registry();
        self.file = None;
        open.get_or_insert_default().remove(&self.path);
        CLOSED.notify_all();
    }
}

fn cannot_open(path: &Path, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = failed("open", path, error);
    if denied { error.with_hint(super::ANOTHER_STORE) } else { error }
}

/// Returns the path by which a lock file is known: one file has one, whatever links lead to it.
fn real(path: &Path) -> PathBuf {
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

fn registry() -> MutexGuard<'static, Option<HashSet<PathBuf>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills a buffer with random bytes.
pub(crate) fn random(buffer: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(buffer)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Asks another process, since one's own locks never stand in one's way.
    fn is_free(path: &Path) -> bool {
        let script = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)";
        let status = Command::new("python3").args(["-c", script]).arg(path).output().unwrap();
        status.status.success()
    }

    #[test]
    fn a_lock_is_held_against_other_processes_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        assert!(Lock::read(&path, &Host::silent()).unwrap().is_none());
        let lock = Lock::write(&path, &Host::silent()).unwrap();
        assert!(!is_free(&path));
        assert!(Lock::try_write(&path).unwrap().is_none(), "this process has it already");
        assert!(!is_free(&path), "which has cost nobody the lock");
        drop(lock);
        assert!(is_free(&path));
        let lock = Lock::read(&path, &Host::silent()).unwrap();
        assert!(lock.is_some() && !is_free(&path));
    }

    #[test]
    fn each_write_leaves_another_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let mut seen = HashSet::new();
        for _ in 0..3 {
            Lock::write(&path, &Host::silent()).unwrap().record_write().unwrap();
            let token = std::fs::read(&path).unwrap();
            assert_eq!(token.len(), TOKEN);
            assert_eq!(token[16..20], std::process::id().to_le_bytes());
            assert!(seen.insert(token));
        }
    }

    #[test]
    fn threads_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _lock = Lock::write(&path, &Host::silent()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
