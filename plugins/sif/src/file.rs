//! What is where in a SIF file.
//!
//! # Source
//! github.com/sylabs/sif, `pkg/sif`: `header`, `rawDescriptor`, `partition`; version 01. All numbers
//! are little-endian.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use diolkos_formats::files;
use diolkos_sdk::{Error, ErrorKind, Result};

/// The header's length, in bytes.
const HEADER: usize = 128;
/// A descriptor's length, in bytes.
const DESCRIPTOR: usize = 585;
/// More objects than these no file has.
const MOST_OBJECTS: i64 = 65_536;
/// The largest definition that is read, in bytes.
const MAX_DEFINITION: u64 = 16 << 20;

const MAGIC: &[u8] = b"SIF_MAGIC\0";
const VERSION: &[u8] = b"01\0";

const DEFINITION: i32 = 0x4001;
const PARTITION: i32 = 0x4004;
const OCI_INDEX: i32 = 0x400a;

const SQUASHFS: i32 = 1;
const ENCRYPTED_SQUASHFS: i32 = 5;
/// The partition that an image runs from.
const PRIMARY_SYSTEM: i32 = 2;

/// An opened file.
#[derive(Debug)]
pub(crate) struct Sif {
    pub file: File,
    /// The CPU architecture, as Go calls it.
    pub architecture: &'static str,
    /// The file's UUID.
    pub id: String,
    /// When it was changed, in seconds since 1970.
    pub modified: i64,
    /// The root file system.
    pub rootfs: Stretch,
    /// The text that the image was made by, if it is there.
    pub definition: Option<Vec<u8>>,
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub offset: u64,
    pub size: u64,
}

struct Object {
    kind: i32,
    place: Stretch,
    /// What is particular to the kind.
    extra: [u8; 8],
}

impl Sif {
    /// Reads a file's header and descriptors.
    ///
    /// # Errors
    /// As the operating system says; [`ErrorKind::Corrupt`] for what is no such file;
    /// [`ErrorKind::Unsupported`] for one whose root file system cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path).map_err(|error| error.context("loading SIF file"))?;
        let length = file.metadata().map_err(|error| files::failed("stat", path, error))?.len();
        let broken = |why: &str| {
            let message = format!("{} is no sound SIF file: {why}", path.display());
            Error::new(ErrorKind::Corrupt, message)
        };
        let mut header = [0; HEADER];
        let read = file.read_exact_at(&mut header, 0);
        if read.is_err() || &header[32..42] != MAGIC {
            return Err(broken("it does not begin as one")
                .with_hint("give a file that `singularity build` or `apptainer build` made"));
        }
        if &header[42..45] != VERSION {
            return Err(broken("it has a version that is not known"));
        }
        let objects = objects(&file, &header, length)
            .ok_or_else(|| broken("its descriptors are damaged, or it was cut short"))?;
        // Of several, none counts, as with other tools.
        let mut definitions = objects.iter().filter(|object| object.kind == DEFINITION);
        let definition = match definitions.next().filter(|_| definitions.next().is_none()) {
            Some(object) if object.place.size > MAX_DEFINITION => {
                return Err(broken("its definition is too large"));
            }
            Some(object) => {
                let size = usize::try_from(object.place.size).unwrap_or(usize::MAX);
                let mut text = vec![0; size];
                file.read_exact_at(&mut text, object.place.offset)
                    .map_err(|error| files::failed("read", path, error))?;
                Some(text)
            }
            None => None,
        };
        Ok(Self {
            architecture: architecture(&header[45..48]),
            id: uuid(&header[48..64]),
            modified: i64_at(&header, 72),
            rootfs: rootfs(&objects, path)?,
            definition,
            file,
        })
    }
}

/// Reads what the file holds; `None` when it makes no sense.
fn objects(file: &File, header: &[u8], length: u64) -> Option<Vec<Object>> {
    let count = i64_at(header, 88);
    let offset = u64::try_from(i64_at(header, 96)).ok()?;
    if !(0..=MOST_OBJECTS).contains(&count) {
        return None;
    }
    let mut objects = Vec::new();
    for index in 0..count {
        let mut bytes = [0; DESCRIPTOR];
        let at = offset.checked_add(u64::try_from(index).ok()? * DESCRIPTOR as u64)?;
        file.read_exact_at(&mut bytes, at).ok()?;
        // One that is not used is free for the next object.
        if bytes[4] == 0 {
            continue;
        }
        let place = Stretch {
            offset: u64::try_from(i64_at(&bytes, 17)).ok()?,
            size: u64::try_from(i64_at(&bytes, 25)).ok()?,
        };
        if place.offset.checked_add(place.size)? > length {
            return None;
        }
        let extra = bytes[201..209].try_into().ok()?;
        objects.push(Object { kind: i32_at(&bytes, 0), place, extra });
    }
    Some(objects)
}

