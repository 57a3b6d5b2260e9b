//! Writing.

use std::io::{self, BufWriter, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Entry, FILE, SEGMENT};

/// Writes an archive in pieces.
pub(crate) struct TarSplitWriter<W: Write> {
    lines: BufWriter<GzEncoder<W>>,
    position: u64,
    text: String,
}

impl<W: Write> TarSplitWriter<W> {
    /// Begins to write.
    pub fn new(to: W) -> Self {
        let lines = BufWriter::with_capacity(64 << 10, GzEncoder::new(to, Compression::fast()));
        Self { lines, position: 0, text: String::new() }
    }

    /// Writes bytes of the archive.
    pub fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.text.clear();
        STANDARD.encode_string(bytes, &mut self.text);
        // Nothing of it needs quoting, and a large layer has a gigabyte of it.
        writeln!(
            self.lines,
            r#"{{"type":{SEGMENT},"payload":"{}","position":{}}}"#,
            self.text, self.position
        )?;
        self.position += 1;
        Ok(())
    }

    /// Writes that a file's content follows; `checksum` for one that has content. Entries without
    /// content have a line too.
    pub fn file(&mut self, name: &[u8], size: u64, checksum: Option<u64>) -> io::Result<()> {
        let text = std::str::from_utf8(name).ok();
        let entry = Entry {
            kind: FILE,
            name: text.map(Into::into),
            name_raw: text.is_none().then(|| STANDARD.encode(name).into()),
            size,
            payload: checksum.map(|sum| STANDARD.encode(sum.to_be_bytes()).into()),
            position: self.position,
        };
        let line = serde_json::to_string(&entry).map_err(io::Error::from)?;
        // As Go writes JSON, whose readers do not care.
        let line = line
            .replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029");
        self.lines.write_all(line.as_bytes())?;
        self.lines.write_all(b"\n")?;
        self.position += 1;
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(self) -> io::Result<W> {
        self.lines.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
    }
}
