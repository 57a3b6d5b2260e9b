//! Writing members whose names and sizes are known at their end.

use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_sdk::{BlobSums, BlobWriter, Error, ErrorKind, FileTarget, Host, Result};

use super::read::stretches;
use super::{BLOCK, Member, TarFile};
use crate::files::failed;

/// Names longer than this do not fit into a header, and stand before it in two blocks.
const SHORT_NAME: usize = 100;
/// Longer ones than this nobody needs here.
const LONGEST_NAME: usize = 500;

/// An archive that is being written to a file that can seek.
///
/// One member is written at a time; one that is given up is cut off again.
pub struct TarWriter {
    file: File,
    state: Mutex<State>,
}

struct State {
    /// Where the next header goes.
    end: u64,
    /// Whether a member is being written.
    busy: bool,
}

impl TarWriter {
    /// Begins an archive in an empty file.
    pub fn new(file: File) -> Arc<Self> {
        Arc::new(Self { file, state: Mutex::new(State { end: 0, busy: false }) })
    }

    /// Copies the members of another archive but for some, to the beginning of this one, as they are.
    /// `path` is the other's, for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for what is no tar archive.
    pub fn take_over(&self, from: &File, path: &Path, without: &[&str], host: &Host) -> Result<()> {
        let reading = |error| failed("read", path, error);
        let mut state = self.state();
        // Stretches without a gap are copied as one.
        let mut stretch = 0..0;
        for (name, place) in stretches(from).map_err(reading)? {
            host.check_cancelled()?;
            if without.contains(&name.as_str()) {
                continue;
            }
            if place.start != stretch.end {
                state.end += self.copy_from(from, &stretch, state.end).map_err(writing)?;
                stretch.start = place.start;
            }
            stretch.end = place.end;
        }
        state.end += self.copy_from(from, &stretch, state.end).map_err(writing)?;
        Ok(())
    }

    fn copy_from(&self, from: &File, place: &Range<u64>, to: u64) -> io::Result<u64> {
        let length = place.end - place.start;
        let (mut from, mut target) = (from, &self.file);
        from.seek(SeekFrom::Start(place.start))?;
        target.seek(SeekFrom::Start(to))?;
        // The kernel moves the bytes, or shares them where the file system can.
        let count = io::copy(&mut from.take(length), &mut target)?;
        // The last member may lack its padding, which then reads as nothing here.
        if count + BLOCK <= length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(length)
    }

    /// Opens what was written so far, for reading; `None` for nothing. `path` is for messages.
    ///
    /// # Errors
    /// Those of [`TarFile::new`].
    pub fn as_file(&self, path: &Path) -> Result<Option<TarFile>> {
        if self.state().end == 0 {
            return Ok(None);
        }
        // Reading moves the file's position, which writing does not need.
        let file = self.file.try_clone().map_err(writing)?;
        TarFile::new(path, file).map(Some)
    }

    /// Begins a member, whose name may be a `long` one of more than 100 bytes. `name` is asked for it
    /// when the member is complete, and told where its bytes are; `None` says that the archive has the
    /// same bytes already, and they are cut off again.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] while another one is being written.
    pub fn member(
        self: &Arc<Self>,
        long: bool,
        name: impl FnOnce(&BlobSums, Member) -> Result<Option<String>> + Send + 'static,
    ) -> Result<MemberWriter> {
        let mut state = self.state();
        if std::mem::replace(&mut state.busy, true) {
            return Err(Error::new(ErrorKind::Internal, "two members were written at once"));
        }
        let begin = state.end;
        drop(state);
        let offset = begin + if long { 3 * BLOCK } else { BLOCK };
        let name: Option<Name> = Some(Box::new(name));
        Ok(MemberWriter { tar: Arc::clone(self), name, begin, offset, size: 0 })
    }

