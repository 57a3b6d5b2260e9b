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
use rustix::io::Errno;

use crate::unpack::OF_THE_PLACE;

/// Copies what is in one directory into another, which is there and empty, and gives that the
/// first's mode, owner and times. Hard links within the tree stay hard links. Where the process
/// `is_confined`, attributes that it may not set are left out, as they are when layers are unpacked.
pub(crate) fn copy_tree(from: &Path, to: &Path, is_confined: bool, host: &Host) -> Result<()> {
    let mut copier = Copier { todo: Vec::new(), links: HashMap::new(), is_confined };
    copier.todo.push(Step::Enter(from.to_owned(), to.to_owned()));
    // No recursion, since trees may be deeper than stacks.
    while let Some(step) = copier.todo.pop() {
        host.check_cancelled()?;
        match step {
            Step::Enter(from, to) => copier.directory(from, to)?,
            Step::Leave(from, to) => {
                let found = fs::symlink_metadata(&from).map_err(|it| failed("stat", &from, it))?;
                attributes(&from, &to, &found, is_confined)?;
            }
        }
    }
    Ok(())
}

/// What is still to be done with a directory; the copy has been made, and is empty at first.
enum Step {
    Enter(PathBuf, PathBuf),
    /// All that is in it is there: then come its times.
    Leave(PathBuf, PathBuf),
}

struct Copier {
    todo: Vec<Step>,
    /// Files with more than one name, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    is_confined: bool,
}

impl Copier {
    fn directory(&mut self, from: PathBuf, to: PathBuf) -> Result<()> {
        let cannot = |error| failed("read", &from, error);
        let entries = fs::read_dir(&from).map_err(cannot)?;
        self.todo.push(Step::Leave(from.clone(), to.clone()));
        for entry in entries {
            let entry = entry.map_err(cannot)?;
            self.entry(&entry.path(), &to.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<()> {
        let cannot = |error| failed("copy", from, error);
        let found = fs::symlink_metadata(from).map_err(cannot)?;
        let kind = found.file_type();
        if kind.is_dir() {
            fs::create_dir(to).map_err(cannot)?;
            self.todo.push(Step::Enter(from.to_owned(), to.to_owned()));
            return Ok(());
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
        attributes(from, to, &found, self.is_confined)
    }
}

fn attributes(from: &Path, to: &Path, found: &Metadata, is_confined: bool) -> Result<()> {
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
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(Errno::PERM) if is_confined => {}
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
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.filter(|name| *name != OF_THE_PLACE);
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stack of this thread is that of any other, not the larger one of a program's first.
    #[test]
    fn a_tree_as_deep_as_paths_go_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&to).unwrap();
        let mut deep = from.clone();
        let mut depth = 0;
        while fs::create_dir(&deep).is_ok() {
            deep.push("d");
            depth += 1;
        }
        assert!(depth > 1900);
        copy_tree(&from, &to, false, &Host::silent()).unwrap();
        // `to` is shorter, and its paths therefore no longer than these.
        let below = deep.parent().unwrap().strip_prefix(&from).unwrap();
        assert!(to.join(below).is_dir());
        for tree in [from, to] {
            super::super::temporary::remove(&tree, dir.path()).unwrap();
        }
    }
}
