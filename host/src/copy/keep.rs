//! A blob that is written as it is, and goes on where either side broke off.
//!
//! A source that breaks off is asked for the rest, in `reader`. A destination that breaks off and
//! can tell how much it has ([`diolkos_sdk::resume`]) gets the rest: the source is read again from
//! there, or from a little before, where the state of the verification was kept. So every byte is
//! verified, and memory holds states, not bytes.

use std::collections::VecDeque;
use std::time::Duration;

use diolkos_sdk::{BlobSums, BlobWriter, Error, ErrorKind, Result, resume};

use super::blob::{BlobCopy, Started};
use super::verify::Verifier;

/// How often in a row writing may break off without progress, even if the user wants no retries.
const BREAKS: u32 = 5;
/// Bytes after which a break is taken for an accident, and the rest sent at once.
const PROGRESS: u64 = 1 << 20;
/// The pause after a second break without progress; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes between two kept states.
const INTERVAL: u64 = 1 << 20;
/// How many states are kept: more bytes than these are never on their way.
const STATES: usize = 256;

/// Which side failed.
enum Failure {
    Reading(Error),
    Writing(Error),
}

impl BlobCopy<'_> {
    /// Reads, verifies and writes a blob to its end. `None`: the destination has it after all.
    pub(super) fn keep_streaming<'a>(
        &'a self,
        mut started: Started,
        verifier: Verifier<'a>,
        mut writer: Box<dyn BlobWriter + 'a>,
    ) -> Result<Option<u64>> {
        let mut history = History::new(verifier);
        let (mut received, mut furthest, mut breaks) = (0, 0_u64, 0);
        loop {
            let error = match self.stream(started, received, &mut history, writer) {
                Ok(count) => return Ok(Some(count)),
                Err(Failure::Reading(error)) => return Err(self.reading(error)),
                Err(Failure::Writing(error)) => error,
            };
            if !error.kind().is_transient() {
                return Err(self.writing(error));
            }
            received = match resume::received(self.destination, &self.blob.digest) {
                Ok(Some(count)) => count,
                // It keeps nothing: whether all of it is tried again is the user's choice.
                Ok(None) => return Err(self.writing(error)),
                Err(next) => {
                    self.retry.host.debug(format!("where it broke off is not known: {next:?}"));
                    return Err(self.writing(error));
                }
            };
            // Where the destination waits for the rest of the blob, nobody may begin at its first
            // byte: this writer takes that place, and gives it up where it is dropped.
            let begun = match received {
                0 => None,
                _ => Some(self.begin(Some(&self.blob.digest), self.blob.size)?),
            };
            breaks = if received >= furthest.saturating_add(PROGRESS) { 0 } else { breaks + 1 };
            furthest = furthest.max(received);
            // Without a delay, the destination has tried often enough itself.
            let least = error.retry_after().map_or(0, |_| BREAKS);
            if breaks > least.max(self.retry.times) {
                return Err(self.writing(error));
            }
            self.retry.pause(
                &format!("blob {} from byte {received}", self.blob.digest),
                &error,
                pause(&error, breaks),
            )?;
            started = self.start_at(history.rewind(received), &mut history)?;
            let begun = match begun {
                Some(begun) => begun,
                None => self.begin(Some(&self.blob.digest), self.blob.size)?,
            };
            let Some(next) = begun else { return Ok(None) };
            writer = next;
        }
    }

    /// Opens the source at a byte, or at its beginning where it cannot start elsewhere.
    fn start_at(&self, from: u64, history: &mut History<'_>) -> Result<Started> {
        let opened = match from {
            0 => self.open(),
            _ => self.source.blob(self.blob, from).map_err(|error| self.reading(error)),
        };
        match opened {
            Ok(blob) => Ok(Started { reader: blob.reader, start: Vec::new(), from }),
            Err(error) if from > 0 && error.kind() == ErrorKind::Unsupported => {
                history.rewind(0);
                Ok(Started { reader: self.open()?.reader, start: Vec::new(), from: 0 })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads in one thread, verifies in this one, and writes what the destination has not got.
    fn stream(
        &self,
        started: Started,
        received: u64,
        history: &mut History<'_>,
        mut writer: Box<dyn BlobWriter + '_>,
    ) -> Result<u64, Failure> {
        // Said at once: the scope ends only when the source has stopped too.
        let writing = |error| {
            self.give_up_after(&error);
            Failure::Writing(error)
        };
        std::thread::scope(|scope| {
            let mut input = self.pump(scope, started);
            while let Some(chunk) = input.next_chunk().map_err(Failure::Reading)? {
                let known = received.saturating_sub(history.position());
                history.update(&chunk).map_err(Failure::Reading)?;
                let known = usize::try_from(known).unwrap_or(usize::MAX).min(chunk.len());
                if known < chunk.len() {
                    writer.write(&chunk[known..]).map_err(writing)?;
                }
                input.recycle(chunk);
            }
            let count = history.finish().map_err(Failure::Reading)?;
            let sums = BlobSums { digest: self.blob.digest.clone(), size: count, diff_id: None };
            writer.finish(&sums).map_err(writing)?;
            Ok(count)
        })
    }
}

/// Returns how long to wait after a break: as long as the destination asked, and longer the more
/// breaks there were without progress.
fn pause(error: &Error, breaks: u32) -> Duration {
    let asked = error.retry_after().unwrap_or_default();
    match breaks {
        0 | 1 => asked,
        more => asked.max(PAUSE * (1 << (more - 2).min(6))),
    }
}

/// The verification of a blob, and its states at earlier bytes.
struct History<'a> {
    beginning: Verifier<'a>,
    states: VecDeque<Verifier<'a>>,
    now: Verifier<'a>,
}

impl<'a> History<'a> {
    fn new(verifier: Verifier<'a>) -> Self {
        Self { beginning: verifier.clone(), states: VecDeque::new(), now: verifier }
    }

    fn position(&self) -> u64 {
        self.now.position()
    }

    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        let last = self.states.back().map_or(0, Verifier::position);
        if self.position() >= last + INTERVAL {
            if self.states.len() == STATES {
                self.states.pop_front();
            }
            self.states.push_back(self.now.clone());
        }
        self.now.update(bytes)
    }

    /// Goes back to a state at or before a byte, and returns where that is.
    fn rewind(&mut self, to: u64) -> u64 {
        if self.position() > to {
            while self.states.back().is_some_and(|state| state.position() > to) {
                self.states.pop_back();
            }
            self.now = self.states.back().unwrap_or(&self.beginning).clone();
        }
        self.position()
    }

    /// Checks the whole, and returns the number of bytes.
    fn finish(&self) -> Result<u64> {
        self.now.clone().finish()
    }
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::Algorithm;

    use super::*;
    use crate::copy::verify::Hasher;

    #[test]
    fn a_blob_is_verified_whole_however_often_one_goes_back() {
        let data: Vec<u8> = (0..9 << 20).map(|i: u32| (i % 251) as u8).collect();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&data);
        let (digest, size) = hasher.finish();
        let mut history = History::new(Verifier::new(&digest, Some(size)));
        let feed = |from: u64, to: usize, history: &mut History<'_>| {
            for chunk in data[usize::try_from(from).unwrap()..to].chunks(100_000) {
                history.update(chunk).unwrap();
            }
        };
        feed(0, 5 << 20, &mut history);
        let from = history.rewind(4_500_000);
        assert!((3_400_000..=4_500_000).contains(&from), "{from}");
        feed(from, 9 << 20, &mut history);
        assert_eq!(history.finish().unwrap(), size);
        // After the end too, and to where no state was kept.
        for to in [size, size - 1, 1000, 0] {
            let from = history.rewind(to);
            assert!(from <= to);
            feed(from, 9 << 20, &mut history);
            assert_eq!(history.finish().unwrap(), size);
        }
    }

    #[test]
    fn pauses_grow_while_there_is_no_progress() {
        let error = Error::new(ErrorKind::Unavailable, "broke");
        let pauses = [0, 1, 2, 3, 4].map(|breaks| pause(&error, breaks).as_millis());
        assert_eq!(pauses, [0, 0, 500, 1000, 2000]);
        let error = error.with_retry_after(Duration::from_secs(7));
        assert_eq!(pause(&error, 2), Duration::from_secs(7));
    }
}
