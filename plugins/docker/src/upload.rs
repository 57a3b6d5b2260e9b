//! Sending a blob: a writer that feeds requests.
//!
//! - Small blobs are collected first: they can be sent again, and their digest is known by then.
//! - Larger ones are the growing body of one request. The last bytes are held back until
//!   [`BlobWriter::finish`]. A writer that is dropped breaks the request off, so that nothing is
//!   committed, and cancels the upload. An answer that comes early, say a refusal after the first
//!   bytes, ends the upload at once.
//! - While it is not known whether the network lets that pass, one goes ahead ([`crate::trial`]).
//! - After a connection has broken, or a body was too large, blobs go in pieces, each kept until
//!   the registry has answered: what it got of one is found out, and only the rest sent again. An
//!   upload that broke while its bytes were not kept goes on when the host brings them again, from
//!   where the registry got to.
//!
//! Which requests these are is decided in [`crate::uploads`]; the growing body is in
//! [`crate::sending`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use diolkos_sdk::{BlobSums, BlobWriter, Digest, Error, ErrorKind, Result};
use reqwest::{Method, StatusCode, Url};

use crate::gate::backoff;
use crate::message::{self, Response};
use crate::sending::{Part, Sending, body};
use crate::trial::{Role, Trial};
use crate::uploads::{Begun, Judged, Piece, Uploads, with_digest};

/// Blobs up to this size are collected before they are sent.
const SMALL: usize = 512 * 1024;
/// How many bytes are handed to the connection at a time, at least.
const PART: usize = 256 * 1024;
/// The size of pieces while another upload goes ahead.
const WAITING_PIECE: usize = 2 << 20;
/// How often in a row sending may break without a single byte that arrives.
const BREAKS: u32 = 5;
/// How long a request takes that nobody answers.
const LONG: Duration = Duration::from_secs(120);

/// Whether there are more bytes of a blob than those that are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Comes,
    No,
}

/// A blob that is being sent.
pub(crate) struct Upload {
    uploads: Arc<Uploads>,
    /// Where the upload goes on, once it has begun.
    location: Option<Url>,
    digest: Option<Digest>,
    size: Option<u64>,
    /// Bytes that the host has written, and those that came before them.
    written: u64,
    /// Bytes of the blob that were sent; in pieces, those that have arrived.
    sent: u64,
    /// Bytes that were written and not sent yet; never empty once something was written.
    held: Vec<u8>,
    sending: Option<Sending>,
    role: Role,
    /// Whether this goes on with an upload that broke off, so that two connections may have written
    /// to it.
    mended: bool,
    /// Whether the upload's place has seen a request of ours.
    touched: bool,
    /// What a step before has failed with; whether the upload may go on after it.
    failed: Option<bool>,
    done: bool,
}

impl Upload {
    pub fn new(
        uploads: Arc<Uploads>,
        location: Option<Url>,
        digest: Option<Digest>,
        size: Option<u64>,
    ) -> Self {
        Self {
            uploads,
            location,
            digest,
            size,
            written: 0,
            sent: 0,
            held: Vec::new(),
            sending: None,
            role: Role::None,
            mended: false,
            touched: false,
            failed: None,
            done: false,
        }
    }

    /// Goes on with an upload of which the registry has the first `received` bytes.
    pub fn resumed(
        uploads: Arc<Uploads>,
        location: Url,
        received: u64,
        digest: Digest,
        size: Option<u64>,
    ) -> Self {
        uploads.use_pieces();
        let mut upload = Self::new(uploads, Some(location), Some(digest), size);
        (upload.written, upload.sent) = (received, received);
        (upload.mended, upload.touched) = (true, true);
        upload
    }

    /// Runs a step, unless one before has failed.
    fn run(&mut self, step: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failed.is_some() {
            return Err(Error::new(ErrorKind::Unavailable, "the upload has failed before"));
        }
        let repository = self.uploads.repository.clone();
        let result = repository.block_on(step(self));
        if let Err(error) = &result {
            self.failed = Some(error.kind().is_transient());
        }
        result
    }

    /// Returns where the upload goes on, beginning it if need be.
    async fn place(&mut self) -> Result<Url> {
        let location = match self.location.take().or_else(|| self.uploads.take(None)) {
            Some(location) => location,
            None => match self.uploads.begin(None).await? {
                Begun::Upload(location) => location,
                Begun::Mounted => unreachable!("nothing was to be mounted"),
            },
        };
        self.location = Some(location.clone());
        self.touched = true;
        Ok(location)
    }

    fn trial(&self) -> &Trial {
        &self.uploads.repository.client.trial
    }

