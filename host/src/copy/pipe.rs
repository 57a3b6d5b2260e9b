//! Stages of a blob's way, each in a thread of its own, joined by bounded channels of buffers.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use diolkos_sdk::{Error, ErrorKind, Result};

/// Bytes of a buffer that travels between stages, and what a reader is asked for at least.
pub(super) const BUFFER: usize = 256 << 10;
/// Buffers that wait between two stages. Few are enough: a stage is either faster or slower.
const WAITING: usize = 4;

enum Message {
    Chunk(Vec<u8>),
    End(Result<()>),
}

/// Where a stage puts the bytes it makes.
pub(super) struct Output {
    sender: SyncSender<Message>,
    used: Receiver<Vec<u8>>,
}

/// Where the next stage takes them: buffer by buffer, or as a [`Read`].
pub(super) struct Input {
    receiver: Receiver<Message>,
    used: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    at_end: bool,
}

/// Starts a stage in a thread of `scope` and returns the end to read from.
///
/// What `produce` returns arrives after its last byte. When the reading end is dropped, the next
/// [`Output::fill`] fails and the stage ends.
pub(super) fn stage<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    produce: impl FnOnce(&mut Output) -> Result<()> + Send + 'scope,
) -> Input {
    let (sender, receiver) = sync_channel(WAITING);
    let (used_sender, used_receiver) = sync_channel(WAITING + 2);
    let mut output = Output { sender, used: used_receiver };
    scope.spawn(move || {
        let result = produce(&mut output);
        // The reader may be gone: it had its reasons, and they are reported there.
        let _ = output.sender.send(Message::End(result));
    });
    Input { receiver, used: used_sender, current: Vec::new(), position: 0, at_end: false }
}

impl Output {
    /// Passes on all that `reader` gives, in full buffers.
    pub(super) fn fill(&mut self, mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<()> {
        loop {
            let mut buffer = self.used.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let mut filled = 0;
            while filled < BUFFER {
                match read(&mut buffer[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            let at_end = filled < BUFFER;
            buffer.truncate(filled);
            if filled > 0 {
                self.sender.send(Message::Chunk(buffer)).map_err(|_| gone())?;
            }
            if at_end {
                return Ok(());
            }
        }
    }
}

/// The error of a stage whose reader has stopped; it never reaches a user, since the reader's own
/// error is the one that is reported.
fn gone() -> Error {
    Error::new(ErrorKind::Cancelled, "the next stage has stopped")
}

impl Input {
    /// Returns the next buffer, `None` at the end; give it back with [`Input::recycle`].
    pub(super) fn next_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        if self.at_end {
            return Ok(None);
        }
        match self.receiver.recv() {
            Ok(Message::Chunk(chunk)) => Ok(Some(chunk)),
            Ok(Message::End(result)) => {
                self.at_end = true;
                result.map(|()| None)
            }
            Err(_) => Err(Error::new(ErrorKind::Internal, "a stage of the copy panicked")),
        }
    }

    /// Gives a buffer back to the stage that fills them.
    pub(super) fn recycle(&self, chunk: Vec<u8>) {
        let _ = self.used.try_send(chunk);
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.position == self.current.len() {
            let old = std::mem::take(&mut self.current);
            self.position = 0;
            if old.capacity() > 0 {
                self.recycle(old);
            }
            match self.next_chunk().map_err(std::io::Error::other)? {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let rest = &self.current[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_pass_in_order_and_an_error_arrives_after_them() {
        let data: Vec<u8> = (0..3 * BUFFER + 5).map(|i| u8::try_from(i % 253).unwrap()).collect();
        let mut rest = &data[..];
        std::thread::scope(|scope| {
            let mut input = stage(scope, |output| {
                output.fill(|buffer| Ok(rest.read(buffer).expect("slices can be read")))?;
                Err(Error::new(ErrorKind::Corrupt, "bad end"))
            });
            let mut seen = Vec::new();
            let error = input.read_to_end(&mut seen).unwrap_err();
            assert!(seen == data);
            assert_eq!(error.downcast::<Error>().unwrap().message(), "bad end");
        });
    }

    #[test]
    fn a_stage_ends_when_nobody_reads_it() {
        std::thread::scope(|scope| {
            let input = stage(scope, |output| output.fill(|buffer| Ok(buffer.len())));
            drop(input);
        });
    }
}
