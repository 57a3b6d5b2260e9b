//! Reading a blob from its source, taking up again where the source broke off.

use std::time::Duration;

use diolkos_sdk::{Blob, BlobReader, Descriptor, Error, ErrorKind, Host, Result, Source};

use super::progress::Counter;
use super::retry::Retry;

/// How often in a row a blob may break off without a single byte in between, even if the user
/// wants no retries: an idle connection that was closed is nobody's fault.
const BREAKS_WITHOUT_PROGRESS: u32 = 3;

/// Bytes after which a break is taken for an accident, and what is missing asked for at once.
const PROGRESS: u64 = 1 << 20;

/// Reads a blob; a passing failure leads to another request for what is missing.
pub(super) struct ResumingReader<'a> {
    source: &'a dyn Source,
    blob: &'a Descriptor,
    reader: Box<dyn BlobReader>,
    position: u64,
    /// Where the last break was.
    broke_at: u64,
    breaks: u32,
    counter: Counter,
    retry: Retry<'a>,
    host: &'a Host,
}

impl<'a> ResumingReader<'a> {
    /// Takes an opened blob over, of which the first `position` bytes have been read.
    pub(super) fn new(
        source: &'a dyn Source,
        blob: &'a Descriptor,
        reader: Box<dyn BlobReader>,
        position: u64,
        counter: Counter,
        retry: Retry<'a>,
    ) -> Self {
        counter.set(position);
        Self {
            source,
            blob,
            reader,
            position,
            broke_at: 0,
            breaks: 0,
            counter,
            retry,
            host: retry.host,
        }
    }

    /// Reads up to `buffer.len()` bytes; 0 is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.host.check_cancelled()?;
        loop {
            match self.reader.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    self.breaks = if count > 0 { 0 } else { self.breaks };
                    self.counter.add(count as u64);
                    return Ok(count);
                }
                Err(error) if error.kind().is_transient() => self.resume(error)?,
                Err(error) => return Err(error),
            }
        }
    }

    fn resume(&mut self, mut error: Error) -> Result<()> {
        loop {
            if self.breaks >= BREAKS_WITHOUT_PROGRESS.max(self.retry.times) {
                return Err(error);
            }
            let at = self.position;
            let delay =
                if at - self.broke_at < PROGRESS { self.retry.delay } else { Some(Duration::ZERO) };
            let patient = Retry { times: u32::MAX, delay, ..self.retry };
            self.broke_at = at;
            patient.wait(
                &format!("blob {} from byte {at}", self.blob.digest),
                self.breaks,
                error,
            )?;
            self.breaks += 1;
            match self.source.blob(self.blob, self.position) {
                Ok(Blob { reader, .. }) => {
                    self.reader = reader;
                    return Ok(());
                }
                Err(next) if next.kind().is_transient() => error = next,
                Err(next) if next.kind() == ErrorKind::Unsupported => {
                    // Only the whole blob can be had again; the caller decides about that.
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("the blob broke off after {at} bytes and cannot be resumed"),
                    )
                    .with_source(next));
                }
                Err(next) => return Err(next),
            }
        }
    }
}
