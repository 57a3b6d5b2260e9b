//! Layers as tar archives, with all that real ones hold.

#![expect(clippy::missing_panics_doc, reason = "a vector takes every byte")]

use tar::{Builder, EntryType, Header};

/// A layer under construction.
///
/// Entries come in the order they are added, which is part of what a layer can get wrong.
pub struct Layer(Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// Starts an empty layer.
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, 0o755, None, b"")
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, 0o644, None, content.as_ref())
    }

    /// Adds an executable file.
    #[must_use]
    pub fn program(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, 0o755, None, content.as_ref())
    }

    /// Adds a file with an extended attribute, whose value may be any bytes.
    #[must_use]
    pub fn file_with_xattr(mut self, path: &str, content: &str, name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value)]).expect("a vector takes every byte");
        self.file(path, content)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, 0o777, Some(target), b"")
    }

    /// Adds a hard link to an earlier entry.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, 0o644, Some(target), b"")
    }

    /// Adds a named pipe.
    #[must_use]
    pub fn fifo(self, path: &str) -> Self {
        self.entry(EntryType::Fifo, path, 0o644, None, b"")
    }

    /// Deletes a file of the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let marker = match path.rsplit_once('/') {
            Some((directory, name)) => format!("{directory}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.entry(EntryType::Regular, &marker, 0o644, None, b"")
    }

    /// Hides all that the layers below have in a directory.
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.entry(EntryType::Regular, &format!("{directory}/.wh..wh..opq"), 0o644, None, b"")
    }

    /// Adds an entry whose name may be any bytes, up to 100 of them, with a mode, an owner and the
    /// time of its last change, which may be before 1970.
    #[must_use]
    pub fn odd(mut self, name: &[u8], mode: u32, (uid, gid): (u64, u64), changed: i64) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        if let Ok(changed) = u64::try_from(changed) {
            header.set_mtime(changed);
        } else {
            // As GNU tar writes what octal digits do not hold: two's complement, the first bit set.
            let field = &mut header.as_old_mut().mtime;
            field.fill(0xff);
            field[4..].copy_from_slice(&changed.to_be_bytes());
        }
        header.set_size(4);
        header.set_cksum();
        self.0.append(&header, &b"odd\n"[..]).expect("a vector takes every byte");
        self
    }

    /// Adds a file that was changed at a fraction of a second.
    #[must_use]
    pub fn file_changed_at(mut self, path: &str, time: &str) -> Self {
        let extension = [("mtime", time.as_bytes())];
        self.0.append_pax_extensions(extension).expect("a vector takes every byte");
        self.file(path, "changed\n")
    }

    /// Adds a character device.
    #[must_use]
    pub fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Char);
        header.set_mode(0o666);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header.set_device_major(major).expect("it is a small number");
        header.set_device_minor(minor).expect("it is a small number");
        self.0.append_data(&mut header, path, &b""[..]).expect("a vector takes every byte");
        self
    }

    /// Returns the finished archive.
    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().expect("a vector takes every byte")
    }

    fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        target: Option<&str>,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        let added = match target {
            Some(target) => self.0.append_link(&mut header, path, target),
            None => self.0.append_data(&mut header, path, content),
        };
        added.expect("a vector takes every byte, and tests use valid paths");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_layer_is_a_tar_with_its_entries_in_order() {
        let tar = Layer::new()
            .directory("etc")
            .file_with_xattr("etc/a", "x", "user.bin", &[0, 255, 200])
            .hard_link("etc/b", "etc/a")
            .whiteout("etc/old")
            .opaque("var")
            .file(&format!("long/{}", "n".repeat(200)), "deep")
            .tar();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if let Some(extensions) = entry.pax_extensions().unwrap() {
                let values: Vec<_> =
                    extensions.map(|one| one.unwrap().value_bytes().to_vec()).collect();
                assert_eq!(values, [[0, 255, 200]]);
            }
            paths.push(entry.path().unwrap().to_str().unwrap().to_owned());
            entry.read_to_end(&mut Vec::new()).unwrap();
        }
        assert_eq!(paths[..5], ["etc", "etc/a", "etc/b", "etc/.wh.old", "var/.wh..wh..opq"]);
        assert_eq!(paths[5].len(), 205);
    }
}
