//! What of a tar header counts.

use diolkos_sdk::{Error, ErrorKind, Result};
use rustix::fs::Timespec;
use tar_core::parse::ParsedEntry;
use tar_core::{EntryType, PaxExtensions};

/// Where in a header its type is.
const TYPE: usize = 156;
/// An extended attribute that no layer has: what a file is to SELinux, the place says where it is.
pub(crate) const OF_THE_PLACE: &[u8] = b"security.selinux";

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// One with holes: where its parts are, and its size.
    Sparse(Vec<(u64, u64)>, u64),
    Directory,
    /// Another name of the file of this name in the archive.
    HardLink(Vec<u8>),
    /// To this.
    Symlink(Vec<u8>),
    /// Character or block device: major, minor.
    Device(rustix::fs::FileType, u32, u32),
    Fifo,
}

/// An entry of a layer.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// As the archive has it.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Whether content follows the headers, which the type says, and not what is made of it.
    pub has_content: bool,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Timespec,
    pub accessed: Timespec,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Takes what counts; `sparse` has parts and size of a file with holes.
    pub fn new(parsed: &ParsedEntry<'_>, sparse: Option<(Vec<(u64, u64)>, u64)>) -> Result<Self> {
        let wrong = |why: &str| {
            let name = parsed.path_lossy();
            Error::new(ErrorKind::Corrupt, format!("the layer's entry `{name}`: {why}"))
        };
        let mut modified = time(parsed.mtime.cast_signed(), 0);
        let mut accessed = None;
        for record in parsed.pax.map(PaxExtensions::new).into_iter().flatten() {
            let record = record.map_err(|error| wrong(&error.to_string()))?;
            let text = std::str::from_utf8(record.value_bytes()).ok();
            match record.key_bytes() {
                // Says that there is none.
                _ if record.value_bytes().is_empty() => {}
                b"mtime" => {
                    modified = text.and_then(seconds).ok_or_else(|| wrong("a time is none"))?;
                }
                b"atime" => accessed = text.and_then(seconds),
                b"size" | b"uid" | b"gid" if text.is_none_or(|it| it.parse::<u64>().is_err()) => {
                    return Err(wrong("a number is none"));
                }
                _ => {}
            }
        }
        let link =
            || parsed.link_target.clone().map(Vec::from).ok_or_else(|| wrong("it leads nowhere"));
        let is_old = parsed.header.as_bytes()[TYPE] == 0;
        let kind = match (parsed.entry_type, sparse) {
            (_, Some((map, size))) => Kind::Sparse(map, size),
            // Old archives have no other way to say so.
            (EntryType::Regular, None) if is_old && parsed.path.ends_with(b"/") => Kind::Directory,
            (EntryType::Regular, None) => Kind::File,
            (EntryType::Directory, None) => Kind::Directory,
            (EntryType::Link, None) => Kind::HardLink(link()?),
            (EntryType::Symlink, None) => Kind::Symlink(link()?),
            (EntryType::Fifo, None) => Kind::Fifo,
            (kind @ (EntryType::Char | EntryType::Block), None) => {
                let kind = if kind == EntryType::Char {
                    rustix::fs::FileType::CharacterDevice
                } else {
                    rustix::fs::FileType::BlockDevice
                };
                let (major, minor) = (parsed.dev_major, parsed.dev_minor);
                Kind::Device(kind, major.unwrap_or_default(), minor.unwrap_or_default())
            }
            (other, None) => return Err(wrong(&format!("its type {other:?} is not known"))),
        };
        let has_content = matches!(kind, Kind::File | Kind::Sparse(..));
        // The last number means "as it is" to the kernel.
        let id = |id: u64| match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(wrong("its owner is no owner")),
        };
        Ok(Self {
            name: parsed.path.to_vec(),
            kind,
            has_content,
            mode: parsed.mode & 0o7777,
            uid: id(parsed.uid)?,
            gid: id(parsed.gid)?,
            modified,
            accessed: accessed.unwrap_or(modified),
            xattrs: parsed
                .xattrs
                .iter()
                .filter(|(name, value)| &**name != OF_THE_PLACE && !value.is_empty())
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect(),
        })
    }

    /// Returns when the file was used and changed, as they are set on it: never used before it was
    /// changed, and, but for symbolic links, never before 1970, which the library takes for an error.
    pub fn times(&self) -> rustix::fs::Timestamps {
        let mut modified = self.modified;
        let mut accessed = self.accessed;
        if (accessed.tv_sec, accessed.tv_nsec) < (modified.tv_sec, modified.tv_nsec) {
            accessed = modified;
        }
        if !matches!(self.kind, Kind::Symlink(_)) {
            let last = i64::MAX / 1_000_000_000;
            for time in [&mut modified, &mut accessed] {
                if time.tv_sec < 0 || time.tv_sec > last {
                    *time = self::time(0, 0);
                }
            }
        }
        rustix::fs::Timestamps { last_access: accessed, last_modification: modified }
    }
}

fn time(seconds: i64, nanos: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanos }
}

/// Reads `-12.5`: seconds, and at most nine digits of a fraction.
fn seconds(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || digits.is_empty() {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: i64 = nanos.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(time(seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some(time(seconds, nanos))
}

/// Returns the parts of a name without `.`, `..` and doubled slashes; `None` for the root itself.
///
/// Nothing is above the root: a name that leads there is meant within the tree, as for a program
/// whose root the tree is.
pub(crate) fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_may_be_before_1970() {
        let read = |text| seconds(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(read("12"), Some((12, 0)));
        assert_eq!(read("12.5"), Some((12, 500_000_000)));
        assert_eq!(read("12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(read("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(read("-0.25"), Some((-1, 750_000_000)));
        for text in ["", "-", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn names_stay_within_the_tree() {
        let clean = |name: &str| clean(name.as_bytes()).map(|it| String::from_utf8(it).unwrap());
        for (name, meant) in [
            ("a/./b//", "a/b"),
            ("/a", "a"),
            ("/../a", "a"),
            ("a/../b", "b"),
            ("./a", "a"),
            ("../a", "a"),
            ("a/../../b", "b"),
        ] {
            assert_eq!(clean(name).as_deref(), Some(meant), "{name}");
        }
        for name in [".", "./", "/", "", "a/..", ".."] {
            assert_eq!(clean(name), None, "{name}");
        }
    }
}
