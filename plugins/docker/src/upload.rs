//! Sending a blob: a writer that feeds a request.
//!
//! - Small blobs are collected first: they can be sent again, and their digest is known by then.
//! - The last bytes are held back until [`BlobWriter::finish`]. A writer that is dropped breaks
//!   the request off, so that nothing is committed, and cancels the upload.
//! - An answer that comes early, say a refusal after the first bytes, ends the upload at once.
//!
//! Which requests these are is decided in [`crate::uploads`].

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use diolkos_sdk::{BlobSums, BlobWriter, Digest, Error, ErrorKind, Result};
use reqwest::{Method, Url};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;

use crate::message::{self, Payload, Response};
use crate::uploads::{Begun, STORE_PATIENCE, Uploads, with_digest, within};

/// Blobs up to this size are collected before they are sent.
const SMALL: usize = 512 * 1024;
/// How many bytes are handed to the connection at a time, at least.
const PART: usize = 256 * 1024;
/// How many parts wait for the connection.
const PARTS: usize = 4;
/// How long the connection may take no bytes.
const STALL: Duration = Duration::from_secs(120);
/// A blob that is being sent.
pub(crate) struct Upload {
    uploads: Arc<Uploads>,
    /// Where the upload goes on, once it has begun.
    location: Option<Url>,
    digest: Option<Digest>,
    size: Option<u64>,
    written: u64,
    /// Bytes that were written and not sent yet; never empty once something was written.
    held: Vec<u8>,
    sending: Option<Sending>,
    /// Whether the upload's place has seen a request of ours.
    touched: bool,
    failed: bool,
    done: bool,
}

/// A request whose body is being written.
struct Sending {
    parts: mpsc::Sender<Part>,
    answer: JoinHandle<Result<Response>>,
    single: bool,
}

enum Part {
    Bytes(Vec<u8>),
    End,
}

impl Sending {
    /// Waits for room and hands a part over; returns the answer if that comes first.
    async fn hand_over(&mut self, part: Part) -> Result<Option<Result<Response>>> {
        // After the last byte it is the registry's work that takes its time.
        let limit = if matches!(part, Part::End) { STORE_PATIENCE } else { STALL };
        let answer = &mut self.answer;
        let mut room = pin!(self.parts.reserve());
        let outcome = within(limit, async {
            Ok(poll_fn(|cx| {
                if let Poll::Ready(answer) = Pin::new(&mut *answer).poll(cx) {
                    return Poll::Ready(Err(answer));
                }
                room.as_mut().poll(cx).map(Ok)
            })
            .await)
        })
        .await?;
        let answer = match outcome {
            Ok(Ok(permit)) => {
                permit.send(part);
                return Ok(None);
            }
            // The connection has dropped the body: it is about to say why.
            Ok(Err(_)) => within(limit, async { Ok(answer.await) }).await?,
            Err(answer) => answer,
        };
        Ok(Some(joined(answer)))
    }
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
            held: Vec::new(),
            sending: None,
            touched: false,
            failed: false,
            done: false,
        }
    }

    /// Runs a step, unless one before has failed.
    fn run(&mut self, step: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failed {
            return Err(Error::new(ErrorKind::Unavailable, "the upload has failed before"));
        }
        let repository = self.uploads.repository.clone();
        let result = repository.block_on(step(self));
        self.failed = result.is_err();
        result
    }

    /// Begins a request with a body that grows.
    async fn start(&mut self) -> Result<()> {
        let location = match self.location.take().or_else(|| self.uploads.take(None)) {
            Some(location) => location,
            None => match self.uploads.begin(None).await? {
                Begun::Upload(location) => location,
                Begun::Mounted => unreachable!("nothing was to be mounted"),
            },
        };
        self.location = Some(location.clone());
        self.touched = true;
        let (parts, receiver) = mpsc::channel(PARTS);
        let body = reqwest::Body::wrap_stream(Parts { receiver, ended: false });
        let payload = Payload::Stream(body, self.size);
        let single = self.digest.as_ref().filter(|_| self.uploads.takes_single());
        let request = match single {
            Some(digest) => {
                self.uploads.request(Method::PUT, with_digest(&location, digest), payload)
            }
            None => self.uploads.request(Method::PATCH, location, payload),
        };
        let single = single.is_some();
        let repository = self.uploads.repository.clone();
        let answer = tokio::spawn(async move { repository.send(request).await });
        self.sending = Some(Sending { parts, answer, single });
        Ok(())
    }

    /// Hands a part to the connection, unless the registry has answered before.
    async fn send(&mut self, part: Part) -> Result<()> {
        let Some(sending) = &mut self.sending else {
            return Err(Error::new(ErrorKind::Unavailable, "the upload has failed before"));
        };
        let single = sending.single;
        let Some(answer) = sending.hand_over(part).await? else { return Ok(()) };
        self.sending = None;
        Err(self.early(answer?, single).await)
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
                Ok(refusal) => self.other_way(refusal),
                Err(error) => error,
            };
        }
        message::failure(response).await.context("uploading layer chunked")
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

    async fn write_held(&mut self, chunk: &[u8]) -> Result<()> {
        if self.sending.is_none() {
            if self.held.len() + chunk.len() <= SMALL {
                self.held.extend_from_slice(chunk);
                return Ok(());
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

    async fn end(&mut self, sums: &BlobSums) -> Result<()> {
        if self.sending.is_none() {
            return self.send_small(&sums.digest).await;
        }
        let held = std::mem::take(&mut self.held);
        self.send(Part::Bytes(held)).await?;
        let Some(mut sending) = self.sending.take() else {
            return Err(Error::new(ErrorKind::Internal, "an upload ended without its request"));
        };
        // Where the length was announced, the answer may come without waiting for the end.
        let response = match sending.hand_over(Part::End).await? {
            Some(answer) => answer?,
            None => joined(within(STORE_PATIENCE, async { Ok(sending.answer.await) }).await?)?,
        };
        if sending.single {
            return match self.uploads.judge_single(response).await? {
                None => Ok(()),
                refusal => Err(self.other_way(refusal)),
            };
        }
        let location = self.location.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "an upload ended without having begun")
        })?;
        let next = self.uploads.judge_patch(response, &location).await?;
        self.location = Some(next.clone());
        self.uploads.close(&next, &sums.digest).await
    }

    async fn send_small(&mut self, digest: &Digest) -> Result<()> {
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
        let bytes = Bytes::from(std::mem::take(&mut self.held));
        let result = self.uploads.send_all(&mut location, digest, bytes).await;
        self.location = Some(location);
        result
    }
}

fn joined(answer: Result<Result<Response>, tokio::task::JoinError>) -> Result<Response> {
    answer.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, "the task of an upload died").with_source(error))
    })
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
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Without its sender the body ends in an error, and the connection is closed before the
        // last byte.
        if let Some(sending) = self.sending.take() {
            sending.answer.abort();
        }
        match self.location.take() {
            Some(location) if self.touched => self.uploads.cancel(location),
            Some(location) => self.uploads.keep(self.digest.as_ref(), location),
            None => {}
        }
    }
}

/// The parts of a body; without an end that was told, it breaks off.
struct Parts {
    receiver: mpsc::Receiver<Part>,
    ended: bool,
}

impl Stream for Parts {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(cx).map(|part| match part {
            Some(Part::Bytes(bytes)) => Some(Ok(bytes.into())),
            Some(Part::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(io::Error::other("the upload was given up")))
            }
        })
    }
}
