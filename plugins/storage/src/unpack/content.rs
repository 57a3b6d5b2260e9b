//! Where the bytes of an entry go.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crc::{CRC_64_GO_ISO, Crc, Digest, Table};
use diolkos_formats::files::failed;
use diolkos_sdk::{Error, ErrorKind, Result};

use super::entry::Entry;
use super::tree::Tree;

static CHECKSUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// An entry whose content is coming.
pub(super) struct Content {
    /// Bytes that came.
    count: u64,
    to: To,
}

enum To {
    /// Into a file, from which they are read again when the archive is.
    File(Box<(File, Entry, Digest<'static, u64, Table<16>>)>),
    /// Into the parts of a file with holes, and into the tar-split.
    Sparse(Box<(File, Entry, Parts)>),
    /// Into the tar-split alone; the name is as the archive has it.
    Nowhere(Vec<u8>),
}

/// What is known of an entry at its end.
pub(super) struct Done {
    pub name: Vec<u8>,
    /// Bytes that are read from the tree when the archive is made again.
    pub size: u64,
    pub checksum: u64,
    /// Bytes that the content has in the archive.
    pub in_archive: u64,
}

impl Content {
    /// For a regular file.
    pub fn file(file: File, entry: Entry) -> Self {
        Self { count: 0, to: To::File(Box::new((file, entry, CHECKSUM.digest()))) }
    }

    /// For a file with holes.
    pub fn sparse(file: File, entry: Entry, map: Vec<(u64, u64)>) -> Self {
        let parts = Parts { map, at: 0, within: 0 };
        Self { count: 0, to: To::Sparse(Box::new((file, entry, parts))) }
    }

    /// For what has no content, or none that anybody keeps.
    pub fn nowhere(name: Vec<u8>) -> Self {
        Self { count: 0, to: To::Nowhere(name) }
    }

    /// Takes the next bytes; those that the tree does not keep go to `inline`.
    pub fn write(&mut self, bytes: &[u8], inline: &mut Vec<u8>) -> Result<()> {
        self.count += bytes.len() as u64;
        match &mut self.to {
            To::File(file) => {
                let (file, entry, sum) = &mut **file;
                sum.update(bytes);
                file.write_all(bytes).map_err(|error| cannot(entry, error))
            }
            To::Sparse(file) => {
                inline.extend_from_slice(bytes);
                let (file, entry, parts) = &mut **file;
                parts.write(bytes, file, entry)
            }
            To::Nowhere(_) => {
                inline.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Ends the entry: its file gets what else it has.
    pub fn finish(self, tree: &mut Tree) -> Result<Done> {
        let Self { count, to } = self;
        let done = |name, size, checksum| Done { name, size, checksum, in_archive: count };
        Ok(match to {
            To::File(file) => {
                let (file, entry, sum) = *file;
                tree.attributes_of_file(&file, &entry)?;
                done(entry.name, count, sum.finalize())
            }
            To::Sparse(file) => {
                let (file, entry, _) = *file;
                tree.attributes_of_file(&file, &entry)?;
                done(entry.name, 0, 0)
            }
            To::Nowhere(name) => done(name, 0, 0),
        })
    }
}

fn cannot(entry: &Entry, error: std::io::Error) -> Error {
    let name = String::from_utf8_lossy(&entry.name);
    failed("write", Path::new(&*name), error)
}

/// The parts of a file with holes: where each is, and how long.
struct Parts {
    map: Vec<(u64, u64)>,
    /// The one at hand.
    at: usize,
    /// How much of it was written.
    within: u64,
}

impl Parts {
    fn write(&mut self, mut bytes: &[u8], file: &File, entry: &Entry) -> Result<()> {
        while !bytes.is_empty() {
            let Some((offset, length)) = self.map.get(self.at).copied() else {
                let name = String::from_utf8_lossy(&entry.name);
                let message = format!("the layer's entry `{name}`: it is longer than its parts");
                return Err(Error::new(ErrorKind::Corrupt, message));
            };
            let left = length - self.within;
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, after) = bytes.split_at(count);
            let at = offset.saturating_add(self.within);
            file.write_all_at(now, at).map_err(|error| cannot(entry, error))?;
            bytes = after;
            self.within += count as u64;
            if self.within == length {
                (self.at, self.within) = (self.at + 1, 0);
            }
        }
        Ok(())
    }
}