    /// Begins a request with a body that grows.
    async fn start(&mut self) -> Result<()> {
        let location = self.place().await?;
        let (parts, payload) = body(self.size.map(|size| size - self.sent));
        let whole = self.sent == 0;
        let single = self.digest.as_ref().filter(|_| whole && self.uploads.takes_single());
        let request = match single {
            Some(digest) => {
                self.uploads.request(Method::PUT, with_digest(&location, digest), payload)
            }
            None => self.uploads.request(Method::PATCH, location, payload),
        };
        let single = single.is_some();
        let repository = self.uploads.repository.clone();
        let answer = tokio::spawn(async move { repository.send(request).await });
        self.sending = Some(Sending::new(parts, answer, single));
        Ok(())
    }

    /// Hands a part to the connection, unless the registry has answered before.
    async fn send(&mut self, part: Part) -> Result<()> {
        let Some(sending) = &mut self.sending else {
            return Err(Error::new(ErrorKind::Unavailable, "the upload has failed before"));
        };
        let (single, length) = (sending.single, part.len());
        let answer = match sending.hand_over(part).await {
            Ok(None) => {
                self.sent += length;
                self.trial().took(self.role, self.sent);
                return Ok(());
            }
            Ok(Some(answer)) => answer,
            Err(error) => Err(error),
        };
        self.sending = None;
        match answer {
            Ok(response) => Err(self.early(response, single).await),
            Err(error) => Err(self.broke(error)),
        }
    }

