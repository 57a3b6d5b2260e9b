//! The readers of outside bytes, for the fuzz targets in `fuzz/`: none may panic, whatever it gets.

use std::fs;

use diolkos_sdk::{Host, Options, PlatformChoice, Session};

use crate::file::Stretch;
use crate::{rootfs, source};

/// Reads all of a file, and the same bytes as a file system.
pub fn read(bytes: &[u8]) {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    if fs::write(file.path(), bytes).is_err() {
        return;
    }
    let session = Session {
        options: Options::default(),
        platform: PlatformChoice::default(),
        temp_dir: std::env::temp_dir(),
        host: Host::silent(),
    };
    let _ = source::open(file.path(), &session);
    let whole = Stretch { offset: 0, size: bytes.len() as u64 };
    let _ = rootfs::layer(file.as_file(), whole, None, &session);
}
