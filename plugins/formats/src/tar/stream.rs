//! Writing an archive in order, to where one cannot seek.

use diolkos_sdk::{Error, ErrorKind, Result};

use super::BLOCK;
use super::write::head;

/// Zeros are sent in pieces of this size.
const ZEROS: usize = 64 << 10;

/// Takes the bytes of an archive, one after the other.
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
}

/// An archive that is written in order. The size of a member is known when it begins.
///
/// One member is written at a time. One that was given up is filled with zeros before the next one
/// begins; what is written in its place needs another name, because some programs take the first
/// member of a name and others the last.
pub struct TarStream<S> {
    sink: S,
    /// What the member lacks that is being written.
    missing: u64,
    /// What follows its bytes.
    padding: u64,
}

impl<S: Sink> TarStream<S> {
    /// Begins an archive.
    pub fn new(sink: S) -> Self {
        Self { sink, missing: 0, padding: 0 }
    }

    /// Returns what takes the bytes.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Begins a file of `size` bytes.
    pub fn begin(&mut self, name: &str, size: u64) -> Result<()> {
        self.fill()?;
        self.sink.put(&head(name, size)?)?;
        self.missing = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    /// Writes the next bytes of a file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for more than were announced.
    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let left = self.missing.checked_sub(chunk.len() as u64).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "there are more bytes than were announced")
        })?;
        self.sink.put(chunk)?;
        self.missing = left;
        Ok(())
    }

    /// Ends a file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for fewer bytes than were announced.
    pub fn finish(&mut self) -> Result<()> {
        if self.missing > 0 {
            let message = format!("{} bytes are missing that were announced", self.missing);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.fill()
    }

    /// Adds a small file.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.begin(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.finish()
    }

    /// Ends the archive, and returns what took it.
    pub fn end(mut self) -> Result<S> {
        self.fill()?;
        self.zeros(2 * BLOCK)?;
        Ok(self.sink)
    }

    fn fill(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.missing) + std::mem::take(&mut self.padding);
        self.zeros(count)
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        let zeros = vec![0; usize::try_from(count).unwrap_or(ZEROS).min(ZEROS)];
        let mut left = count;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(ZEROS).min(ZEROS);
            self.sink.put(&zeros[..step])?;
            left -= step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::super::TarFile;
    use super::*;

    impl Sink for Vec<u8> {
        fn put(&mut self, bytes: &[u8]) -> Result<()> {
            self.extend_from_slice(bytes);
            Ok(())
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_what_was_given_up_does_not_count() {
        let mut tar = TarStream::new(Vec::new());
        tar.begin("a", 700).unwrap();
        tar.write(&[1; 300]).unwrap();
        assert!(tar.finish().is_err(), "400 are missing");
        tar.begin("b", 700).unwrap();
        tar.write(&[2; 300]).unwrap();
        tar.write(&[2; 400]).unwrap();
        assert_eq!(tar.write(&[2]).unwrap_err().kind(), ErrorKind::Corrupt);
        tar.finish().unwrap();
        tar.add("empty", b"").unwrap();
        tar.add(&"long".repeat(40), b"text").unwrap();
        let bytes = tar.end().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let read = TarFile::new(Path::new("x"), file).unwrap();
        assert_eq!(read.read("b", 1000).unwrap().unwrap(), [2; 700]);
        assert_eq!(read.read("empty", 1000).unwrap().unwrap(), b"");
        assert_eq!(read.read(&"long".repeat(40), 1000).unwrap().unwrap(), b"text");
    }
}