    /// Makes the error of an answer that came before the end of the body.
    async fn early(&self, response: Response, single: bool) -> Error {
        let status = response.status();
        if status.is_success() {
            return self.uploads.uploading(Error::new(
                ErrorKind::Unavailable,
                format!("the registry answered {status} before it had the whole blob"),
            ));
        }
        if single {
            return match self.uploads.judge_single(response).await {
                Ok(Judged::OtherWay(refusal)) => self.other_way(Some(refusal)),
                Ok(Judged::TooLarge(refusal)) => self.too_large(refusal),
                Ok(Judged::Stored) => self.other_way(None),
                Err(error) => self.broke(error),
            };
        }
        let error = message::failure(response).await.context("uploading layer chunked");
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return self.too_large(error);
        }
        self.broke(error)
    }

    /// Makes the error after which the same blob is worth sending in another way.
    fn other_way(&self, refusal: Option<Error>) -> Error {
        let error = Error::new(
            ErrorKind::Unavailable,
            "the registry does not take a blob in one request; the next try takes two",
        )
        .with_retry_after(Duration::ZERO);
        self.uploads.uploading(match refusal {
            Some(refusal) => error.with_source(refusal),
            None => error,
        })
    }

    /// Makes the error after which the same blob is worth sending in pieces.
    fn too_large(&self, refusal: Error) -> Error {
        self.uploads.use_pieces();
        self.uploads.uploading(
            Error::new(
                ErrorKind::Unavailable,
                "the registry does not take a body as large as the blob; the next try sends pieces",
            )
            .with_retry_after(Duration::ZERO)
            .with_source(refusal),
        )
    }

    /// Takes note of a connection that broke while its bytes were not kept.
    fn broke(&self, error: Error) -> Error {
        let delay = match error.kind() {
            ErrorKind::Unavailable => Duration::ZERO,
            ErrorKind::RateLimited => backoff(1),
            _ => return error,
        };
        self.uploads.use_pieces();
        // The next try goes on where this one stopped, or sends pieces: there is a point in it.
        if error.retry_after().is_some() { error } else { error.with_retry_after(delay) }
    }

    async fn write_held(&mut self, chunk: &[u8]) -> Result<()> {
        if self.sending.is_none() {
            let length = self.held.len() + chunk.len();
            let size = match self.uploads.piece_size() {
                Some(size) => Some(size),
                None if self.sent == 0 && length <= SMALL => {
                    self.held.extend_from_slice(chunk);
                    return Ok(());
                }
                None => {
                    let may_go = self.uploads.repository.client.trial.may_go(&mut self.role);
                    (!may_go).then_some(WAITING_PIECE)
                }
            };
            if let Some(size) = size.map(|size| self.uploads.at_least(size)) {
                // No more than is needed: several uploads may be at it.
                self.held.reserve_exact((size + chunk.len()).saturating_sub(self.held.len()));
                self.held.extend_from_slice(chunk);
                return if length > size {
                    self.send_pieces(size, More::Comes).await
                } else {
                    Ok(())
                };
            }
            self.start().await?;
        }
        if !self.held.is_empty() && self.held.len() + chunk.len() > PART {
            let held = std::mem::take(&mut self.held);
            self.send(Part::Bytes(held)).await?;
        }
        self.held.extend_from_slice(chunk);
        Ok(())
    }

    /// Sends what is held in pieces, and keeps each until the registry has it. While more comes, what
    /// is less than a piece is held on.
    async fn send_pieces(&mut self, mut size: usize, more: More) -> Result<()> {
        let mut rest = Bytes::from(std::mem::take(&mut self.held));
        let mut breaks = 0;
        while !rest.is_empty() && (more == More::No || rest.len() > size) {
            let location = self.place().await?;
            let piece = rest.slice(..rest.len().min(size));
            let length = piece.len();
            let begun = Instant::now();
            let error = match self.uploads.send_piece(&location, self.sent, piece).await {
                Ok(Piece::Taken(next, received)) => {
                    self.location = Some(next);
                    self.advance(&mut rest, received);
                    breaks = 0;
                    continue;
                }
                Ok(Piece::TooLarge(error)) if self.uploads.use_smaller_pieces(length) => {
                    self.uploads.repository.host.info(format!(
                        "{}: {length} bytes at a time are too many: {error}",
                        self.uploads.repository.client.authority()
                    ));
                    size = self.uploads.piece_size().unwrap_or(size);
                    // Whoever refuses a body may forget the upload with it, or close it.
                    continue;
                }
                Ok(Piece::TooLarge(error)) => return Err(error),
                Ok(Piece::Refused(error)) => (error, true),
                Err(error) => (error, false),
            };
            let (error, answered) = error;
            if !error.kind().is_transient() {
                return Err(error);
            }
            self.uploads.use_pieces();
            self.mended = true;
            breaks += weight(begun);
            if breaks > BREAKS {
                return Err(exhausted(error));
            }
            let delay = error.retry_after().unwrap_or_else(|| backoff(breaks - 1));
            self.uploads.repository.host.info(format!(
                "an upload broke off after {} bytes ({}); it goes on in {:.1} seconds",
                self.sent,
                error.chain().join(": "),
                delay.as_secs_f64()
            ));
            tokio::time::sleep(delay).await;
            let end = self.sent + rest.len() as u64;
            match self.uploads.status(&location).await? {
                Some((next, received)) if (self.sent..=end).contains(&received) => {
                    if received > self.sent {
                        breaks = 0;
                    } else if breaks > 1 && !answered && self.uploads.use_smaller_pieces(length) {
                        // A proxy that closes the connection may mean that the body is too large.
                        size = self.uploads.piece_size().unwrap_or(size);
                    }
                    self.location = Some(next);
                    self.advance(&mut rest, received);
                }
                _ => {
                    // What the registry has is not what we thought: the host begins again, with
                    // pieces that are more likely to arrive.
                    self.uploads.use_smaller_pieces(length);
                    self.location = None;
                    return Err(self.uploads.lost(error));
                }
            }
        }
        self.held = rest.into();
        Ok(())
    }

    fn advance(&mut self, rest: &mut Bytes, received: u64) {
        let count = usize::try_from(received - self.sent).unwrap_or(usize::MAX).min(rest.len());
        rest.advance(count);
        self.sent += count as u64;
    }

    async fn end(&mut self, sums: &BlobSums) -> Result<()> {
        if self.sending.is_none() {
            let in_pieces = self.uploads.piece_size();
            if self.mended || self.sent > 0 || in_pieces.is_some_and(|it| it < self.held.len()) {
                let size = in_pieces.unwrap_or_else(|| self.uploads.at_least(WAITING_PIECE));
                self.send_pieces(size, More::No).await?;
                return self.close(&sums.digest).await;
            }
            return self.send_small(&sums.digest).await;
        }
        let held = std::mem::take(&mut self.held);
        self.send(Part::Bytes(held)).await?;
        let Some(sending) = self.sending.take() else {
            return Err(Error::new(ErrorKind::Internal, "an upload ended without its request"));
        };
        let single = sending.single;
        let response = match sending.end().await {
            Ok(response) => response,
            Err(error) => return Err(self.broke(error)),
        };
        if single {
            return match self.uploads.judge_single(response).await {
                Ok(Judged::Stored) => Ok(()),
                Ok(Judged::OtherWay(refusal)) => Err(self.other_way(Some(refusal))),
                Ok(Judged::TooLarge(refusal)) => Err(self.too_large(refusal)),
                Err(error) => Err(self.broke(error)),
            };
        }
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(self.too_large(message::failure(response).await));
        }
        let location = self.place().await?;
        match self.uploads.judge_patch(response, &location).await {
            Ok(next) => self.location = Some(next),
            Err(error) => return Err(self.broke(error)),
        }
        self.close(&sums.digest).await
    }

    /// Names the digest of an upload whose bytes have all arrived.
    async fn close(&mut self, digest: &Digest) -> Result<()> {
        let mut breaks = 0;
        loop {
            let location = self.place().await?;
            let begun = Instant::now();
            let error = match self.uploads.close(&location, digest).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            breaks += weight(begun);
            match error.kind() {
                ErrorKind::RateLimited | ErrorKind::Unavailable if breaks <= BREAKS => {
                    let delay = error.retry_after().unwrap_or_else(|| backoff(breaks - 1));
                    tokio::time::sleep(delay).await;
                    // The answer alone may have been lost.
                    if self.uploads.has(digest).await? {
                        return Ok(());
                    }
                    if self.uploads.status(&location).await.is_ok_and(|state| state.is_none()) {
                        self.location = None;
                        return Err(self.uploads.lost(error));
                    }
                }
                // Two connections may have written to it at the same time.
                ErrorKind::Corrupt if self.mended => {
                    self.location = None;
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "the registry put the parts of an upload that broke off together wrongly",
                    )
                    .with_retry_after(Duration::ZERO)
                    .with_source(error));
                }
                _ => return Err(exhausted(error)),
            }
        }
    }

    async fn send_small(&mut self, digest: &Digest) -> Result<()> {
        let bytes = Bytes::from(std::mem::take(&mut self.held));
        let mut breaks = 0;
        loop {
            let begun = self.location.take().or_else(|| self.uploads.take(None));
            let mut location = if let Some(location) = begun {
                location
            } else {
                let own = self.uploads.repository.name.path();
                match self.uploads.begin(Some((digest, own))).await? {
                    Begun::Mounted => return Ok(()),
                    Begun::Upload(location) => location,
                }
            };
            self.touched = true;
            let began = Instant::now();
            let result = self.uploads.send_all(&mut location, digest, bytes.clone()).await;
            self.location = Some(location.clone());
            match result {
                Ok(Judged::Stored) => return Ok(()),
                Ok(Judged::OtherWay(refusal)) => return Err(refusal),
                Ok(Judged::TooLarge(_)) => {
                    self.uploads.use_pieces();
                    self.uploads.use_smaller_pieces(bytes.len());
                    self.held = bytes.to_vec();
                    let size = self.uploads.piece_size().unwrap_or(SMALL);
                    self.send_pieces(size, More::No).await?;
                    return self.close(digest).await;
                }
                Err(error) if error.kind().is_transient() && breaks < BREAKS => {
                    let delay = error.retry_after().unwrap_or_else(|| backoff(breaks));
                    breaks += weight(began);
                    tokio::time::sleep(delay).await;
                    // What became of the upload is not known; beginning another tells whether the
                    // blob is there.
                    self.location = None;
                    self.uploads.cancel(location);
                }
                Err(error) => return Err(exhausted(error)),
            }
        }
    }
}

