//! A request whose body grows while it is sent.
//!
//! The body ends when that was said; otherwise it breaks off, and its connection is closed before
//! the last byte.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use diolkos_sdk::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio_stream::Stream;

use crate::message::{Payload, Response};
use crate::uploads::{STORE_PATIENCE, within};

/// How many parts wait for the connection.
const PARTS: usize = 4;
/// How long the connection may take no bytes.
const STALL: Duration = Duration::from_secs(120);

/// A request whose body is being written.
pub(crate) struct Sending {
    pub parts: mpsc::Sender<Part>,
    pub answer: JoinHandle<Result<Response>>,
    /// Whether the request names the digest too.
    pub single: bool,
}

/// A part of a body.
pub(crate) enum Part {
    Bytes(Vec<u8>),
    End,
}

impl Part {
    /// Returns its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::End => 0,
        }
    }
}

/// Makes a body of parts, and the end to write them to.
pub(crate) fn body(size: Option<u64>) -> (mpsc::Sender<Part>, Payload) {
    let (parts, receiver) = mpsc::channel(PARTS);
    let body = reqwest::Body::wrap_stream(Parts { receiver, ended: false });
    (parts, Payload::Stream(body, size))
}

impl Sending {
    /// Waits for room and hands a part over; returns the answer if that comes first.
    pub async fn hand_over(&mut self, part: Part) -> Result<Option<Result<Response>>> {
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

    /// Ends the body and waits for the answer.
    pub async fn end(mut self) -> Result<Response> {
        // Where the length was announced, the answer may come without waiting for the end.
        if let Some(answer) = self.hand_over(Part::End).await? {
            return answer;
        }
        let answer = async { Ok((&mut self.answer).await) };
        joined(within(STORE_PATIENCE, answer).await?)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

fn joined(answer: Result<Result<Response>, JoinError>) -> Result<Response> {
    answer.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, "the task of an upload died").with_source(error))
    })
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
