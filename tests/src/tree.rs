//! Trees of files, with all that belongs to them, to be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::sha256;

/// What there is to know of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When it was changed: seconds and nanoseconds; of the root this says nothing.
    pub changed: (i64, i64),
    /// The number of a device.
    pub device: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// Digest of a file's content, or where a symbolic link leads.
    pub content: String,
    /// The first of the names that a file has, if it has several.
    pub first_name: Option<PathBuf>,
}

/// Lists a tree by names relative to its root.
///
/// # Errors
/// What the system says.
pub fn tree(root: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut names = HashMap::new();
    walk(root, Path::new(""), &mut names, &mut entries)?;
    Ok(entries)
}

fn walk(
    root: &Path,
    name: &Path,
    names: &mut HashMap<u64, PathBuf>,
    entries: &mut BTreeMap<PathBuf, Entry>,
) -> io::Result<()> {
    let path = root.join(name);
    let found = fs::symlink_metadata(&path)?;
    let kind = found.file_type();
    let content = if kind.is_file() {
        sha256(&fs::read(&path)?)
    } else if kind.is_symlink() {
        fs::read_link(&path)?.display().to_string()
    } else {
        String::new()
    };
    let has_more_names = !kind.is_dir() && found.nlink() > 1;
    let first_name =
        has_more_names.then(|| names.entry(found.ino()).or_insert_with(|| name.to_owned()).clone());
    let is_device = kind.is_char_device() || kind.is_block_device();
    let is_root = name.as_os_str().is_empty();
    entries.insert(
        name.to_owned(),
        Entry {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            changed: if is_root { (0, 0) } else { (found.mtime(), found.mtime_nsec()) },
            device: if is_device { found.rdev() } else { 0 },
            xattrs: xattrs(&path)?,
            content,
            first_name,
        },
    );
    if kind.is_dir() {
        let mut below: Vec<_> = fs::read_dir(&path)?.collect::<io::Result<_>>()?;
        below.sort_by_key(fs::DirEntry::file_name);
        for entry in below {
            walk(root, &name.join(entry.file_name()), names, entries)?;
        }
    }
    Ok(())
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        found.insert(OsString::from_vec(name.to_vec()), value);
    }
    Ok(found)
}
