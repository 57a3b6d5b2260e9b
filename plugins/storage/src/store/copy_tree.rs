//! Copying a tree of files with all that belongs to them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use diolkos_formats::files::failed;
use diolkos_sdk::{Host, Result};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

/// Copies what is in one directory into another, which is there and empty, and gives that the
/// first's mode, owner and times. Hard links within the tree stay hard links.
pub(crate) fn copy_tree(from: &Path, to: &Path, host: &Host) -> Result<()> {
    Copier { links: HashMap::new(), host }.directory(from, to)
}

struct Copier<'a> {
    /// Files with more than one name, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    host: &'a Host,
}

impl Copier<'_> {
    fn directory(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.host.check_cancelled()?;
        // All of them at once, so that a deep tree does not take a descriptor for each level.
        let entries = fs::read_dir(from).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in entries.map_err(|error| failed("read", from, error))? {
            self.entry(&entry.path(), &to.join(entry.file_name()))?;
        }
        let found = fs::symlink_metadata(from).map_err(|error| failed("stat", from, error))?;
        attributes(from, to, &found)
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<()> {
        let cannot = |error| failed("copy", from, error);
        let found = fs::symlink_metadata(from).map_err(cannot)?;
        let kind = found.file_type();
        if kind.is_dir() {
            fs::create_dir(to).map_err(cannot)?;
            return self.directory(from, to);
        }
        if found.nlink() > 1 {
            let inode = (found.dev(), found.ino());
            if let Some(first) = self.links.get(&inode) {
                return fs::hard_link(first, to).map_err(cannot);
            }
            self.links.insert(inode, to.to_owned());
        }
        if kind.is_symlink() {
            let target = fs::read_link(from).map_err(cannot)?;
            symlink(target, to).map_err(cannot)?;
        } else if kind.is_file() {
            // The standard library asks the file system to share the blocks, if it can.
            let mut input = File::open(from).map_err(cannot)?;
            let mut output = File::create_new(to).map_err(cannot)?;
            io::copy(&mut input, &mut output).map_err(cannot)?;
        } else if kind.is_socket() {
            return Ok(());
        } else {
            let mode = rustix::fs::FileType::from_raw_mode(found.mode());
            rustix::fs::mknodat(CWD, to, mode, Mode::from_raw_mode(0o600), found.rdev())
                .map_err(|error| cannot(error.into()))?;
        }
        attributes(from, to, &found)
    }
}

fn attributes(from: &Path, to: &Path, found: &Metadata) -> Result<()> {
    let cannot = |error| failed("copy", from, error);
    lchown(to, Some(found.uid()), Some(found.gid())).map_err(cannot)?;
    if !found.file_type().is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))
            .map_err(cannot)?;
    }
    for name in names_of_xattrs(from).map_err(cannot)? {
        let mut value = vec![0; 64 << 10];
        let length =
            rustix::fs::lgetxattr(from, &name, &mut value).map_err(|it| cannot(it.into()))?;
        match rustix::fs::lsetxattr(to, &name, &value[..length], rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
            Err(error) => return Err(cannot(error.into())),
        }
    }
    let at = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: at(found.atime(), found.atime_nsec()),
        last_modification: at(found.mtime(), found.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| cannot(error.into()))
}

fn names_of_xattrs(path: &Path) -> io::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}
