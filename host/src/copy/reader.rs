//! Reading a blob from its source, taking up again where the source broke off.

use std::time::Duration;

use diolkos_sdk::{Blob, BlobReader, Descriptor, Error, ErrorKind, Host, Result, Source};

use super::progress::Counter;
use super::retry::{BROKEN_READS, Retry};

/// Bytes after which a break is taken for an accident, and what is missing asked for at once.
const PROGRESS: u64 = 1 << 20;

/// Bytes that must come between two breaks that do not count together.
const LEAST: u64 = 16 << 10;

/// Reads a blob; a passing failure leads to another request for what is missing.
pub(super) struct ResumingReader<'a> {
    source: &'a dyn Source,
    blob: &'a Descriptor,
    reader: Box<dyn BlobReader>,
    position: u64,
    /// Where the last break was.
    broke_at: u64,
    breaks: u32,
    /// How far the blob had come when its end came too early.
    ended_at: u64,
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
            ended_at: 0,
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
                Ok(0) if self.ends_early() => {
                    self.ended_at = self.position;
                    match self.source.blob(self.blob, self.position) {
                        Ok(Blob { reader, .. }) => self.reader = reader,
                        Err(error) if error.kind().is_transient() => self.resume(error)?,
                        // The digest of what came says the rest.
                        Err(_) => return Ok(0),
                    }
                }
                Ok(count) => {
                    self.position += count as u64;
                    if self.position >= self.broke_at + LEAST {
                        self.breaks = 0;
                    }
                    self.counter.add(count as u64);
                    return Ok(count);
                }
                Err(error) if error.kind().is_transient() => self.resume(error)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells whether there must be more than came, and it is worth asking for: a server may give less
    /// than it was asked for.
    fn ends_early(&self) -> bool {
        self.blob.size.is_some_and(|size| self.position < size)
            && self.position >= self.ended_at + LEAST
    }

    fn resume(&mut self, mut error: Error) -> Result<()> {
        loop {
            if self.breaks >= BROKEN_READS.max(self.retry.times) {
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
