//! Reading.

use std::io::{self, BufRead as _, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;

use super::{Entry, FILE, SEGMENT};

/// The longest line, in bytes: of a segment, padding apart, that is an entry's extended header.
const LONGEST: u64 = 64 << 20;

/// A piece of an archive.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    /// Bytes as they are.
    Segment(&'a [u8]),
    /// The content of a file.
    File {
        /// As the archive has it.
        name: &'a [u8],
        /// In bytes, never 0.
        size: u64,
    },
}

/// An archive in pieces.
pub(crate) struct TarSplit<R: Read> {
    lines: BufReader<MultiGzDecoder<R>>,
    line: Vec<u8>,
    bytes: Vec<u8>,
}

impl<R: Read> TarSplit<R> {
    /// Begins to read.
    pub fn new(from: R) -> Self {
        let lines = BufReader::with_capacity(64 << 10, MultiGzDecoder::new(from));
        Self { lines, line: Vec::new(), bytes: Vec::new() }
    }

    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is no tar-split.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece<'_>>> {
        let (is_file, size) = loop {
            self.line.clear();
            let count = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut self.line)?;
            if count == 0 {
                return Ok(None);
            }
            if count as u64 == LONGEST && !self.line.ends_with(b"\n") {
                return Err(unknown("a line of more than 64 MiB"));
            }
            let entry: Entry = serde_json::from_slice(&self.line).map_err(io::Error::from)?;
            self.bytes.clear();
            let mut decode = |text: &str| {
                STANDARD
                    .decode_vec(text, &mut self.bytes)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            };
            match entry.kind {
                SEGMENT => {
                    decode(entry.payload.as_deref().unwrap_or_default())?;
                    break (false, 0);
                }
                FILE if entry.size == 0 => {}
                FILE => {
                    match (&entry.name_raw, &entry.name) {
                        (Some(raw), _) => decode(raw)?,
                        (None, Some(name)) => self.bytes.extend_from_slice(name.as_bytes()),
                        (None, None) => return Err(unknown("a file without a name")),
                    }
                    break (true, entry.size);
                }
                _ => return Err(unknown("neither a segment nor a file")),
            }
        };
        Ok(Some(if is_file {
            Piece::File { name: &self.bytes, size }
        } else {
            Piece::Segment(&self.bytes)
        }))
    }
}

fn unknown(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
