//! Tells whether a library's file is whole, before the dynamic linker maps it.
//!
//! The linker believes what an ELF header says of the file's length. Where a file was cut off, by
//! a full disk or a broken download, the first touch of what is missing ends the process by
//! SIGBUS, which nothing can catch.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Returns how many bytes the file lacks of what its ELF header announces; 0 for whole files and
/// for those that are no ELF files, which the linker itself refuses.
///
/// # Errors
/// The file cannot be read.
///
/// # Source
/// System V ABI, "Object Files": ELF header, program header; elf(5).
pub fn missing_bytes(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut header = [0; 64];
    let read = read_up_to(&file, &mut header)?;
    if !header.starts_with(b"\x7fELF") {
        return Ok(0);
    }
    let wide = header[4] == 2;
    let whole_header = if wide { 64 } else { 52 };
    if read < whole_header {
        return Ok((whole_header - read) as u64);
    }
    let little = header[5] == 1;
    let number = |bytes: &[u8], at: usize, count: usize| -> u64 {
        let bytes = &bytes[at..at + count];
        let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    };
    // Where the fields are: segments' table, sections' table, then size and number of either's
    // entries; in a segment its offset and its length.
    let (address, tables, counts, segment) =
        if wide { (8, (32, 40), 54, (8, 32)) } else { (4, (28, 32), 42, (4, 16)) };
    let entry_size = number(&header, counts, 2);
    let entries = number(&header, counts + 2, 2);
    let segments = number(&header, tables.0, address);
    let sections = number(&header, tables.1, address);
    let sections_length = number(&header, counts + 4, 2) * number(&header, counts + 6, 2);

    let segments_end = segments.saturating_add(entry_size * entries);
    let mut end = segments_end.max(sections.saturating_add(sections_length));
    // An entry too small for its fields is left to the linker, as all other nonsense is.
    if segments_end <= length && entry_size >= (segment.1 + address) as u64 {
        let mut entry = [0; 64];
        for index in 0..entries {
            let count = usize::try_from(entry_size).unwrap_or(64).min(64);
            file.read_exact_at(&mut entry[..count], segments + index * entry_size)?;
            let offset = number(&entry, segment.0, address);
            end = end.max(offset.saturating_add(number(&entry, segment.1, address)));
        }
    }
    Ok(end.saturating_sub(length))
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
