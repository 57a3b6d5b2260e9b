//! One blob's way from source to destination: read, verify, change, hash, write.
//!
//! A blob that is not changed goes the way in `keep`, which goes on where either side broke off.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};

use diolkos_sdk::{
    Algorithm, Blob, BlobIncoming, BlobReader, BlobRole, BlobSums, BlobWanted, BlobWriter,
    Descriptor, Destination, Digest, Error, ErrorKind, Location, Result, Source,
};

use super::pipe::{self, Input};
use super::plan::{Action, LayerRules, bytes};
use super::progress::Counter;
use super::reader::ResumingReader;
use super::retry::Retry;
use super::spool::Spool;
use super::turns;
use super::verify::{Hasher, Verifier};
use super::{embedded, files};
use crate::compress::{self, Compression, unwrap_io};

/// A blob to copy, and all that decides how.
pub(super) struct BlobCopy<'a> {
    pub source: &'a dyn Source,
    pub destination: &'a dyn Destination,
    pub blob: &'a Descriptor,
    pub role: BlobRole,
    /// For messages: `layer 3 of 7 (sha256:9b1f…, 41.2 MB)`.
    pub name: String,
    /// `None`: the blob is not a layer, or may not be changed.
    pub rules: Option<LayerRules>,
    /// The compression that the media type tells.
    pub by_type: Option<Compression>,
    pub needs_diff_id: bool,
    /// The destination takes the blob uncompressed, although the manifest names it as it is.
    pub unpacks: bool,
    /// Where the destination's storage is known to have the blob.
    pub locations: Vec<Location>,
    pub retry: Retry<'a>,
    pub counter: Counter,
    /// Where the blob may wait, if the destination must know its size first.
    pub spool: Option<&'a Path>,
    /// Ends what waits for either side, once the copy cannot succeed any more.
    pub abort: &'a AtomicBool,
}

/// What became of a blob.
#[derive(Clone, Debug)]
pub(super) struct BlobCopied {
    pub digest: Digest,
    pub size: u64,
    /// How the source's bytes were compressed; `None` when nobody looked.
    pub found: Option<Compression>,
    pub action: Action,
    pub diff_id: Option<Digest>,
    /// The destination found out that it had the blob.
    pub reused: bool,
}

/// Names a blob for messages.
pub(super) fn name(role: BlobRole, layers: usize, blob: &Descriptor) -> String {
    let size = blob.size.map_or_else(|| "unknown size".to_owned(), bytes);
    match role {
        BlobRole::Config => format!("config ({}, {size})", blob.digest),
        BlobRole::Layer(index) => {
            format!("layer {} of {layers} ({}, {size})", index + 1, blob.digest)
        }
    }
}

/// Checks the size that the source gives against the manifest's, and returns what is known of it.
pub(super) fn known_size(descriptor: &Descriptor, opened: &Blob) -> Result<Option<u64>> {
    match (descriptor.size, opened.size) {
        (Some(expected), Some(actual)) if expected != actual => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the blob has {actual} bytes, its manifest says {expected}"),
        )),
        (expected, actual) => Ok(expected.or(actual)),
    }
}

