//! Blobs for destinations that must know a size before the bytes: one whose size shows at its end
//! waits in a temporary file.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use diolkos_sdk::{BlobIncoming, BlobSums, BlobWriter, Destination, Error, Result};

use super::pipe;

/// Takes a blob, and hands it to the destination when it is complete.
pub(super) struct Spool<'a> {
    destination: &'a dyn Destination,
    incoming: BlobIncoming,
    /// Nobody else sees it, and it is gone with its last user.
    file: File,
}

impl<'a> Spool<'a> {
    /// Begins a file in a directory for temporary ones.
    pub(super) fn begin(
        destination: &'a dyn Destination,
        incoming: BlobIncoming,
        dir: &Path,
    ) -> Result<Self> {
        let file = tempfile::tempfile_in(dir)
            .map_err(|error| failed(format!("cannot make a file in `{}`", dir.display()), error))?;
        Ok(Self { destination, incoming, file })
    }
}

impl BlobWriter for Spool<'_> {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let result = self.file.write_all(chunk);
        result.map_err(|error| failed("cannot write to a temporary file".to_owned(), error))
    }

    fn finish(mut self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let incoming = BlobIncoming {
            digest: Some(sums.digest.clone()),
            size: Some(sums.size),
            ..self.incoming.clone()
        };
        let Some(mut writer) = self.destination.put_blob(&incoming)? else { return Ok(()) };
        let reading = |error| failed("cannot read a temporary file".to_owned(), error);
        self.file.rewind().map_err(reading)?;
        let mut buffer = vec![0; pipe::BUFFER];
        loop {
            match self.file.read(&mut buffer).map_err(reading)? {
                0 => return writer.finish(sums),
                count => writer.write(&buffer[..count])?,
            }
        }
    }
}

fn failed(message: String, error: std::io::Error) -> Error {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let error = Error::io(message, error);
    if full { error.with_hint("choose a directory with more room with --tmpdir") } else { error }
}
