//! A request whose body grows while it is sent.
//!
//! The body ends when that was said; otherwise it breaks off, and its connection is closed before
//! the last byte, so that the other side does not take what it has for the whole.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use diolkos_sdk::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio_stream::Stream;

/// How many parts wait for the connection.
const PARTS: usize = 4;

/// A request whose body is being written, and whose answer is a `T`.
pub struct Sending<T> {
    parts: mpsc::Sender<Part>,
    answer: JoinHandle<Result<T>>,
}

/// A part of a body.
pub enum Part {
    /// Bytes that follow what was sent.
    Bytes(Vec<u8>),
    /// The body is complete.
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

    /// Tells whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Makes a body of parts, and the end to write them to.
pub fn body() -> (mpsc::Sender<Part>, reqwest::Body) {
    let (parts, receiver) = mpsc::channel(PARTS);
    (parts, reqwest::Body::wrap_stream(Parts { receiver, ended: false }))
}

impl<T> Sending<T> {
    /// Joins a body's end and the task that sends the request and gets its answer.
    pub fn new(parts: mpsc::Sender<Part>, answer: JoinHandle<Result<T>>) -> Self {
        Self { parts, answer }
    }

    /// Waits for room and hands a part over; returns the answer if that comes first.
    pub async fn hand_over(&mut self, part: Part) -> Option<Result<T>> {
        let answer = &mut self.answer;
        let mut room = pin!(self.parts.reserve());
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut *answer).poll(cx) {
                return Poll::Ready(Err(answer));
            }
            room.as_mut().poll(cx).map(Ok)
        })
        .await;
        let answer = match outcome {
            Ok(Ok(permit)) => {
                permit.send(part);
                return None;
            }
            // The connection has dropped the body: it is about to say why.
            Ok(Err(_)) => answer.await,
            Err(answer) => answer,
        };
        Some(joined(answer))
    }

    /// Waits for the answer. Not to be called after one was returned.
    pub async fn answer(&mut self) -> Result<T> {
        joined((&mut self.answer).await)
    }
}

impl<T> Drop for Sending<T> {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

fn joined<T>(answer: Result<Result<T>, JoinError>) -> Result<T> {
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
