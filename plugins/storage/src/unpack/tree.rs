//! The tree: the only place where files are made.
//!
//! Names come from outside and may lead through symbolic links that came from there too. Every
//! directory is therefore opened by the kernel as if the tree were all there is (`RESOLVE_IN_ROOT`),
//! and only its last component is made, with a call that follows no link.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_formats::files::failed;
use diolkos_sdk::{Error, ErrorKind, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::content::Content;
use super::entry::{Entry, Kind, clean};
use super::{OPAQUE, Rules, WHITEOUT, Whiteouts};
use crate::store::temporary;

/// How many directories are kept open.
const OPEN: usize = 64;
/// The mode of directories that the archive does not name.
const IMPLIED: u32 = 0o755;

/// A tree that is being made.
pub(super) struct Tree {
    path: PathBuf,
    /// Where parts of trees are put that are too deep to be removed where they are.
    attic: PathBuf,
    root: OwnedFd,
    rules: Rules,
    /// Directories that are open, by their cleaned names.
    open: HashMap<Vec<u8>, Arc<OwnedFd>>,
    /// Directories and their times, which are set at the end, when nothing more is made in them.
    directories: Vec<(Vec<u8>, Timestamps)>,
    /// What an opaque directory keeps: the names that this layer made in it. Only where whiteouts
    /// are carried out.
    made: std::collections::HashSet<Vec<u8>>,
    lost_xattrs: u64,
    has_root: bool,
}

impl Tree {
    pub fn open(path: &Path, rules: Rules) -> Result<Self> {
        let root = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| failed("open", path, error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            attic: path.parent().unwrap_or(path).to_owned(),
            root,
            rules,
            open: HashMap::new(),
            directories: Vec::new(),
            made: std::collections::HashSet::new(),
            lost_xattrs: 0,
            has_root: false,
        })
    }

    pub fn lost_xattrs(&self) -> u64 {
        self.lost_xattrs
    }

    pub fn has_root(&self) -> bool {
        self.has_root
    }

    /// Makes what an entry says, but for the content that follows.
    pub fn make(&mut self, entry: Entry) -> Result<Content> {
        let Some(name) = clean(&entry.name) else { return self.root(entry) };
        let (parent, base) = split(&name);
        let is_whiteout = base.starts_with(WHITEOUT) && self.rules.whiteouts != Whiteouts::Files;
        let dir = match self.directory(parent, true) {
            // Below what is hidden itself.
            Err(Errno::NOTDIR) if is_whiteout => return Ok(Content::nowhere(entry.name)),
            Err(Errno::EXIST) => {
                let name = String::from_utf8_lossy(&name);
                let message = format!("the layer's entry `{name}` is behind a link to nothing");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            opened => opened.map_err(|error| self.error(&name, error))?,
        };
        if is_whiteout {
            self.whiteout(&dir, parent, base, &entry)?;
            return Ok(Content::nowhere(entry.name));
        }
        let there = self.clear(&dir, &name, base, &entry)?;
        if self.rules.whiteouts == Whiteouts::Remove {
            self.made.insert(name.clone());
        }
        let made = match &entry.kind {
            Kind::File | Kind::Sparse(..) => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&*dir, base, flags, Mode::from_raw_mode(0o600));
                let file = File::from(file.map_err(|error| self.error(&name, error))?);
                return match &entry.kind {
                    Kind::Sparse(map, size) => {
                        file.set_len(*size)
                            .map_err(|error| failed("write", &self.shown(&name), error))?;
                        let map = map.iter().copied().filter(|(_, length)| *length > 0).collect();
                        Ok(Content::sparse(file, entry, map))
                    }
                    _ => Ok(Content::file(file, entry)),
                };
            }
            Kind::Directory if there => Ok(()),
            Kind::Directory => rustix::fs::mkdirat(&*dir, base, Mode::from_raw_mode(0o700)),
            Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), &*dir, base),
            Kind::HardLink(target) => {
                let target = clean(target).ok_or_else(|| self.error(&name, Errno::PERM))?;
                let (target_parent, target_base) = split(&target);
                let from = self.directory(target_parent, false);
                from.and_then(|from| {
                    rustix::fs::linkat(&*from, target_base, &*dir, base, AtFlags::empty())
                })
                .map_err(|error| {
                    self.error(&name, error).context(format!(
                        "`{}` is a hard link to `{}`",
                        String::from_utf8_lossy(&name),
                        String::from_utf8_lossy(&target)
                    ))
                })?;
                Ok(())
            }
            Kind::Device(..) if self.rules.is_confined => return Ok(Content::nowhere(entry.name)),
            Kind::Device(kind, major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(&*dir, base, *kind, Mode::from_raw_mode(0o600), device)
            }
            Kind::Fifo => {
                rustix::fs::mknodat(&*dir, base, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            }
        };
        made.map_err(|error| self.error(&name, error))?;
        self.attributes(&dir, &name, base, &entry)?;
        if entry.kind == Kind::Directory {
            self.directories.push((name, entry.times()));
        }
        Ok(Content::nowhere(entry.name))
    }

    /// Does what there is to do for the root itself. Overlay leaves its root as it is, for `.`.
    fn root(&mut self, entry: Entry) -> Result<Content> {
        let is_dot = !entry.name.starts_with(b"/");
        if self.rules.whiteouts == Whiteouts::Remove || !is_dot {
            if entry.kind != Kind::Directory {
                return Err(Error::new(ErrorKind::Corrupt, "the layer's root is no directory"));
            }
            let root =
                rustix::fs::openat(&self.root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|error| self.error(b".", error))?;
            self.attributes(&root, b".", b".", &entry)?;
            self.directories.push((Vec::new(), entry.times()));
            self.has_root = true;
        }
        Ok(Content::nowhere(entry.name))
    }

    /// Makes room for an entry. Returns whether it is a directory that is there already.
    fn clear(&mut self, dir: &OwnedFd, name: &[u8], base: &[u8], entry: &Entry) -> Result<bool> {
        let found = match rustix::fs::statat(dir, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(self.error(name, error)),
        };
        let is_directory = kind_of(&found) == FileType::Directory;
        if is_directory && entry.kind == Kind::Directory {
            return Ok(true);
        }
        if self.rules.whiteouts != Whiteouts::Remove {
            // It came with this layer, by another name: the archive could not be made again.
            let has_content = kind_of(&found) == FileType::RegularFile && found.st_size > 0;
            let is_filled = is_directory && is_filled(dir, base);
            if has_content || is_filled {
                let name = String::from_utf8_lossy(name);
                return Err(Error::unsupported(format!(
                    "the layer's archive writes over `{name}`, which containers-storage cannot keep"
                )));
            }
        }
        self.remove(dir, name, base, is_directory)?;
        Ok(false)
    }

    fn remove(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        base: &[u8],
        is_directory: bool,
    ) -> Result<()> {
        self.open.clear();
        let removed = if is_directory {
            temporary::remove(&by_descriptor(dir, base), &self.attic)
        } else {
            rustix::fs::unlinkat(dir, base, AtFlags::empty()).map_err(Into::into)
        };
        removed.map_err(|error| failed("remove", &self.shown(name), error))
    }

    fn whiteout(
        &mut self,
        dir: &Arc<OwnedFd>,
        parent: &[u8],
        base: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        let hidden = &base[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            let name = String::from_utf8_lossy(&entry.name);
            let message = format!("the layer's entry `{name}` hides no file");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        match self.rules.whiteouts {
            Whiteouts::Devices(opaque) if base == OPAQUE => {
                let path = by_descriptor(dir, b".");
                rustix::fs::setxattr(&path, opaque, b"y", XattrFlags::empty())
                    .map_err(|error| self.error(parent, error))
            }
            Whiteouts::Devices(_) => {
                let mode = Mode::from_raw_mode(0);
                rustix::fs::mknodat(&**dir, hidden, FileType::CharacterDevice, mode, 0)
                    .map_err(|error| self.error(&entry.name, error))?;
                self.chown(dir, parent, hidden, entry)
            }
            Whiteouts::Remove if base == OPAQUE => self.empty(parent),
            Whiteouts::Remove => {
                match rustix::fs::statat(&**dir, hidden, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) => {
                        let is_directory = kind_of(&found) == FileType::Directory;
                        self.remove(dir, &entry.name, hidden, is_directory)
                    }
                    Err(Errno::NOENT) => Ok(()),
                    Err(error) => Err(self.error(&entry.name, error)),
                }
            }
            Whiteouts::Files => Ok(()),
        }
    }

    /// Removes all from a directory but what this layer made there.
    fn empty(&mut self, name: &[u8]) -> Result<()> {
        // No recursion, since trees may be deeper than stacks.
        let mut todo = vec![name.to_vec()];
        while let Some(name) = todo.pop() {
            let dir = self.directory(&name, false).map_err(|error| self.error(&name, error))?;
            let entries = fs::read_dir(by_descriptor(&dir, b"."))
                .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
                .map_err(|error| failed("read", &self.shown(&name), error))?;
            for entry in entries {
                let mut below = name.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(entry.file_name().as_bytes());
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if !self.made.contains(&below) {
                    self.remove(&dir, &below, entry.file_name().as_bytes(), is_directory)?;
                } else if is_directory {
                    todo.push(below);
                }
            }
        }
        Ok(())
    }

    /// Opens a directory of the tree, and makes it and those above if that is asked.
    fn directory(&mut self, name: &[u8], make: bool) -> rustix::io::Result<Arc<OwnedFd>> {
        if let Some(open) = self.open.get(name) {
            return Ok(Arc::clone(open));
        }
        let opened = match self.open_in_root(name) {
            Err(Errno::NOENT) if make => {
                let (parent, base) = split(name);
                let above = self.directory(parent, true)?;
                let mode = Mode::from_raw_mode(IMPLIED);
                // Where something is, a link to nothing, it stays so.
                rustix::fs::mkdirat(&*above, base, mode)?;
                rustix::fs::chmodat(&*above, base, mode, AtFlags::empty())?;
                if self.rules.whiteouts == Whiteouts::Remove {
                    self.made.insert(name.to_vec());
                }
                self.open_in_root(name)
            }
            opened => opened,
        };
        let opened = Arc::new(opened?);
        if self.open.len() >= OPEN {
            self.open.clear();
        }
        self.open.insert(name.to_vec(), Arc::clone(&opened));
        Ok(opened)
    }

    fn open_in_root(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let name = if name.is_empty() { b"." } else { name };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, name, flags, Mode::empty(), within)
    }

    fn chown(&self, dir: &OwnedFd, name: &[u8], base: &[u8], entry: &Entry) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let done = rustix::fs::chownat(dir, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        self.chowned(done, name, entry)
    }

    fn chowned(&self, done: rustix::io::Result<()>, name: &[u8], entry: &Entry) -> Result<()> {
        match done {
            Err(Errno::INVAL) if !self.rules.ignores_chown_errors => {
                let message = format!(
                    "potentially insufficient UIDs or GIDs available in user namespace (requested \
                     {}:{} for {})",
                    entry.uid,
                    entry.gid,
                    String::from_utf8_lossy(name)
                );
                Err(Error::new(ErrorKind::Unsupported, message).with_hint(
                    "give the user more IDs in /etc/subuid and /etc/subgid, or set \
                     ignore_chown_errors in storage.conf",
                ))
            }
            Err(error) if !self.rules.ignores_chown_errors => Err(self.error(name, error)),
            _ => Ok(()),
        }
    }

    /// Gives what is no regular file what else it has; directories get their times at the end.
    fn attributes(&mut self, dir: &OwnedFd, name: &[u8], base: &[u8], entry: &Entry) -> Result<()> {
        let (is_symlink, is_owned) = match &entry.kind {
            Kind::Symlink(_) => (true, false),
            Kind::HardLink(_) => {
                let found = rustix::fs::statat(dir, base, AtFlags::SYMLINK_NOFOLLOW);
                let found = found.map_err(|error| self.error(name, error))?;
                let is_owned = (found.st_uid, found.st_gid) == (entry.uid, entry.gid);
                // It may be another name of a link.
                (kind_of(&found) == FileType::Symlink, is_owned)
            }
            _ => (false, false),
        };
        // The file's capabilities go with every change of owner, and this entry may not repeat them.
        if !is_owned {
            self.chown(dir, name, base, entry)?;
        }
        if !is_symlink {
            rustix::fs::chmodat(dir, base, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|error| self.error(name, error))?;
        }
        if entry.kind != Kind::Directory {
            rustix::fs::utimensat(dir, base, &entry.times(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.error(name, error))?;
        }
        for (key, value) in &entry.xattrs {
            let path = by_descriptor(dir, base);
            let done = rustix::fs::lsetxattr(&path, key.as_slice(), value, XattrFlags::empty());
            self.xattr(done, name, key)?;
        }
        Ok(())
    }

    /// Gives a regular file what else it has, once its content is there.
    pub fn attributes_of_file(&mut self, file: &File, entry: &Entry) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        self.chowned(rustix::fs::fchown(file, Some(uid), Some(gid)), &entry.name, entry)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
            .and_then(|()| rustix::fs::futimens(file, &entry.times()))
            .map_err(|error| self.error(&entry.name, error))?;
        for (key, value) in &entry.xattrs {
            let done = rustix::fs::fsetxattr(file, key.as_slice(), value, XattrFlags::empty());
            self.xattr(done, &entry.name, key)?;
        }
        Ok(())
    }

    fn xattr(&mut self, done: rustix::io::Result<()>, name: &[u8], key: &[u8]) -> Result<()> {
        match done {
            Ok(()) => Ok(()),
            Err(Errno::NOTSUP) => {
                self.lost_xattrs += 1;
                Ok(())
            }
            Err(Errno::PERM) if self.rules.is_confined => {
                self.lost_xattrs += 1;
                Ok(())
            }
            Err(error) => Err(self.error(name, error).context(format!(
                "`{}` has the extended attribute `{}`",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(key)
            ))),
        }
    }

    /// Sets what comes last: the times of directories.
    pub fn finish(&mut self) -> Result<()> {
        for (name, times) in std::mem::take(&mut self.directories) {
            // It may have been replaced since.
            let Ok(dir) = self.open_in_root(&name) else { continue };
            rustix::fs::utimensat(&dir, ".", &times, AtFlags::empty())
                .map_err(|error| self.error(&name, error))?;
        }
        self.open.clear();
        Ok(())
    }

    fn shown(&self, name: &[u8]) -> PathBuf {
        self.path.join(Path::new(std::ffi::OsStr::from_bytes(name)))
    }

    fn error(&self, name: &[u8], error: Errno) -> Error {
        let made = failed("make", &self.shown(name), error.into());
        match error {
            // Nobody else is here: it is the archive that has two of it.
            Errno::EXIST => {
                let name = String::from_utf8_lossy(name);
                let message = format!("what the layer's entry `{name}` makes is there already");
                Error::new(ErrorKind::Corrupt, message)
            }
            Errno::PERM | Errno::ACCESS => made.with_hint(
                "only root, or a user namespace with enough IDs, can make files of other owners",
            ),
            _ => made,
        }
    }
}

fn is_filled(dir: &OwnedFd, base: &[u8]) -> bool {
    fs::read_dir(by_descriptor(dir, base)).is_ok_and(|mut found| found.next().is_some())
}

fn kind_of(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// Splits a cleaned name into the directory and what is in it.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

/// Returns a path that begins at an open directory, for calls that know no other way to say so.
fn by_descriptor(dir: &OwnedFd, base: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(base));
    path
}
