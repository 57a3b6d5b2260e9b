//! A squashfs as a tar archive, as it would be unpacked, without unpacking it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use backhand::{BackhandError, FilesystemReader, InnerNode, Node, Squashfs, SquashfsFileReader};
use diolkos_formats::bytes::digest_of;
use diolkos_formats::files::{failed, no_room};
use diolkos_sdk::{Digest, Error, ErrorKind, Host, Result, Session};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::definition::SCRIPT;
use crate::file::Stretch;

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;
/// What a squashfs says that has no table of extended attributes.
const NO_TABLE: u64 = u64::MAX;
/// What a file says that has no part in a block of several.
const NO_FRAGMENT: usize = 0xffff_ffff;
/// Bytes of a file in memory while its tables are read.
const WINDOW: usize = 64 << 10;
/// Bytes of small files that are kept.
const MOST_KEPT: usize = 16 << 20;
/// The longest target of a link that stands in its header, in bytes.
const SHORT_TARGET: usize = 100;
/// The most files that are read.
const MOST_FILES: u32 = 4_000_000;
/// The most users and groups together that the library reads.
const MOST_IDS: u16 = 2048;
/// What a stack has beside what directories take, what each takes, and the most it has, in bytes.
const LEAST_STACK: usize = 8 << 20;
const STACK_OF_DIRECTORY: usize = 2 << 10;
const MOST_STACK: usize = 2 << 30;

/// A layer that was made, and what is known of it.
pub(crate) struct Layer {
    pub file: File,
    pub digest: Digest,
    pub size: u64,
}

/// Makes a layer of a squashfs, with a script put in where one is given.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a damaged file system, [`ErrorKind::Unsupported`] for one that is of
/// another kind, [`ErrorKind::Io`] where there is no room.
pub(crate) fn layer(
    file: &File,
    place: Stretch,
    script: Option<&[u8]>,
    session: &Session,
) -> Result<Layer> {
    let squashfs = Image { file, place };
    let filesystem = guarded(|| squashfs.open(Some(&session.host)))?;
    let directory = &session.temp_dir;
    let target = tempfile::tempfile_in(directory)
        .map_err(|error| failed("create a file in", directory, error))?;
    let hashed = Hashed { target, hash: Sha256::new(), size: 0, failure: None };
    let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER, hashed));
    let written = guarded(|| write(&squashfs, &filesystem, &mut tar, script, &session.host));
    // That the archive could not be written is not the image's fault.
    if let Some(error) = tar.get_mut().get_mut().failure.take() {
        return Err(no_room(directory, error));
    }
    written?;
    let hashed = tar
        .into_inner()
        .and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(|error| no_room(directory, error))?;
    Ok(Layer { file: hashed.target, digest: digest_of(hashed.hash), size: hashed.size })
}

/// Runs what reads foreign bytes with a library of others, whose panics are the bytes' fault.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(corrupt("what it consists of makes no sense")))
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the root file system is damaged: {why}"))
}

fn unsupported(why: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("the root file system cannot be read: {why}"))
}

/// A file system within a file.
struct Image<'a> {
    file: &'a File,
    place: Stretch,
}

impl<'a> Image<'a> {
    /// Reads its tables; `host` is told what will be missing.
    fn open(&self, host: Option<&Host>) -> Result<FilesystemReader<'a>> {
        let window = Window { file: self.file, buffer: Vec::new(), start: 0, position: 0 };
        let squashfs =
            Squashfs::from_reader_with_offset(window, self.place.offset).map_err(|error| {
                match error {
                    BackhandError::UnsupportedCompression(_)
                    | BackhandError::UnsupportedSquashfsVersion(..) => unsupported(error),
                    error => corrupt(error),
                }
            })?;
        let superblock = squashfs.superblock;
        if superblock.bytes_used > self.place.size {
            return Err(corrupt("it is longer than its place"));
        }
        if superblock.inode_count > MOST_FILES || superblock.id_count > MOST_IDS {
            let (files, ids) = (superblock.inode_count, superblock.id_count);
            return Err(unsupported(format!("it has {files} files of {ids} users and groups")));
        }
        if let Some(host) = host
            && superblock.xattr_table != NO_TABLE
            && !superblock.no_xattrs_in_archive()
        {
            host.warn("extended attributes of files in a SIF file are left out");
        }
        // The library calls itself for each directory in a directory.
        let stack = LEAST_STACK + superblock.inode_count as usize * STACK_OF_DIRECTORY;
        let filesystem = thread::scope(|scope| {
            let read = || squashfs.into_filesystem_reader().map_err(corrupt);
            let thread = thread::Builder::new().stack_size(stack.min(MOST_STACK));
            let thread = thread.spawn_scoped(scope, read);
            let thread = thread.map_err(|error| Error::io("cannot start a thread", error))?;
            thread.join().unwrap_or_else(|_| Err(corrupt("what it consists of makes no sense")))
        })?;
        // It passes over what it cannot make sense of. Each file has a name.
        let mut names = HashSet::new();
        if !filesystem.files().all(|node| names.insert(&node.fullpath)) {
            return Err(corrupt("two files have one name"));
        }
        let files = Links::files(&filesystem, names.len());
        if files.is_none_or(|files| files < superblock.inode_count as usize) {
            return Err(corrupt("some of its files have no name"));
        }
        drop(names);
        Ok(filesystem)
    }
}

