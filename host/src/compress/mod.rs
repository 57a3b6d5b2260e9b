//! Compression of layers: which there are, how they are recognised, streams in both directions.

mod decode;
pub mod gzip;
mod pool;
mod zstandard;

pub use decode::decoder;

use std::io::Read;

use diolkos_sdk::{Error, ErrorKind, Result};

/// A compression that a layer may be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
    /// bzip2; only read.
    Bzip2,
    /// xz; only read.
    Xz,
}

impl Compression {
    /// Returns the name that command lines, messages and the blob info cache use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }

    /// Recognises a compression by the first bytes of a stream; six are enough.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// Compresses all of `input` with `format`, handing compressed bytes to `output` in order.
///
/// The result depends on format, level and input alone, never on the number of cores.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a format that is only read, [`ErrorKind::InvalidInput`] for a
/// level that the format does not have; what `input` and `output` return.
pub fn compress(
    format: Compression,
    level: Option<i32>,
    input: &mut dyn Read,
    output: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    match format {
        Compression::Gzip => gzip::compress(input, level.unwrap_or(gzip::DEFAULT_LEVEL), output),
        Compression::Zstd => {
            zstandard::compress(input, level.unwrap_or(zstandard::DEFAULT_LEVEL), output)
        }
        Compression::None | Compression::Bzip2 | Compression::Xz => {
            Err(Error::unsupported(format!("layers cannot be compressed with {}", format.name()))
                .with_hint("use gzip or zstd"))
        }
    }
}

/// Reads until the buffer is full or the input ends; returns how many bytes there were.
fn read_full(input: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unwrap_io(error, "reading the layer")),
        }
    }
    Ok(filled)
}

/// Decompresses a small blob in memory, whatever its size becomes: for bytes of our own, such as the
/// layer that conversions put in.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for what its own first bytes promise and the rest does not keep.
pub fn inflated(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    decoder(Compression::detect(bytes), bytes)?
        .read_to_end(&mut plain)
        .map_err(|error| unwrap_io(error, "decompressing"))?;
    Ok(plain)
}

/// Takes our own error out of one of the standard library, in which it travelled through `Read`.
pub fn unwrap_io(error: std::io::Error, doing: &'static str) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::Other => ErrorKind::Corrupt,
                _ => ErrorKind::Io,
            };
            Error::new(kind, doing).with_source(error)
        }
    }
}