    /// Adds a small file.
    pub fn add(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        let head = head(name, bytes.len() as u64)?;
        self.write_at(&head, state.end)?;
        let offset = state.end + head.len() as u64;
        self.write_at(bytes, offset)?;
        state.end = padded(offset + bytes.len() as u64);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&self, name: &str, target: &str) -> Result<()> {
        let mut state = self.state();
        let mut header = header(name, tar::EntryType::Symlink, 0)?;
        header.set_link_name_literal(target).map_err(bad_header)?;
        set_checksum(&mut header)?;
        self.write_at(header.as_bytes(), state.end)?;
        state.end += BLOCK;
        Ok(())
    }

    /// Reads a member back.
    pub fn read(&self, member: Member) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(member.size).unwrap_or(usize::MAX)];
        self.file
            .read_exact_at(&mut bytes, member.offset)
            .map_err(|error| Error::io("cannot read the archive back", error))?;
        Ok(bytes)
    }

    /// Ends the archive: two blocks without content.
    pub fn end(&self) -> Result<()> {
        let state = self.state();
        // Room for what was cut off, and nothing behind it.
        self.file.set_len(state.end + 2 * BLOCK).map_err(writing)
    }

    /// Copies the whole archive to where one cannot seek.
    pub fn copy_to(&self, mut target: impl Write) -> Result<()> {
        let mut source = &self.file;
        source.seek(SeekFrom::Start(0)).map_err(writing)?;
        io::copy(&mut source, &mut target).and_then(|_| target.flush()).map_err(writing)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(writing)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Name = Box<dyn FnOnce(&BlobSums, Member) -> Result<Option<String>> + Send>;

/// A member that is being written.
pub struct MemberWriter {
    tar: Arc<TarWriter>,
    name: Option<Name>,
    /// Where its header goes.
    begin: u64,
    /// Where its bytes go.
    offset: u64,
    size: u64,
}

impl BlobWriter for MemberWriter {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.tar.write_at(chunk, self.offset + self.size)?;
        self.size += chunk.len() as u64;
        Ok(())
    }

    fn file(&self) -> Option<FileTarget<'_>> {
        Some(FileTarget { file: self.tar.file.as_fd(), offset: self.offset })
    }

    fn finish(mut self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let name = self.name.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a member of an archive was finished twice")
        })?;
        let length = self.tar.file.metadata().map_err(writing)?.len();
        if sums.size > 0 && length < self.offset + sums.size {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("fewer bytes than {} were written for {}", sums.size, sums.digest),
            ));
        }
        let Some(name) = name(sums, Member { offset: self.offset, size: sums.size })? else {
            return Ok(());
        };
        let head = head(&name, sums.size)?;
        if head.len() as u64 != self.offset - self.begin {
            return Err(bad_header(io::Error::other(format!("`{name}` has another length"))));
        }
        self.tar.write_at(&head, self.begin)?;
        self.tar.state().end = padded(self.offset + sums.size);
        Ok(())
    }
}

impl Drop for MemberWriter {
    fn drop(&mut self) {
        let mut state = self.tar.state();
        state.busy = false;
        // What was given up, and what follows the last byte, must read as nothing.
        let _ = self.tar.file.set_len(state.end);
    }
}

fn writing(error: io::Error) -> Error {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let error = Error::io("cannot write the archive", error);
    if full { error.with_hint("free some space there, or choose another place") } else { error }
}

fn bad_header(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "a member of an archive has an impossible name")
        .with_source(error)
}

/// Makes all that stands before a file's bytes: its header, and a long name before that.
pub(super) fn head(name: &str, size: u64) -> Result<Vec<u8>> {
    if name.len() <= SHORT_NAME {
        return Ok(header(name, tar::EntryType::Regular, size)?.as_bytes().to_vec());
    }
    let long = header("././@LongLink", tar::EntryType::GNULongName, name.len() as u64 + 1)?;
    let mut head = long.as_bytes().to_vec();
    head.extend_from_slice(name.as_bytes());
    head.resize(head.len().next_multiple_of(512), 0);
    let cut = name.get(..SHORT_NAME).unwrap_or_default();
    head.extend_from_slice(header(cut, tar::EntryType::Regular, size)?.as_bytes());
    if name.len() > LONGEST_NAME {
        return Err(bad_header(io::Error::other(format!("`{name}` is too long"))));
    }
    Ok(head)
}