type Archive = tar::Builder<BufWriter<Hashed>>;

fn write<'f>(
    image: &Image<'f>,
    filesystem: &FilesystemReader<'f>,
    tar: &mut Archive,
    script: Option<&[u8]>,
    host: &Host,
) -> Result<()> {
    let mut links = Links::of(filesystem);
    let mut contents = Contents { image, reader: None, fragments: HashSet::new() };
    let (mut has_parent, parent) = (false, Path::new(SCRIPT).parent().unwrap_or(Path::new("")));
    for node in filesystem.files() {
        host.check_cancelled()?;
        let path = node.fullpath.strip_prefix("/").unwrap_or(&node.fullpath);
        if script.is_some() && path == Path::new(SCRIPT) {
            continue;
        }
        if script.is_some() && path == parent {
            has_parent = true;
            if !matches!(node.inner, InnerNode::Dir(_)) {
                let shown = path.display();
                return Err(unsupported(format!("/{shown} is no directory for a script")));
            }
        }
        let reader = contents.reader(filesystem, node)?;
        entry(reader, node, path, &mut links, tar)
            .map_err(|error| corrupt(format!("{}: {error}", path.display())))?;
    }
    if let Some(script) = script {
        if !has_parent {
            let mut header = header(EntryType::Directory, 0o755);
            tar.append_data(&mut header, parent, io::empty()).map_err(corrupt)?;
        }
        let mut header = header(EntryType::Regular, 0o755);
        header.set_size(script.len() as u64);
        tar.append_data(&mut header, SCRIPT, script).map_err(corrupt)?;
    }
    Ok(())
}

/// What files' contents are read with. The library keeps every block of small files that it has
/// read, for ever; so after some of them it begins anew.
struct Contents<'i, 'f> {
    image: &'i Image<'f>,
    reader: Option<FilesystemReader<'f>>,
    fragments: HashSet<usize>,
}

impl<'f> Contents<'_, 'f> {
    /// Returns what reads a file; `first` is what its tables were read with.
    fn reader<'b>(
        &'b mut self,
        first: &'b FilesystemReader<'f>,
        node: &Node<SquashfsFileReader>,
    ) -> Result<&'b FilesystemReader<'f>> {
        if let InnerNode::File(file) = &node.inner
            && file.frag_index() != NO_FRAGMENT
            && self.fragments.insert(file.frag_index())
            && self.fragments.len() * first.block_size as usize > MOST_KEPT
        {
            self.reader = Some(self.image.open(None)?);
            self.fragments.clear();
        }
        Ok(self.reader.as_ref().unwrap_or(first))
    }
}

/// A part of a file in memory, which stays there as long as what is read lies in it.
struct Window<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    /// Where the buffer's bytes are in the file.
    start: u64,
    position: u64,
}