/// Returns how much a failure counts: where nobody answered for minutes, one more try is enough.
fn weight(begun: Instant) -> u32 {
    if begun.elapsed() < LONG { 1 } else { BREAKS }
}

/// Makes the error of something that was tried often enough: another try is for the user to want.
fn exhausted(error: Error) -> Error {
    if error.retry_after().is_none() {
        return error;
    }
    let last = Error::new(error.kind(), error.chain().join(": "));
    match error.hint() {
        Some(hint) => last.with_hint(hint.to_owned()),
        None => last,
    }
}

impl BlobWriter for Upload {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.written += chunk.len() as u64;
        if let Some(size) = self.size.filter(|size| self.written > *size) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the blob has more bytes than the {size} that were announced"),
            ));
        }
        self.run(async |this| this.write_held(chunk).await)
    }

    fn finish(mut self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let announced = self.digest.as_ref().is_none_or(|digest| *digest == sums.digest);
        if !announced || self.size.is_some_and(|size| size != self.written) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the blob is not the one that was announced",
            ));
        }
        self.run(async |this| this.end(sums).await)?;
        self.done = true;
        let uploads = self.uploads.clone();
        uploads.repository.client.trial.ended(&mut self.role, Some(self.written));
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let uploads = self.uploads.clone();
        uploads.repository.client.trial.ended(&mut self.role, None);
        // Without its sender the body ends in an error, and the connection is closed before the
        // last byte.
        self.sending = None;
        match (self.location.take(), &self.digest) {
            (Some(location), Some(digest)) if self.failed == Some(true) && self.touched => {
                self.uploads.keep_broken(digest, location, self.written);
            }
            (Some(location), _) if self.touched => self.uploads.cancel(location),
            (Some(location), digest) => self.uploads.keep(digest.as_ref(), location),
            (None, _) => {}
        }
    }
}