impl BlobCopy<'_> {
    /// Copies the blob, trying again as a whole where resuming did not help.
    pub(super) fn run(&self) -> Result<BlobCopied> {
        self.retry.run(&self.name, || self.attempt())
    }

    fn attempt(&self) -> Result<BlobCopied> {
        let likely = match &self.rules {
            None => Some(Action::Keep),
            Some(rules) => rules.likely_action(self.by_type),
        };
        // Layers that wait for their turn wait before anything is opened for them.
        let _turn = match likely {
            Some(Action::Keep | Action::Decompress) => None,
            _ => Some(turns::take(self.retry.host)?),
        };
        // A destination may find out here that it has the blob: before the source is asked.
        let mut writer = None;
        let knows_enough = self.spool.is_none() || self.blob.size.is_some();
        if likely == Some(Action::Keep) && knows_enough {
            match self.begin(Some(&self.blob.digest), self.blob.size)? {
                None => return self.had(),
                begun => writer = begun,
            }
        }
        let opened = self.open()?;
        let size = known_size(self.blob, &opened).map_err(|error| self.reading(error))?;
        let (found, start) = self.look(opened.reader)?;
        let action = match (&self.rules, found) {
            (Some(rules), Some(found)) => rules.action(found),
            _ => Action::Keep,
        };
        if action == Action::Keep {
            let writer = match writer {
                Some(writer) => writer,
                None => match self.begin(Some(&self.blob.digest), size)? {
                    Some(writer) => writer,
                    None => return self.had(),
                },
            };
            if self.unpacks {
                self.unpack(start, size, found.unwrap_or(Compression::None), writer)
            } else {
                self.keep(start, size, found, writer)
            }
        } else {
            // The media type said otherwise than the bytes: begin again, without a digest.
            drop(writer);
            let writer = self.begin(None, None)?.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "a blob without digest was taken for a known one")
            })?;
            self.change(start, size, found.unwrap_or(Compression::None), action, writer)
        }
    }

    fn had(&self) -> Result<BlobCopied> {
        let mut size = self.blob.size;
        if size.is_none() {
            // Schema 1 does not tell sizes; the destination's own answer to "is it here" does.
            let wanted = BlobWanted {
                blob: self.blob.clone(),
                role: self.role,
                candidates: Vec::new(),
                probably_new: false,
            };
            let found = self.destination.reuse(&wanted).map_err(|error| self.writing(error))?;
            size = found.and_then(|found| found.size);
        }
        let size = size.ok_or_else(|| {
            self.writing(Error::new(
                ErrorKind::Internal,
                "the destination has the blob, but nobody knows its size",
            ))
        })?;
        Ok(BlobCopied {
            digest: self.blob.digest.clone(),
            size,
            found: None,
            action: Action::Keep,
            diff_id: None,
            reused: true,
        })
    }

    pub(super) fn begin(
        &self,
        digest: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Option<Box<dyn BlobWriter + '_>>> {
        let incoming = BlobIncoming {
            digest: digest.cloned(),
            size,
            media_type: self.blob.media_type.clone(),
            role: self.role,
            locations: self.locations.clone(),
        };
        match self.spool {
            Some(dir) if incoming.size.is_none() => Spool::begin(self.destination, incoming, dir)
                .map(|spool| Some(Box::new(spool) as Box<dyn BlobWriter>)),
            _ => self.destination.put_blob(&incoming),
        }
        .map_err(|error| self.writing(error))
    }

    pub(super) fn open(&self) -> Result<Blob> {
        embedded::open(self.source, self.blob).map_err(|error| self.reading(error))
    }

    /// Looks at the first bytes, if they decide anything, without losing them.
    fn look(&self, mut reader: Box<dyn BlobReader>) -> Result<(Option<Compression>, Started)> {
        let mut start = Vec::new();
        if self.rules.is_none() && !self.unpacks {
            return Ok((None, Started { reader, start, from: 0 }));
        }
        let mut first = [0; 8];
        if let Some(extent) = reader.extent() {
            let want = usize::try_from(extent.length.min(8)).expect("at most eight");
            let count = rustix::io::pread(extent.file, &mut first[..want], extent.offset).map_err(
                |error| self.reading(Error::io("cannot read the blob's file", error.into())),
            )?;
            return Ok((
                Some(Compression::detect(&first[..count])),
                Started { reader, start, from: 0 },
            ));
        }
        let mut tries = 0;
        while start.len() < 8 {
            match reader.read(&mut first) {
                Ok(0) => break,
                Ok(count) => start.extend_from_slice(&first[..count]),
                // So little was read that the beginning may as well come again.
                Err(error) => {
                    let patient = self.retry.for_broken_reads();
                    let what = format!("blob {}", self.blob.digest);
                    patient.wait(&what, tries, error).map_err(|error| self.reading(error))?;
                    tries += 1;
                    start.clear();
                    reader = self.open()?.reader;
                }
            }
        }
        Ok((Some(Compression::detect(&start)), Started { reader, start, from: 0 }))
    }

    fn keep(
        &self,
        started: Started,
        size: Option<u64>,
        found: Option<Compression>,
        mut writer: Box<dyn BlobWriter + '_>,
    ) -> Result<BlobCopied> {
        let verifier = Verifier::new(&self.blob.digest, size);
        let files = started.reader.extent().is_some() && writer.file().is_some();
        if !self.needs_diff_id && !files {
            return match self.keep_streaming(started, verifier, writer)? {
                Some(count) => Ok(self.kept(count, found, None)),
                None => self.had(),
            };
        }
        let (count, diff_id) = if self.needs_diff_id {
            let (count, diff_id) =
                self.stream_with_diff_id(started, verifier, found, &mut *writer)?;
            (count, Some(diff_id))
        } else if let (Some(extent), Some(target)) = (started.reader.extent(), writer.file()) {
            let count = files::copy(extent, target, verifier, &self.counter, self.retry.host)
                .map_err(|failure| match failure {
                    files::Failure::Reading(error) => self.reading(error),
                    files::Failure::Writing(error) => self.writing(error),
                })?;
            (count, None)
        } else {
            unreachable!("both sides were just seen to be files")
        };
        let sums =
            BlobSums { digest: self.blob.digest.clone(), size: count, diff_id: diff_id.clone() };
        writer.finish(&sums).map_err(|error| self.writing(error))?;
        Ok(self.kept(count, found, diff_id))
    }

    fn kept(&self, size: u64, found: Option<Compression>, diff_id: Option<Digest>) -> BlobCopied {
        BlobCopied {
            digest: self.blob.digest.clone(),
            size,
            found,
            action: Action::Keep,
            diff_id,
            reused: false,
        }
    }

    /// Reads in one thread, verifies and writes in this one, and hashes the uncompressed bytes beside
    /// it.
    fn stream_with_diff_id(
        &self,
        started: Started,
        mut verifier: Verifier<'_>,
        found: Option<Compression>,
        writer: &mut dyn BlobWriter,
    ) -> Result<(u64, Digest)> {
        std::thread::scope(|scope| {
            let mut input = self.pump(scope, started);
            let (copies, received) = mpsc::sync_channel::<Vec<u8>>(2);
            let found = found.unwrap_or(Compression::None);
            let inflated = scope.spawn(move || diff_id(found, Received::new(received)));
            while let Some(chunk) = input.next_chunk().map_err(|error| self.reading(error))? {
                verifier.update(&chunk).map_err(|error| self.reading(error))?;
                writer.write(&chunk).map_err(|error| self.writing(error))?;
                // When the other thread has failed, it says why below.
                let _ = copies.send(chunk);
            }
            drop(copies);
            let count = verifier.finish().map_err(|error| self.reading(error))?;
            let diff_id = inflated
                .join()
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a decoder panicked")))
                .map_err(|error| self.reading(error))?;
            Ok((count, diff_id))
        })
    }

    fn change(
        &self,
        started: Started,
        size: Option<u64>,
        found: Compression,
        action: Action,
        mut writer: Box<dyn BlobWriter + '_>,
    ) -> Result<BlobCopied> {
        let level = self.rules.and_then(|rules| rules.level);
        let read = OnceLock::new();
        let (sums, written) = std::thread::scope(|scope| -> Result<_> {
            let mut plain = self.uncompressed(scope, started, size, found, &read);
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let diff_id = match action {
                Action::Compress(format) | Action::Recompress(format) => {
                    let mut tee = Tee { input: plain, hasher: Hasher::new(Algorithm::Sha256) };
                    compress::compress(format, level, &mut tee, &mut |chunk| {
                        hasher.update(chunk);
                        writer.write(chunk).map_err(|error| self.writing(error))
                    })?;
                    Some(tee.hasher.finish().0)
                }
                Action::Decompress | Action::Keep => {
                    while let Some(chunk) = plain.next_chunk()? {
                        hasher.update(&chunk);
                        writer.write(&chunk).map_err(|error| self.writing(error))?;
                        plain.recycle(chunk);
                    }
                    None
                }
            };
            let (digest, count) = hasher.finish();
            let diff_id = diff_id.unwrap_or_else(|| digest.clone());
            Ok((BlobSums { digest, size: count, diff_id: Some(diff_id) }, writer))
        })?;
        written.finish(&sums).map_err(|error| self.writing(error))?;
        Ok(BlobCopied {
            digest: sums.digest,
            size: sums.size,
            found: Some(found),
            action,
            diff_id: sums.diff_id,
            reused: false,
        })
    }

    /// Hands the blob over uncompressed, and says of it what the manifest says.
    fn unpack(
        &self,
        started: Started,
        size: Option<u64>,
        found: Compression,
        mut writer: Box<dyn BlobWriter + '_>,
    ) -> Result<BlobCopied> {
        let digest = &self.blob.digest;
        let is_diff_id = found == Compression::None && digest.algorithm() == Algorithm::Sha256;
        let read = OnceLock::new();
        let diff_id = std::thread::scope(|scope| -> Result<_> {
            let mut plain = self.uncompressed(scope, started, size, found, &read);
            let mut hasher = (!is_diff_id).then(|| Hasher::new(Algorithm::Sha256));
            while let Some(chunk) = plain.next_chunk()? {
                if let Some(hasher) = &mut hasher {
                    hasher.update(&chunk);
                }
                writer.write(&chunk).map_err(|error| self.writing(error))?;
                plain.recycle(chunk);
            }
            Ok(hasher.map_or_else(|| digest.clone(), |hasher| hasher.finish().0))
        })?;
        let size = *read.get().expect("the stage that reads has come to its end");
        let sums = BlobSums { digest: digest.clone(), size, diff_id: Some(diff_id.clone()) };
        writer.finish(&sums).map_err(|error| self.writing(error))?;
        Ok(self.kept(size, Some(found), Some(diff_id)))
    }

    /// Starts the stage that reads the source.
    pub(super) fn pump<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        started: Started,
    ) -> Input {
        pipe::stage(scope, move |output| {
            let mut bytes = self.bytes(started);
            output.fill(|buffer| bytes(buffer))
        })
    }

    /// Returns what reads the source from where it was looked at.
    fn bytes(&self, started: Started) -> impl FnMut(&mut [u8]) -> Result<usize> {
        let mut start = std::io::Cursor::new(started.start);
        let mut reader = ResumingReader::new(
            self.source,
            self.blob,
            started.reader,
            started.from + start.get_ref().len() as u64,
            self.counter.clone(),
            self.retry,
        );
        move |buffer| match start.read(buffer) {
            Ok(count) if count > 0 => Ok(count),
            _ => reader.read(buffer),
        }
    }

    /// Starts the stages that read and verify, and that decompress: each is work for a core. The end
    /// arrives only after the digest of all of the source's bytes was found right; `read` then has
    /// their number.
    fn uncompressed<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        started: Started,
        size: Option<u64>,
        found: Compression,
        read: &'scope OnceLock<u64>,
    ) -> Input {
        let mut verified = pipe::stage(scope, move |output| {
            let mut verifier = Verifier::new(&self.blob.digest, size);
            let mut bytes = self.bytes(started);
            output.fill(|buffer| {
                let count = bytes(buffer)?;
                verifier.update(&buffer[..count])?;
                Ok(count)
            })?;
            let count = verifier.finish()?;
            let _ = read.set(count);
            Ok(())
        });
        pipe::stage(scope, move |output| {
            let result = (|| {
                let mut decoder = compress::decoder(found, &mut verified)?;
                output.fill(|buffer| {
                    decoder.read(buffer).map_err(|error| unwrap_io(error, "decompressing"))
                })?;
                drop(decoder);
                // What the decoder left over was verified too, and only its end says so.
                std::io::copy(&mut verified, &mut std::io::sink())
                    .map(drop)
                    .map_err(|error| unwrap_io(error, "reading"))
            })();
            result.map_err(|error| self.reading(error))
        })
    }

    pub(super) fn reading(&self, error: Error) -> Error {
        self.give_up_after(&error);
        error.context(format!("source: reading {}", self.name))
    }

    pub(super) fn writing(&self, error: Error) -> Error {
        self.give_up_after(&error);
        error.context(format!("destination: writing {}", self.name))
    }

    /// After an error that nothing mends, the other side of this blob is not waited for: it may
    /// be a server that sends nothing for a long time.
    pub(super) fn give_up_after(&self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt | ErrorKind::Denied) {
            self.abort.store(true, Ordering::Relaxed);
        }
    }
}

/// An opened blob, with the bytes that were read from it already.
pub(super) struct Started {
    pub reader: Box<dyn BlobReader>,
    pub start: Vec<u8>,
    /// Where in the blob those bytes begin.
    pub from: u64,
}

/// Hashes what is read through it.
struct Tee {
    input: Input,
    hasher: Hasher,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Copies of a blob's chunks, as a [`Read`].
struct Received {
    chunks: mpsc::Receiver<Vec<u8>>,
    current: std::io::Cursor<Vec<u8>>,
}

impl Received {
    fn new(chunks: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { chunks, current: std::io::Cursor::default() }
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.current = std::io::Cursor::new(chunk),
                Err(_) => return Ok(0),
            }
        }
    }
}

fn diff_id(found: Compression, input: Received) -> Result<Digest> {
    let mut input = input;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; pipe::BUFFER];
    let mut decoder = compress::decoder(found, &mut input)?;
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unwrap_io(error, "decompressing")),
        }
    }
    drop(decoder);
    // The sender must never wait for a decoder that has seen enough.
    let _ = std::io::copy(&mut input, &mut std::io::sink());
    Ok(hasher.finish().0)
}
