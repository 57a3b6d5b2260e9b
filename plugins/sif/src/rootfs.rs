//! A squashfs as a tar archive, as it would be unpacked, without unpacking it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use backhand::{FilesystemReader, InnerNode, Node, Squashfs, SquashfsFileReader};
use diolkos_formats::files::{failed, no_room};
use diolkos_sdk::{Error, ErrorKind, Host, Result, Session};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::definition::SCRIPT;
use crate::file::Stretch;

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;
/// What a squashfs says that has no table of extended attributes.
const NO_TABLE: u64 = u64::MAX;

/// A layer that was made, and what is known of it.
pub(crate) struct Layer {
    pub file: File,
    pub sha256: Vec<u8>,
    pub size: u64,
}

/// Makes a layer of a squashfs, with a script put in where one is given.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a damaged file system, [`ErrorKind::Io`] where there is no room.
pub(crate) fn layer(
    file: &File,
    place: Stretch,
    script: Option<&[u8]>,
    session: &Session,
) -> Result<Layer> {
    let filesystem = guarded(|| open(file, place, &session.host))?;
    let directory = &session.temp_dir;
    let target = tempfile::tempfile_in(directory)
        .map_err(|error| failed("create a file in", directory, error))?;
    let hashed = Hashed { target, hash: Sha256::new(), size: 0 };
    let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER, hashed));
    let writing = |error| no_room(directory, error);
    guarded(|| write(&filesystem, &mut tar, script, &session.host, directory))?;
    let hashed = tar
        .into_inner()
        .and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(writing)?;
    Ok(Layer { file: hashed.target, sha256: hashed.hash.finalize().to_vec(), size: hashed.size })
}

/// Runs what reads foreign bytes with a library of others, whose panics are the bytes' fault.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(corrupt("what it consists of makes no sense")))
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the root file system is damaged: {why}"))
}

fn open(file: &File, place: Stretch, host: &Host) -> Result<FilesystemReader<'static>> {
    let mut file = file.try_clone().map_err(|error| Error::io("cannot open the file", error))?;
    // The library seeks to the file system's beginning by itself.
    file.seek(SeekFrom::Start(0)).map_err(|error| Error::io("cannot read the file", error))?;
    let file = BufReader::with_capacity(BUFFER, file);
    let squashfs = Squashfs::from_reader_with_offset(file, place.offset).map_err(corrupt)?;
    if squashfs.superblock.bytes_used > place.size {
        return Err(corrupt("it is longer than its place"));
    }
    if squashfs.superblock.xattr_table != NO_TABLE && !squashfs.superblock.no_xattrs_in_archive() {
        host.warn("extended attributes of files in a SIF file are left out");
    }
    squashfs.into_filesystem_reader().map_err(corrupt)
}

type Archive = tar::Builder<BufWriter<Hashed>>;

fn write(
    filesystem: &FilesystemReader<'_>,
    tar: &mut Archive,
    script: Option<&[u8]>,
    host: &Host,
    directory: &Path,
) -> Result<()> {
    let mut links = Links::of(filesystem);
    let (mut has_parent, parent) = (false, Path::new(SCRIPT).parent().unwrap_or(Path::new("")));
    for node in filesystem.files() {
        host.check_cancelled()?;
        let path = node.fullpath.strip_prefix("/").unwrap_or(&node.fullpath);
        if script.is_some() && path == Path::new(SCRIPT) {
            continue;
        }
        has_parent |= path == parent;
        entry(filesystem, node, path, &mut links, tar).map_err(|error| {
            let shown = path.display();
            match error.kind() {
                io::ErrorKind::StorageFull => no_room(directory, error),
                _ => corrupt(format!("{shown}: {error}")),
            }
        })?;
    }
    if let Some(script) = script {
        let adding = |error| no_room(directory, error);
        if !has_parent {
            let mut header = header(EntryType::Directory, 0o755);
            tar.append_data(&mut header, parent, io::empty()).map_err(adding)?;
        }
        let mut header = header(EntryType::Regular, 0o755);
        header.set_size(script.len() as u64);
        tar.append_data(&mut header, SCRIPT, script).map_err(adding)?;
    }
    Ok(())
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
    fn of(filesystem: &FilesystemReader<'_>) -> Self {
        let mut groups = HashMap::new();
        for node in filesystem.files() {
            if let InnerNode::File(file) = &node.inner
                && let Some((content, expected)) = linked(file)
            {
                let group = Group { names: 0, expected, first: None };
                groups.entry(content).or_insert(group).names += 1;
            }
        }
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
    if extended.link_count < 2 || extended.file_size == 0 {
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
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.target.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}
