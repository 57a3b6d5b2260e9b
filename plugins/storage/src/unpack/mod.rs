//! A layer's tar archive becomes a tree of files, and a tar-split of it is written beside.
//!
//! The archive is pushed in as it comes, in pieces of any size, and nothing of it is kept but the
//! headers at hand. [`entry`] is what of a header counts, [`content`] where the bytes of a file go,
//! [`tree`] the only place where files are made: within the tree, whatever names and links say.
//!
//! What the tree cannot give back when the archive is made again is written into the tar-split as it
//! is: contents of sparse files, and of entries that leave no file. An archive that writes over its
//! own files is refused, as by the library.
//!
//! # Source
//! `storage/pkg/archive` (`archive.go`, `diff.go`, `archive_linux.go`) and `storage/layers.go`,
//! `applyDiff`, whose results these are to the mode, owner and time of each file.

mod content;
mod entry;
mod tree;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::hash::BuildHasher as _;
use std::path::Path;

use diolkos_formats::files::failed;
use diolkos_sdk::{Error, ErrorKind, Result};
use tar_core::parse::{Limits, ParseEvent, Parser};

use self::content::Content;
use self::entry::Entry;
pub(crate) use self::entry::{OF_THE_PLACE, clean};
use self::tree::Tree;
use crate::tar_split::TarSplitWriter;

/// Tar consists of blocks of this size.
const BLOCK: u64 = 512;
/// The most bytes that a segment of tar-split has, where nothing says how many.
const SEGMENT: usize = 1 << 20;
/// How names of whiteouts begin.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of all that is below in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The most bytes that the headers of one entry may have.
const MOST_HEADERS: u32 = 1 << 20;

/// What becomes of whiteouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// Devices 0/0, and an extended attribute of this name, as the kernel's overlay has them.
    Devices(&'static str),
    /// Files of the name that the archive has, as fuse-overlayfs reads them.
    Files,
    /// They are carried out: the tree is that of the layer below.
    Remove,
}

/// How trees are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// Devices cannot be made, and some extended attributes not set: in a user namespace.
    pub is_confined: bool,
    /// Owners that cannot be set are left.
    pub ignores_chown_errors: bool,
}

/// What is known of a layer once all of its archive was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of the archive.
    pub size: u64,
    /// Owners and groups of its entries, in order.
    pub uids: Vec<u32>,
    /// See `uids`.
    pub gids: Vec<u32>,
    /// Extended attributes that could not be set.
    pub lost_xattrs: u64,
    /// The archive says what the root's mode and owner are.
    pub has_root: bool,
}

enum State {
    /// Before or in the headers of an entry.
    Headers,
    /// In the content of an entry: so many bytes are left.
    Content(Content, u64),
    /// Behind it: so many bytes until the next block begins.
    Padding(u64),
    /// Behind the end of the archive.
    Tail,
}