impl BufRead for Window<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let offset = self.position.checked_sub(self.start).and_then(|it| usize::try_from(it).ok());
        if let Some(offset) = offset.filter(|offset| *offset < self.buffer.len()) {
            return Ok(&self.buffer[offset..]);
        }
        self.buffer.resize(WINDOW, 0);
        let count = self.file.read_at(&mut self.buffer, self.position)?;
        self.buffer.truncate(count);
        self.start = self.position;
        Ok(&self.buffer)
    }

    fn consume(&mut self, count: usize) {
        self.position += count as u64;
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

fn header(kind: EntryType, mode: u16) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(u32::from(mode & 0o7777));
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn entry(
    filesystem: &FilesystemReader<'_>,
    node: &Node<SquashfsFileReader>,
    path: &Path,
    links: &mut Links,
    tar: &mut Archive,
) -> io::Result<()> {
    let kind = match &node.inner {
        InnerNode::File(_) => EntryType::Regular,
        InnerNode::Symlink(_) => EntryType::Symlink,
        InnerNode::Dir(_) => EntryType::Directory,
        InnerNode::CharacterDevice(_) => EntryType::Char,
        InnerNode::BlockDevice(_) => EntryType::Block,
        InnerNode::NamedPipe => EntryType::Fifo,
        // An archive has no sockets, and a program makes its own.
        InnerNode::Socket => return Ok(()),
    };
    let mut header = header(kind, node.header.permissions);
    header.set_uid(node.header.uid.into());
    header.set_gid(node.header.gid.into());
    header.set_mtime(node.header.mtime.into());
    match &node.inner {
        InnerNode::File(file) => {
            if let Some(first) = links.first(file, path) {
                header.set_entry_type(EntryType::Link);
                return tar.append_link(&mut header, path, first);
            }
            header.set_size(file.file_len() as u64);
            let content = filesystem.file(file).reader();
            tar.append_data(&mut header, path, Exact { content, left: file.file_len() as u64 })
        }
        InnerNode::Symlink(link) if link.link.as_os_str().len() <= SHORT_TARGET => {
            // As it is: what is added as a path is tidied up.
            header.set_link_name_literal(link.link.as_os_str().as_bytes())?;
            tar.append_data(&mut header, path, io::empty())
        }
        InnerNode::Symlink(link) => tar.append_link(&mut header, path, &link.link),
        InnerNode::CharacterDevice(device) => {
            device_number(&mut header, device.device_number)?;
            tar.append_data(&mut header, path, io::empty())
        }
        InnerNode::BlockDevice(device) => {
            device_number(&mut header, device.device_number)?;
            tar.append_data(&mut header, path, io::empty())
        }
        InnerNode::Dir(_) if path.as_os_str().is_empty() => {
            // The root itself, whose name has no part that is one.
            header.as_old_mut().name[..2].copy_from_slice(b"./");
            header.set_cksum();
            tar.append(&header, io::empty())
        }
        _ => tar.append_data(&mut header, path, io::empty()),
    }
}

/// Sets a device's number, of which the file system keeps the kernel's form.
fn device_number(header: &mut Header, number: u32) -> io::Result<()> {
    header.set_device_major((number & 0xf_ff00) >> 8)?;
    header.set_device_minor((number & 0xff) | ((number >> 12) & 0xf_ff00))
}

/// Where files are the same one. The library does not tell their numbers, but where their bytes are
/// and how many names a file has; files that were merely found equal have the first in common and
/// not the second.
struct Links(HashMap<Content, Group>);

#[derive(PartialEq, Eq, Hash)]
struct Content {
    blocks: u64,
    fragment: usize,
    offset: u32,
    size: usize,
}

struct Group {
    names: usize,
    expected: u32,
    first: Option<PathBuf>,
}

impl Links {
    /// Returns how many files so many names are of; `None` if one has fewer names than it says.
    fn files(filesystem: &FilesystemReader<'_>, names: usize) -> Option<usize> {
        let mut files = names;
        for group in Self::all(filesystem).values() {
            let expected = group.expected as usize;
            if group.names % expected != 0 {
                return None;
            }
            files -= group.names - group.names / expected;
        }
        Some(files)
    }

    fn all(filesystem: &FilesystemReader<'_>) -> HashMap<Content, Group> {
        let mut groups = HashMap::new();
        for node in filesystem.files() {
            if let InnerNode::File(file) = &node.inner
                && let Some((content, expected)) = linked(file)
            {
                let group = Group { names: 0, expected, first: None };
                groups.entry(content).or_insert(group).names += 1;
            }
        }
        groups
    }

    fn of(filesystem: &FilesystemReader<'_>) -> Self {
        let mut groups = Self::all(filesystem);
        groups.retain(|_, group| usize::try_from(group.expected) == Ok(group.names));
        Self(groups)
    }

    /// Returns the name under which a file is there already; remembers the first one.
    fn first(&mut self, file: &SquashfsFileReader, path: &Path) -> Option<PathBuf> {
        let group = self.0.get_mut(&linked(file)?.0)?;
        if group.first.is_none() {
            group.first = Some(path.to_owned());
            return None;
        }
        group.first.clone()
    }
}

/// Tells where a file's bytes are, and how many names it has; `None` for one that has one name.
fn linked(file: &SquashfsFileReader) -> Option<(Content, u32)> {
    let SquashfsFileReader::Extended(extended) = file else { return None };
    if extended.link_count < 2 {
        return None;
    }
    let content = Content {
        blocks: extended.blocks_start,
        fragment: file.frag_index(),
        offset: file.block_offset(),
        size: file.file_len(),
    };
    Some((content, extended.link_count))
}

/// Reads as many bytes as were announced, or fails: an archive would be damaged by others.
struct Exact<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.content.read(&mut buffer[..most])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is cut short")),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

/// Hashes what is written.
struct Hashed {
    target: File,
    hash: Sha256,
    size: u64,
    /// Why nothing more could be written.
    failure: Option<io::Error>,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.target.write(bytes).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            io::Error::from(kind)
        })?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}
