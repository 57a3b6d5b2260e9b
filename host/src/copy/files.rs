//! The fast path from file to file: the kernel moves the bytes while we hash them.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use diolkos_sdk::{Error, ErrorKind, Extent, FileTarget, Host, Result};
use rustix::io::Errno;

use super::progress::Counter;
use super::verify::Verifier;

/// Bytes that the kernel is asked to copy at a time, so that a stopped copy ends soon.
const STEP: usize = 8 << 20;
/// Bytes that are hashed at a time.
const BUFFER: usize = 256 << 10;

/// Why a copy failed, and on which side.
pub(super) enum Failure {
    /// [`ErrorKind::Corrupt`] from the verifier, [`ErrorKind::Io`], [`ErrorKind::Cancelled`].
    Reading(Error),
    /// [`ErrorKind::Io`]: a full disk, for instance.
    Writing(Error),
}

impl Failure {
    fn is_echo(&self) -> bool {
        matches!(self, Self::Reading(error) if error.kind() == ErrorKind::Cancelled)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Reading(error)
    }
}

/// Copies an extent to a file target and verifies it meanwhile.
pub(super) fn copy(
    extent: Extent<'_>,
    target: FileTarget<'_>,
    verifier: Verifier<'_>,
    counter: &Counter,
    host: &Host,
) -> Result<u64, Failure> {
    if is_cloned(extent, target) {
        return Ok(hash(extent, verifier, counter, host, None)?);
    }
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let result = move_bytes(extent, target, host, &failed);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            result
        });
        let hashed = hash(extent, verifier, counter, host, Some(&failed)).map_err(Failure::Reading);
        if hashed.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        let moved = mover.join().unwrap_or_else(|_| {
            Err(Failure::Reading(Error::new(ErrorKind::Internal, "a file copy panicked")))
        });
        match (hashed, moved) {
            (Ok(count), Ok(())) => Ok(count),
            // The one that failed first made the other stop.
            (Err(failure), Ok(())) | (_, Err(failure)) if !failure.is_echo() => Err(failure),
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        }
    })
}

/// Shares the blocks of a whole file, where the file system can.
fn is_cloned(extent: Extent<'_>, target: FileTarget<'_>) -> bool {
    let is_whole = extent.offset == 0
        && target.offset == 0
        && rustix::fs::fstat(extent.file)
            .is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(extent.length));
    is_whole && rustix::fs::ioctl_ficlone(target.file, extent.file).is_ok()
}

fn move_bytes(
    extent: Extent<'_>,
    target: FileTarget<'_>,
    host: &Host,
    failed: &AtomicBool,
) -> Result<(), Failure> {
    let (mut from, mut to) = (extent.offset, target.offset);
    let end = extent.offset + extent.length;
    let mut in_kernel = true;
    let mut buffer = Vec::new();
    while from < end && !failed.load(Ordering::Relaxed) {
        host.check_cancelled()?;
        let step = usize::try_from(end - from).unwrap_or(STEP).min(STEP);
        if in_kernel {
            match rustix::fs::copy_file_range(
                extent.file,
                Some(&mut from),
                target.file,
                Some(&mut to),
                step,
            ) {
                Ok(0) => return Err(ended_early().into()),
                Ok(_) | Err(Errno::INTR) => {}
                // Not between these file systems, or not on this kernel.
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                    in_kernel = false;
                }
                Err(error) => {
                    return Err(unwritable(error));
                }
            }
        } else {
            buffer.resize(BUFFER, 0);
            let count = read_at(extent.file, &mut buffer[..step.min(BUFFER)], from)?;
            if count == 0 {
                return Err(ended_early().into());
            }
            write_all_at(target.file, &buffer[..count], to)?;
            from += count as u64;
            to += count as u64;
        }
    }
    Ok(())
}

fn hash(
    extent: Extent<'_>,
    mut verifier: Verifier<'_>,
    counter: &Counter,
    host: &Host,
    failed: Option<&AtomicBool>,
) -> Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut position = extent.offset;
    let end = extent.offset + extent.length;
    while position < end {
        host.check_cancelled()?;
        if failed.is_some_and(|failed| failed.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "the other half of the copy failed"));
        }
        let want = usize::try_from(end - position).unwrap_or(BUFFER).min(BUFFER);
        let count = read_at(extent.file, &mut buffer[..want], position)?;
        if count == 0 {
            return Err(ended_early());
        }
        verifier.update(&buffer[..count])?;
        position += count as u64;
        counter.add(count as u64);
    }
    verifier.finish()
}

fn ended_early() -> Error {
    Error::new(ErrorKind::Corrupt, "the blob's file became shorter while it was read")
}

fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], position: u64) -> Result<usize> {
    loop {
        match rustix::io::pread(file, &mut *buffer, position) {
            Err(Errno::INTR) => {}
            Ok(count) => return Ok(count),
            Err(error) => return Err(Error::io("cannot read the blob's file", error.into())),
        }
    }
}

fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut position: u64) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, position) {
            Err(Errno::INTR) => {}
            Ok(count) => {
                bytes = &bytes[count..];
                position += count as u64;
            }
            Err(error) => return Err(unwritable(error)),
        }
    }
    Ok(())
}

fn unwritable(error: Errno) -> Failure {
    let failure = Error::io("cannot write the blob's file", error.into());
    Failure::Writing(match error {
        Errno::NOSPC | Errno::DQUOT => {
            failure.with_hint("free some space there, or choose another place")
        }
        _ => failure,
    })
}
