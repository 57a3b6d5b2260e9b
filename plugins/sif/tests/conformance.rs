//! Every conformance case, with the transport linked in and with the built library loaded.

use std::fs;
use std::io::Cursor;

use backhand::{FilesystemWriter, NodeHeader};

/// Makes a file with a squashfs in which one file is.
fn write(details: &str) {
    let mut squashfs = FilesystemWriter::default();
    let header = NodeHeader { permissions: 0o644, ..NodeHeader::default() };
    let content = Cursor::new(vec![b'x'; 700_000]);
    squashfs.push_file(content, "file", header).expect("an empty tree has room");
    let mut bytes = Cursor::new(Vec::new());
    squashfs.write(&mut bytes).expect("memory takes files");
    let bytes = bytes.into_inner();
    let mut file = vec![0; 128 + 585];
    file[32..48].copy_from_slice(b"SIF_MAGIC\x0001\x0002\0");
    file[88..96].copy_from_slice(&1_i64.to_le_bytes());
    file[96..104].copy_from_slice(&128_i64.to_le_bytes());
    let object = &mut file[128..];
    object[..4].copy_from_slice(&0x4004_i32.to_le_bytes());
    object[4] = 1;
    object[17..25].copy_from_slice(&(128_i64 + 585).to_le_bytes());
    object[25..33].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    object[201..205].copy_from_slice(&1_i32.to_le_bytes());
    object[205..209].copy_from_slice(&2_i32.to_le_bytes());
    file.extend(bytes);
    fs::write(details, file).expect("a scratch directory takes files");
}

diolkos_sdk::conformance!(
    plugin = diolkos_sif::plugin,
    transport = "sif",
    images = |details: &str| {
        write(details);
        Ok(())
    },
    through = [linked, loaded]
);
