//! Reading members where they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_sdk::{Blob, Error, ErrorKind, Result};

use super::BLOCK;
use crate::files::{Stretch, failed};

/// The most members that an archive may have.
const MOST_MEMBERS: usize = 1_000_000;
/// How many symbolic links are followed from one name.
const MOST_LINKS: usize = 8;

/// A stretch of the archive that is a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
}

enum Entry {
    File(Member),
    /// The name that it means, from the archive's root.
    Link(String),
    Other,
}

/// An archive whose members are known.
pub struct TarFile {
    path: PathBuf,
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

impl TarFile {
    /// Reads the headers of an archive. `path` is for messages.
    ///
    /// Of several members with one name the last counts, as for programs that unpack them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for what is no tar archive, or ends before its members do.
    pub fn new(path: &Path, mut file: File) -> Result<Self> {
        let cannot = |error| failed("read", path, error);
        let length = file.seek(SeekFrom::End(0)).map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        let broken = |why: String| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{} is no sound tar archive: {why}", path.display()),
            )
        };
        if length == 0 {
            return Err(broken("it is empty".into()));
        }
        let file = Arc::new(file);
        let mut entries = HashMap::new();
        let mut archive = tar::Archive::new(&*file);
        let found = archive.entries_with_seek().map_err(|error| broken(error.to_string()))?;
        for entry in found {
            let entry = entry.map_err(|error| broken(error.to_string()))?;
            let name = entry.path_bytes();
            let name = clean(&String::from_utf8_lossy(&name));
            let member = Member { offset: entry.raw_file_position(), size: entry.size() };
            let end = member.offset.checked_add(member.size);
            if end.is_none_or(|end| end > length) {
                return Err(broken(format!("it ends within `{name}`")));
            }
            let kind = entry.header().entry_type();
            let is_file = kind.is_file() || kind.is_contiguous();
            let value = match entry.link_name_bytes() {
                _ if is_file => Entry::File(member),
                Some(target) if kind.is_symlink() => {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    Entry::Link(beside(&name, &target))
                }
                Some(target) if kind.is_hard_link() => {
                    Entry::Link(clean(&String::from_utf8_lossy(&target)))
                }
                _ => Entry::Other,
            };
            entries.insert(name, value);
            if entries.len() > MOST_MEMBERS {
                return Err(broken(format!("it has more than {MOST_MEMBERS} members")));
            }
        }
        Ok(Self { path: path.to_owned(), file, entries })
    }

    /// Finds a file by its name; links within the archive are followed.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for links that lead nowhere or around, and for what is no file.
    pub fn find(&self, name: &str) -> Result<Option<Member>> {
        Ok(self.locate(name)?.map(|(_, member)| member))
    }

    /// Does [`Self::find`], and tells the name of the file that links lead to.
    pub fn locate(&self, name: &str) -> Result<Option<(String, Member)>> {
        let mut wanted = clean(name);
        for _ in 0..=MOST_LINKS {
            match self.entries.get(&wanted) {
                Some(Entry::File(member)) => return Ok(Some((wanted, *member))),
                Some(Entry::Link(target)) => wanted.clone_from(target),
                Some(Entry::Other) => {
                    return Err(self.broken(&format!("`{name}` is not a regular file")));
                }
                None if wanted == clean(name) => return Ok(None),
                None => return Err(self.broken(&format!("`{name}` is a link to nothing"))),
            }
        }
        Err(self.broken(&format!("`{name}` is a link that leads to itself")))
    }

    /// Reads a whole file of at most `limit` bytes; `None` if there is none of that name.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(member) = self.find(name)? else { return Ok(None) };
        if member.size > limit {
            return Err(self.broken(&format!("`{name}` is larger than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        self.content(member, 0)
            .read_to_end(&mut bytes)
            .map_err(|error| failed("read", &self.path, error))?;
        Ok(Some(bytes))
    }

    /// Opens a member from byte `from` on, with the fast path for files.
    pub fn blob(&self, member: Member, from: u64) -> Blob {
        Blob { size: Some(member.size), reader: Box::new(self.content(member, from)) }
    }

    /// Returns the bytes of a member from byte `from` on.
    pub fn content(&self, member: Member, from: u64) -> Stretch {
        let from = from.min(member.size);
        Stretch::new(Arc::clone(&self.file), member.offset + from, member.size - from)
    }

    /// Makes the error of an archive that is not what it should be.
    pub fn broken(&self, why: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{}: {why}", self.path.display()))
    }
}

/// Returns each member's name, and the bytes that it takes with its headers and padding, in order.
pub(super) fn stretches(file: &File) -> io::Result<Vec<(String, Range<u64>)>> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    let mut found = Vec::new();
    let mut begin = 0;
    let mut archive = tar::Archive::new(&file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
        let end = entry.raw_file_position().checked_add(entry.size());
        let end = end.and_then(|end| end.checked_next_multiple_of(BLOCK));
        let end = end.ok_or(io::ErrorKind::InvalidData)?;
        found.push((name, begin..end));
        begin = end;
    }
    Ok(found)
}

/// Returns what a link means that stands at `name`.
fn beside(name: &str, target: &str) -> String {
    match name.rsplit_once('/') {
        Some((parent, _)) if !target.starts_with('/') => clean(&format!("{parent}/{target}")),
        _ => clean(target),
    }
}

/// Returns the shortest name with the same meaning. What leads out of the archive stays, and is
/// found by nobody.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let cleaned = parts.join("/");
    if name.starts_with('/') { format!("/{cleaned}") } else { cleaned }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use diolkos_sdk::BlobReader as _;
    use proptest::prelude::*;

    use super::*;

    fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, target).unwrap();
    }

    fn open(bytes: &[u8]) -> Result<TarFile> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        TarFile::new(Path::new("x.tar"), file)
    }

    #[test]
    fn members_are_found_by_any_form_of_their_name_and_through_links() {
        let long = "d/".repeat(80) + "file";
        let bytes = archive(|builder| {
            file(builder, "./a", b"first");
            file(builder, "a", b"second");
            file(builder, &long, b"deep");
            link(builder, tar::EntryType::Symlink, "b/layer.tar", "../a");
            link(builder, tar::EntryType::Link, "hard", "a");
            link(builder, tar::EntryType::Symlink, "nowhere", "missing");
            link(builder, tar::EntryType::Symlink, "around", "around");
            link(builder, tar::EntryType::Symlink, "out", "../../etc/passwd");
        });
        let tar = open(&bytes).unwrap();
        let read = |name: &str| tar.read(name, 100);
        for name in ["a", "./a", "x/../a", "b/layer.tar", "hard"] {
            assert_eq!(read(name).unwrap().unwrap(), b"second", "{name}");
        }
        assert_eq!(read(&long).unwrap().unwrap(), b"deep");
        assert_eq!(read("c").unwrap(), None);
        for name in ["nowhere", "around", "out"] {
            assert_eq!(read(name).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
        }
        assert!(tar.read("a", 5).unwrap_err().message().contains("larger than 5"));
    }

    #[test]
    fn a_member_is_a_stretch_of_the_file() {
        let tar = open(&archive(|builder| file(builder, "a", b"0123456789"))).unwrap();
        let member = tar.find("a").unwrap().unwrap();
        let mut blob = tar.blob(member, 4);
        assert_eq!(blob.size, Some(10));
        let extent = blob.reader.extent().unwrap();
        assert_eq!((extent.offset, extent.length), (member.offset + 4, 6));
        let mut buffer = [0; 100];
        assert_eq!(blob.reader.read(&mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"456789");
        assert_eq!(blob.reader.read(&mut buffer).unwrap(), 0);
        assert_eq!(tar.content(member, 99).extent().unwrap().length, 0);
    }

    #[test]
    fn an_archive_that_was_cut_short_is_noticed_at_every_block() {
        let bytes = archive(|builder| {
            file(builder, "a", &[1; 2000]);
            file(builder, "b", &[2; 600]);
        });
        // From the last two blocks on, which are empty, nothing is missing.
        let whole = bytes.len() - 1024 - 512 + 88;
        for length in (0..bytes.len()).step_by(512) {
            let found = open(&bytes[..length]).and_then(|tar| Ok(tar.find("b")?.is_some()));
            assert!(length >= whole || !found.unwrap_or(false), "{length}");
        }
        assert_eq!(open(b"").err().unwrap().kind(), ErrorKind::Corrupt);
        assert_eq!(open(&[7; 2000]).err().unwrap().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn damaged_archives_are_refused_or_read_without_panic(
            changes in proptest::collection::vec((0..2560usize, any::<u8>()), 1..20),
            cut in 0..4096usize,
        ) {
            let mut bytes = archive(|builder| {
                file(builder, "a", &[1; 700]);
                link(builder, tar::EntryType::Symlink, "b", "a");
            });
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            if let Ok(tar) = open(&bytes) {
                for name in ["a", "b"] {
                    let _ = tar.read(name, 1 << 20);
                }
            }
        }

        #[test]
        fn a_clean_name_is_clean(name in "[a./]{0,20}") {
            let once = clean(&name);
            prop_assert_eq!(clean(&once), once);
        }
    }
}
