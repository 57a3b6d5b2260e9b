//! The body of an answer as a reader.
//!
//! A task reads ahead by a few batches, so that the network and the host work beside each other
//! and the host's thread wakes up once for many packets. Dropping the reader ends the task and
//! closes its connection.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use diolkos_sdk::{BlobReader, Result};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::message::{self, Pace, Response};
use crate::registry::Repository;

/// How many bytes are handed over at a time, unless the body ends before.
const BATCH: usize = 256 * 1024;
/// How many batches are read ahead.
const BATCHES: usize = 2;

/// Reads a body.
pub(crate) struct Download {
    repository: Repository,
    batches: mpsc::Receiver<Result<Vec<Bytes>>>,
    chunks: VecDeque<Bytes>,
    /// Bytes that are still to be passed over.
    skipped: u64,
    task: AbortHandle,
}

impl Download {
    /// Starts to read the body of an answer, without its first `skipped` bytes. Must be called
    /// within the runtime.
    pub fn start(repository: &Repository, response: Response, skipped: u64) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES);
        let pace = Pace::new(repository.idle_timeout);
        let task = tokio::spawn(pump(response, pace, sender)).abort_handle();
        Self { repository: repository.clone(), batches, chunks: VecDeque::new(), skipped, task }
    }
}

async fn pump(mut response: Response, mut pace: Pace, batches: mpsc::Sender<Result<Vec<Bytes>>>) {
    let url = response.url().clone();
    loop {
        let (mut batch, mut length) = (Vec::new(), 0);
        let end = loop {
            match message::next_chunk(&mut response, &url, &mut pace).await {
                Ok(Some(chunk)) => {
                    length += chunk.len();
                    batch.push(chunk);
                    if length >= BATCH {
                        break None;
                    }
                }
                Ok(None) => break Some(Ok(())),
                Err(error) => break Some(Err(error)),
            }
        };
        // What came before a failure still counts: a copy is resumed behind it.
        if !batch.is_empty() && batches.send(Ok(batch)).await.is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => {
                let _ = batches.send(Err(error)).await;
                return;
            }
        }
    }
}

impl Download {
    fn pass_over(&mut self) {
        while self.skipped > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let count = usize::try_from(self.skipped).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(count);
            self.skipped -= count as u64;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

impl BlobReader for Download {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.chunks.is_empty() {
            let next = self.batches.recv();
            let next = self
                .repository
                .runtime
                .block_on(&self.repository.host, async { Ok(next.await) })?;
            match next {
                Some(batch) => self.chunks.extend(batch?),
                None => return Ok(0),
            }
            self.pass_over();
        }
        let mut filled = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            let count = chunk.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&chunk[..count]);
            chunk.advance(count);
            filled += count;
            if !chunk.is_empty() {
                break;
            }
            self.chunks.pop_front();
        }
        Ok(filled)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads nothing.
pub(crate) struct Empty;

impl BlobReader for Empty {
    fn read(&mut self, _: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
}