fn rootfs(objects: &[Object], path: &Path) -> Result<Stretch> {
    let is_primary =
        |object: &&Object| object.kind == PARTITION && i32_at(&object.extra, 4) == PRIMARY_SYSTEM;
    let mut partitions = objects.iter().filter(is_primary);
    let primary = partitions.next();
    let unsupported = |why: &str| Error::unsupported(format!("{}: {why}", path.display()));
    let Some(primary) = primary else {
        return Err(if objects.iter().any(|object| object.kind == OCI_INDEX) {
            unsupported("it holds an OCI image, and no file system")
                .with_hint("`singularity push` brings it to a registry")
        } else {
            unsupported("it has no primary system partition")
        });
    };
    if partitions.next().is_some() {
        return Err(unsupported("it has several primary system partitions"));
    }
    match i32_at(&primary.extra, 0) {
        SQUASHFS => Ok(primary.place),
        ENCRYPTED_SQUASHFS => Err(unsupported("its root file system is encrypted")),
        _ => Err(unsupported("its root file system is no squashfs")),
    }
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let bytes = bytes[at..at + 8].try_into().expect("eight bytes are eight bytes");
    i64::from_le_bytes(bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    let bytes = bytes[at..at + 4].try_into().expect("four bytes are four bytes");
    i32::from_le_bytes(bytes)
}

fn architecture(code: &[u8]) -> &'static str {
    let known = [
        "386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le",
        "s390x", "riscv64", "loong64",
    ];
    let number = std::str::from_utf8(&code[..2]).ok().and_then(|text| text.parse::<usize>().ok());
    let index = number.and_then(|number| number.checked_sub(1));
    index.and_then(|index| known.get(index)).copied().unwrap_or("unknown")
}

fn uuid(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// Makes a file with a definition and a partition of these types.
    fn sample(system: i32, part: i32) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[32..42].copy_from_slice(MAGIC);
        bytes[42..45].copy_from_slice(VERSION);
        bytes[45..48].copy_from_slice(b"04\0");
        bytes[48] = 0xab;
        bytes[72..80].copy_from_slice(&1_700_000_000_i64.to_le_bytes());
        bytes[88..96].copy_from_slice(&3_i64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(HEADER as u64).to_le_bytes());
        let data = (HEADER + 3 * DESCRIPTOR) as u64;
        for (used, kind, offset, size) in
            [(0, PARTITION, 0, 0), (1, DEFINITION, data, 4), (1, PARTITION, data + 4, 6)]
        {
            let mut object = [0; DESCRIPTOR];
            object[..4].copy_from_slice(&i32::to_le_bytes(kind));
            object[4] = used;
            object[17..25].copy_from_slice(&u64::to_le_bytes(offset));
            object[25..33].copy_from_slice(&u64::to_le_bytes(size));
            object[201..205].copy_from_slice(&i32::to_le_bytes(system));
            object[205..209].copy_from_slice(&i32::to_le_bytes(part));
            bytes.extend(object);
        }
        bytes.extend(b"textsquash");
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Sif> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Sif::open(file.path())
    }

    #[test]
    fn the_parts_of_a_file_are_found() {
        let sif = open(&sample(SQUASHFS, PRIMARY_SYSTEM)).unwrap();
        assert_eq!((sif.architecture, sif.modified), ("arm64", 1_700_000_000));
        assert_eq!(sif.id, "ab000000-0000-0000-0000-000000000000");
        assert_eq!(sif.definition.as_deref(), Some(&b"text"[..]));
        let offset = (HEADER + 3 * DESCRIPTOR + 4) as u64;
        assert_eq!(sif.rootfs, Stretch { offset, size: 6 });
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (system, part, words) in [
            (ENCRYPTED_SQUASHFS, PRIMARY_SYSTEM, "is encrypted"),
            (2, PRIMARY_SYSTEM, "no squashfs"),
            (SQUASHFS, 3, "no primary system partition"),
        ] {
            let error = open(&sample(system, part)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(words), "{error}");
        }
        let whole = sample(SQUASHFS, PRIMARY_SYSTEM);
        for length in 0..whole.len() {
            let error = open(&whole[..length]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_or_read_without_panic(
            changes in proptest::collection::vec((0..HEADER + 3 * DESCRIPTOR, any::<u8>()), 1..20),
        ) {
            let mut bytes = sample(SQUASHFS, PRIMARY_SYSTEM);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = open(&bytes);
        }
    }
}