/// An archive on its way into a tree.
pub(crate) struct Unpacker {
    tree: Tree,
    parser: Parser,
    split: TarSplitWriter<File>,
    state: State,
    /// The beginning of headers whose rest has not come yet.
    headers: Vec<u8>,
    /// Bytes that are part of the next segment.
    pending: Vec<u8>,
    /// Names that have been met, as numbers: a layer may have a million.
    seen: HashSet<u64>,
    hashes: RandomState,
    size: u64,
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Unpacker {
    /// Begins, in a directory that is there, writing the tar-split to a file that is not.
    pub fn new(tree: &Path, tar_split: &Path, rules: Rules) -> Result<Self> {
        let split =
            File::create_new(tar_split).map_err(|error| failed("open", tar_split, error))?;
        let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        split.set_permissions(private).map_err(|error| failed("chmod", tar_split, error))?;
        let limits = Limits {
            max_metadata_size: MOST_HEADERS,
            max_path_len: None,
            max_pending_entries: 16,
            max_sparse_entries: 1_000_000,
        };
        let mut parser = Parser::new(limits);
        // Times before 1970 count as errors there; `entry` reads them, and looks at the others.
        parser.set_ignore_pax_errors(true);
        Ok(Self {
            tree: Tree::open(tree, rules)?,
            parser,
            split: TarSplitWriter::new(split),
            state: State::Headers,
            headers: Vec::new(),
            pending: Vec::new(),
            seen: HashSet::new(),
            hashes: RandomState::new(),
            size: 0,
            uids: BTreeSet::new(),
            gids: BTreeSet::new(),
        })
    }

    /// Takes the next bytes of the archive.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for what is no archive of a layer, and what the system says.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            match std::mem::replace(&mut self.state, State::Headers) {
                State::Headers => bytes = self.headers(bytes)?,
                State::Content(mut content, left) => {
                    let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (now, after) = bytes.split_at(count);
                    content.write(now, &mut self.pending)?;
                    self.flush_if_large()?;
                    bytes = after;
                    self.within(content, left - count as u64)?;
                }
                State::Padding(left) => {
                    let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (now, after) = bytes.split_at(count);
                    self.pending.extend_from_slice(now);
                    bytes = after;
                    let left = left - count as u64;
                    if left > 0 {
                        self.state = State::Padding(left);
                    }
                }
                State::Tail => {
                    for part in bytes.chunks(SEGMENT) {
                        self.split.segment(part).map_err(cannot_split)?;
                    }
                    bytes = &[];
                    self.state = State::Tail;
                }
            }
        }
        Ok(())
    }

    /// Reads headers; returns what comes behind them.
    fn headers<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        if self.headers.is_empty() {
            // The usual case: all of them are at hand.
            return Ok(if let Ok(consumed) = self.entry(bytes)? {
                &bytes[consumed..]
            } else {
                self.headers.extend_from_slice(bytes);
                &[]
            });
        }
        let mut bytes = bytes;
        let mut held = std::mem::take(&mut self.headers);
        loop {
            let wanted = match self.entry(&held)? {
                Ok(consumed) => {
                    // More was held only if the parser asked for more than it took in the end.
                    let rest = held.split_off(consumed);
                    self.size -= rest.len() as u64;
                    self.push(&rest)?;
                    return Ok(bytes);
                }
                Err(wanted) => wanted.saturating_sub(held.len()).max(1),
            };
            let (now, after) = bytes.split_at(wanted.min(bytes.len()));
            held.extend_from_slice(now);
            bytes = after;
            if now.len() < wanted {
                self.headers = held;
                return Ok(&[]);
            }
        }
    }

    /// Reads one entry's headers and begins with it. Returns how many bytes they were, or how many
    /// there must be.
    fn entry(&mut self, bytes: &[u8]) -> Result<std::result::Result<usize, usize>> {
        let event = self.parser.parse(bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the layer is no sound tar archive").with_source(error)
        })?;
        let (consumed, entry, size) = match event {
            ParseEvent::NeedData { min_bytes } => return Ok(Err(min_bytes)),
            ParseEvent::End { consumed } => {
                self.pending.extend_from_slice(&bytes[..consumed]);
                self.flush()?;
                self.state = State::Tail;
                return Ok(Ok(consumed));
            }
            ParseEvent::GlobalExtensions { consumed, pax_data } => {
                // The headers end with that one.
                let length = (pax_data.len() as u64).next_multiple_of(BLOCK) + BLOCK;
                let begin = consumed - usize::try_from(length).unwrap_or(consumed).min(consumed);
                let name = bytes[begin..].iter().take(100).copied().take_while(|byte| *byte != 0);
                let name: Vec<u8> = name.collect();
                self.pending.extend_from_slice(&bytes[..consumed]);
                self.flush()?;
                self.name(&name)?;
                self.split.file(&name, 0, None).map_err(cannot_split)?;
                return Ok(Ok(consumed));
            }
            ParseEvent::Entry { consumed, entry } => {
                (consumed, Entry::new(&entry, None)?, entry.size)
            }
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                let map = sparse_map.iter().map(|part| (part.offset, part.length)).collect();
                (consumed, Entry::new(&entry, Some((map, real_size)))?, entry.size)
            }
        };
        self.pending.extend_from_slice(&bytes[..consumed]);
        self.flush()?;
        self.begin(entry, size)?;
        Ok(Ok(consumed))
    }

    /// Notes a name.
    fn name(&mut self, name: &[u8]) -> Result<()> {
        // With and without a slash in front they count as two, as for the library.
        let cleaned = (name.starts_with(b"/"), clean(name));
        if self.seen.insert(self.hashes.hash_one(&cleaned)) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(name);
        Err(Error::unsupported(format!(
            "the layer's archive has `{name}` twice, which containers-storage cannot keep"
        )))
    }

    fn begin(&mut self, entry: Entry, size: u64) -> Result<()> {
        self.name(&entry.name)?;
        let base = entry.name.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty());
        if !base.unwrap_or_default().starts_with(WHITEOUT) {
            self.uids.insert(entry.uid);
            self.gids.insert(entry.gid);
        }
        // Only of these does content follow; of others a size means nothing.
        let size = if entry.has_content { size } else { 0 };
        let content =
            self.tree.make(entry).map_err(|error| error.context("unpacking the layer"))?;
        self.within(content, size)
    }

    /// Goes on with an entry of whose content so much is left.
    fn within(&mut self, content: Content, left: u64) -> Result<()> {
        if left > 0 {
            self.state = State::Content(content, left);
            return Ok(());
        }
        // What stands in the segments itself comes before its entry.
        self.flush()?;
        let done = content.finish(&mut self.tree)?;
        let sum = (done.size > 0).then_some(done.checksum);
        self.split.file(&done.name, done.size, sum).map_err(cannot_split)?;
        let padding = done.in_archive.next_multiple_of(BLOCK) - done.in_archive;
        self.state = if padding > 0 { State::Padding(padding) } else { State::Headers };
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.split.segment(&self.pending).map_err(cannot_split)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn flush_if_large(&mut self) -> Result<()> {
        if self.pending.len() >= SEGMENT { self.flush() } else { Ok(()) }
    }

    /// Ends an archive of which all bytes were there.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for one that ends within an entry.
    pub fn finish(mut self) -> Result<Unpacked> {
        let ends_well = match self.state {
            // One block of zeros, or none, where there should be two: such archives are common.
            State::Headers => self.headers.iter().all(|byte| *byte == 0),
            State::Content(..) => false,
            State::Padding(_) | State::Tail => true,
        };
        if !ends_well {
            return Err(Error::new(ErrorKind::Corrupt, "the layer's archive ends within an entry"));
        }
        let rest = std::mem::take(&mut self.headers);
        self.pending.extend_from_slice(&rest);
        self.flush()?;
        self.tree.finish().map_err(|error| error.context("unpacking the layer"))?;
        let (lost_xattrs, has_root) = (self.tree.lost_xattrs(), self.tree.has_root());
        let file = self.split.finish().map_err(cannot_split)?;
        file.sync_data().map_err(cannot_split)?;
        Ok(Unpacked {
            size: self.size,
            uids: self.uids.into_iter().collect(),
            gids: self.gids.into_iter().collect(),
            lost_xattrs,
            has_root,
        })
    }
}

fn cannot_split(error: std::io::Error) -> Error {
    failed("write", Path::new("the layer's tar-split"), error)
}

#[cfg(test)]
mod tests;
