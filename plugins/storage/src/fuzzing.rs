//! The readers of outside bytes, for the fuzz targets in `fuzz/`: none may panic, and what is taken
//! must come back.

use std::fs;
use std::path::Path;

use diolkos_sdk::Host;

use crate::config::{Places, StoreOptions};
use crate::delete;
use crate::manifest::{Config, Manifest};
use crate::source::Assembled;
use crate::store::records::{Image, Layer, Records};
use crate::tar_split::TarSplit;
use crate::unpack::{Rules, Unpacker, Whiteouts};

/// Unpacks a layer, in pieces that the first byte chooses, and makes its archive again.
///
/// # Panics
/// When that is another one.
pub fn layer(bytes: &[u8]) {
    let Some((first, archive)) = bytes.split_first() else { return };
    let Ok(dir) = tempfile::tempdir() else { return };
    let (tree, split) = (dir.path().join("tree"), dir.path().join("split"));
    let Ok(()) = fs::create_dir(&tree) else { return };
    // As the user that runs this; devices are for root.
    let whiteouts =
        if first % 2 == 0 { Whiteouts::Devices("user.overlay.opaque") } else { Whiteouts::Files };
    let rules = Rules { whiteouts, is_confined: true, ignores_chown_errors: true };
    let Ok(mut unpacker) = Unpacker::new(&tree, &split, rules) else { return };
    for piece in archive.chunks(usize::from(*first) * 8 + 1) {
        if unpacker.push(piece).is_err() {
            return;
        }
    }
    if unpacker.finish().is_ok() {
        let mut again = vec![0; archive.len() + 1];
        let assembled = Assembled::new("fuzzed", vec![tree], &split, &Host::silent());
        let count = assembled.and_then(|mut it| it.fill(&mut again));
        assert_eq!(count.ok(), Some(archive.len()), "the archive has another length");
        assert!(again[..archive.len()] == *archive, "the archive is another one");
    }
}

/// Reads the bytes as every file of a store.
pub fn files(bytes: &[u8]) {
    let mut split = TarSplit::new(bytes);
    while let Ok(Some(_)) = split.next_piece() {}
    let _ = Manifest::parse(bytes);
    let _ = Config::parse(bytes);
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("file");
    if fs::write(&path, bytes).is_err() {
        return;
    }
    let _ = Records::<Layer>::read(&path).map(|records| records.write(&path));
    let _ = Records::<Image>::read(&path).map(|records| records.write(&path));
    let _ = delete::read_containers(&path);
    let places = Places {
        variables: [("CONTAINERS_STORAGE_CONF".to_owned(), path.display().to_string())].into(),
        etc: Path::new("/nowhere").into(),
        share: Path::new("/nowhere").into(),
        uid: 1000,
        is_confined: true,
    };
    let _ = StoreOptions::load(&places);
}
