//! Bytes in a row of a blob, which come over one connection.
//!
//! A task reads ahead by what its channel holds, so that the network and the host work beside each
//! other and the host's thread wakes up once for many packets. Dropping the part ends the task and
//! closes its connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{Buf, Bytes};
use diolkos_sdk::{Error, ErrorKind, Result};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::lanes::{Ahead, Lane};
use crate::message::{self, Pace, Response};

/// How many bytes are handed over at a time, unless the part ends before.
const BATCH: usize = 256 * 1024;
/// How many batches are read ahead of who reads a part now.
const BATCHES: usize = 2;

/// Bytes that were handed over together.
pub(super) type Batch = Vec<Bytes>;

/// Where a part is in its blob: the next byte, and the one behind its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub next: u64,
    /// [`u64::MAX`] where nobody knows how long the blob is.
    pub end: u64,
}

impl Span {
    pub fn left(self) -> u64 {
        self.end - self.next
    }

    /// Tells whether bytes are missing, as far as the end is known.
    pub fn is_short(self) -> bool {
        self.end != u64::MAX && self.left() > 0
    }
}

/// A span that its task moves along, and its reader may shorten.
#[derive(Clone)]
struct SharedSpan(Arc<(Mutex<Span>, Notify)>);

impl SharedSpan {
    fn new(span: Span) -> Self {
        Self(Arc::new((Mutex::new(span), Notify::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Span> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the span where its task is now, also if that waits for more; returns what is given up.
    fn give_up(&self) -> Span {
        let mut span = self.lock();
        let given = *span;
        span.end = span.next;
        self.0.1.notify_one();
        given
    }

    /// Waits for a future, or until the span is given up.
    async fn unless_given_up<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, mut given_up) = (pin!(future), pin!(self.0.1.notified()));
        poll_fn(|context| match given_up.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => future.as_mut().poll(context).map(Some),
        })
        .await
    }

    /// Takes what belongs to the span from bytes that came; returns how many are missing after that.
    fn take(&self, chunk: &mut Bytes) -> u64 {
        let mut span = self.lock();
        chunk.truncate(usize::try_from(span.left()).unwrap_or(usize::MAX));
        span.next += chunk.len() as u64;
        span.left()
    }
}

/// A part of a blob that is being read.
pub(super) struct Part {
    span: SharedSpan,
    batches: mpsc::Receiver<Result<Batch>>,
    task: AbortHandle,
    /// The memory for what is read ahead of those who read.
    pub ahead: Option<Ahead>,
}

impl Part {
    /// Reads an answer that is there already, without its first `skipped` bytes. Must be called
    /// within the runtime.
    pub fn of_answer(
        response: Response,
        skipped: u64,
        span: Span,
        pace: Pace,
        lane: Option<Lane>,
    ) -> Self {
        Self::start(BATCHES, None, span, |span, sender| async move {
            pump(response, skipped, pace, &span, lane.as_ref(), sender).await;
        })
    }

    /// Reads what is asked for. Must be called within the runtime.
    pub fn of_request(
        request: impl Future<Output = Result<Response>> + Send + 'static,
        span: Span,
        pace: Pace,
        lane: Lane,
        ahead: Option<Ahead>,
    ) -> Self {
        let whole = usize::try_from(span.left()).unwrap_or(usize::MAX) / BATCH + 1;
        let batches = if ahead.is_some() { whole } else { BATCHES };
        Self::start(batches, ahead, span, |span, sender| async move {
            match span.unless_given_up(request).await {
                None => {}
                Some(Ok(response)) => pump(response, 0, pace, &span, Some(&lane), sender).await,
                Some(Err(error)) => drop(sender.send(Err(error)).await),
            }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        batches: usize,
        ahead: Option<Ahead>,
        span: Span,
        task: impl FnOnce(SharedSpan, mpsc::Sender<Result<Batch>>) -> F,
    ) -> Self {
        let (sender, batches) = mpsc::channel(batches);
        let span = SharedSpan::new(span);
        let task = tokio::spawn(task(span.clone(), sender)).abort_handle();
        Self { span, batches, task, ahead }
    }

    /// Returns the next bytes if they are there; `None` is the end.
    pub fn try_next(&mut self) -> Poll<Option<Result<Batch>>> {
        match self.batches.try_recv() {
            Ok(batch) => Poll::Ready(Some(batch)),
            Err(mpsc::error::TryRecvError::Disconnected) => Poll::Ready(None),
            Err(mpsc::error::TryRecvError::Empty) => Poll::Pending,
        }
    }

    /// Waits for the next bytes; `None` is the end.
    pub async fn next(&mut self) -> Option<Result<Batch>> {
        self.batches.recv().await
    }

    /// Returns what has not come yet.
    pub fn span(&self) -> Span {
        *self.span.lock()
    }

    /// Gives away all that has not come yet. What came can still be read.
    pub fn give_up(&self) -> Span {
        self.span.give_up()
    }

    /// Gives away what is behind the next `kept` bytes, if that is at least `least` bytes.
    pub fn split(&self, kept: u64, least: u64) -> Option<Span> {
        let mut span = self.span.lock();
        if span.end == u64::MAX || span.left() < kept.saturating_add(least) {
            return None;
        }
        let given = Span { next: span.next + kept, end: span.end };
        span.end = given.next;
        Some(given)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(
    mut response: Response,
    mut skipped: u64,
    mut pace: Pace,
    span: &SharedSpan,
    lane: Option<&Lane>,
    batches: mpsc::Sender<Result<Batch>>,
) {
    let url = response.url().clone();
    loop {
        let (mut batch, mut length) = (Batch::new(), 0);
        let end = loop {
            let chunk = message::next_chunk(&mut response, &url, &mut pace);
            let mut chunk = match span.unless_given_up(chunk).await {
                Some(Ok(Some(chunk))) => chunk,
                Some(Ok(None)) => break Some(ended(*span.lock())),
                Some(Err(error)) => break Some(Err(error)),
                None => break Some(Ok(())),
            };
            if let Some(lane) = lane {
                lane.received(chunk.len());
            }
            let over = usize::try_from(skipped).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(over);
            skipped -= over as u64;
            let left = span.take(&mut chunk);
            length += chunk.len();
            batch.push(chunk);
            if left == 0 {
                break Some(Ok(()));
            }
            if length >= BATCH {
                break None;
            }
        };
        // What came before a failure still counts: a copy is resumed behind it.
        if !batch.is_empty() && batches.send(Ok(batch)).await.is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => return drop(batches.send(Err(error)).await),
        }
    }
}

/// Tells whether a body may end where it did.
fn ended(span: Span) -> Result<()> {
    if !span.is_short() {
        return Ok(());
    }
    let missing = span.left();
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("the answer ended {missing} bytes before its end"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_the_end_are_not_taken_also_where_it_was_moved() {
        let span = SharedSpan::new(Span { next: 10, end: 20 });
        let mut chunk = Bytes::from_static(b"12345678");
        span.take(&mut chunk);
        assert_eq!((chunk.len(), span.lock().left()), (8, 2));
        span.lock().end = 19;
        let mut chunk = Bytes::from_static(b"12345678");
        span.take(&mut chunk);
        assert_eq!((&chunk[..], span.lock().left()), (&b"1"[..], 0));
    }

    #[test]
    fn a_body_ends_where_it_was_announced_to() {
        assert!(ended(Span { next: 5, end: 5 }).is_ok());
        assert!(ended(Span { next: 5, end: u64::MAX }).is_ok());
        let error = ended(Span { next: 5, end: 8 }).unwrap_err();
        assert_eq!(error.message(), "the answer ended 3 bytes before its end");
    }
}