/// Makes the header of a member that is the same whoever writes it and when.
fn header(name: &str, kind: tar::EntryType, size: u64) -> Result<tar::Header> {
    if name.len() > SHORT_NAME {
        return Err(bad_header(io::Error::other(format!("`{name}` is too long"))));
    }
    let is_gnu = kind == tar::EntryType::GNULongName;
    let mut header = if is_gnu { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    // As other tools write them: the mode of a link means nothing.
    header.set_mode(if kind.is_symlink() { 0 } else { 0o444 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    if let Some(header) = header.as_ustar_mut() {
        header.set_device_major(0);
        header.set_device_minor(0);
    }
    set_checksum(&mut header)?;
    Ok(header)
}

/// Sets the checksum in the form that most programs write: six digits, a NUL and a space.
fn set_checksum(header: &mut tar::Header) -> Result<()> {
    header.set_cksum();
    let sum = header.cksum().map_err(bad_header)?;
    let text = format!("{sum:06o}\0 ");
    header.as_old_mut().cksum.copy_from_slice(text.as_bytes());
    Ok(())
}

fn padded(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "blobs/sha512/0123456789012345678901234567890123456789012345678901234567890123\
        4567890123456789012345678901234567890123456789012345678901234567";

    fn sums(size: u64) -> BlobSums {
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        BlobSums { digest, size, diff_id: None }
    }

    fn put(tar: &Arc<TarWriter>, name: &'static str, bytes: &[u8]) {
        let mut writer =
            Box::new(tar.member(name.len() > 100, move |_, _| Ok(Some(name.to_owned()))).unwrap());
        writer.write(bytes).unwrap();
        writer.finish(&sums(bytes.len() as u64)).unwrap();
    }

    #[test]
    fn what_is_written_can_be_read_and_what_is_given_up_leaves_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tar = TarWriter::new(file.reopen().unwrap());
        put(&tar, "first", &[1; 700]);
        let mut given_up = tar.member(false, |_, _| unreachable!()).unwrap();
        assert!(tar.member(false, |_, _| unreachable!()).is_err(), "one at a time");
        given_up.write(&[9; 5000]).unwrap();
        drop(given_up);
        let mut again = Box::new(tar.member(false, |_, _| Ok(None)).unwrap());
        again.write(&[3; 5000]).unwrap();
        again.finish(&sums(5000)).unwrap();
        put(&tar, "second", &[2; 512]);
        put(&tar, LONG, b"long");
        tar.add("small", b"text").unwrap();
        tar.link("d/link", "../second").unwrap();
        tar.end().unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len() % 512, 0);
        let read = TarFile::new(Path::new("x"), file.reopen().unwrap()).unwrap();
        assert_eq!(read.read("first", 1000).unwrap().unwrap(), [1; 700]);
        assert_eq!(read.read("d/link", 1000).unwrap().unwrap(), [2; 512]);
        assert_eq!(read.read(LONG, 1000).unwrap().unwrap(), b"long");
        assert_eq!(read.read("small", 1000).unwrap().unwrap(), b"text");
        let mut copy = Vec::new();
        tar.copy_to(&mut copy).unwrap();
        assert_eq!(copy, std::fs::read(file.path()).unwrap());
    }

    #[test]
    fn members_beyond_eight_gigabytes_have_a_size() {
        let header = header("x", tar::EntryType::Regular, 9 << 30).unwrap();
        assert_eq!(header.entry_size().unwrap(), 9 << 30);
    }

    #[test]
    fn fewer_bytes_than_announced_are_an_error() {
        let tar = TarWriter::new(tempfile::tempfile().unwrap());
        let mut writer = Box::new(tar.member(false, |_, _| Ok(Some("x".to_owned()))).unwrap());
        writer.write(b"abc").unwrap();
        assert!(writer.finish(&sums(4)).is_err());
    }
}
