//! Trying again, decided from the kind of an error and nothing else.

use std::time::{Duration, Instant};

use diolkos_sdk::{Error, ErrorKind, Host, Result};

use super::progress::{Event, Progress};

/// A storage that limits its clients, and says for how long, is asked again this often even if the
/// user wants no retries.
const RATE_LIMIT_TRIES: u32 = 5;
/// A transport that asks for another try at once has learnt something that makes the next one go
/// otherwise. It gets these tries whatever the user wants.
const INSTANT_TRIES: u32 = 2;
/// How often something that breaks off in the same place is read again, even if the user wants no
/// retries.
pub(super) const BROKEN_READS: u32 = 3;
/// A delay that the other side asks for is not followed beyond this.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// How often and after which delays a step is tried again.
#[derive(Clone, Copy)]
pub(super) struct Retry<'a> {
    pub times: u32,
    pub delay: Option<Duration>,
    pub host: &'a Host,
    pub progress: &'a dyn Progress,
}

impl Retry<'_> {
    /// Returns the rules for reading something that breaks off, which is nobody's fault: a few tries
    /// even if the user wants none.
    pub(super) fn for_broken_reads(&self) -> Self {
        Self { times: self.times.max(BROKEN_READS), ..*self }
    }

    /// Runs a step until it succeeds, fails for good, or has been tried often enough.
    pub(super) fn run<T>(&self, what: &str, mut step: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            match step() {
                Ok(value) => return Ok(value),
                Err(error) => self.wait(what, tries, error)?,
            }
            tries += 1;
        }
    }

    /// Waits before the next try, or returns the error when there is none.
    pub(super) fn wait(&self, what: &str, tries: u32, error: Error) -> Result<()> {
        let most = limit(&error, self.times);
        if tries >= most {
            return Err(error);
        }
        let delay = error
            .retry_after()
            .or(self.delay)
            .unwrap_or_else(|| Duration::from_secs(1 << tries.min(6)))
            .min(LONGEST_DELAY);
        self.pause(what, &error, delay)
    }

    /// Says what is tried again, and waits before that.
    pub(super) fn pause(&self, what: &str, error: &Error, delay: Duration) -> Result<()> {
        self.progress.event(&Event::Retry {
            what: what.to_owned(),
            why: error.chain().join(": "),
            delay,
        });
        sleep(self.host, delay)
    }
}

/// Returns how often a step that failed in this way is tried again, where the user wants `times`.
///
/// A transport that has tried again itself, and waited as it was asked to, gives an error without a
/// delay: then it is for the user to want more.
pub(crate) fn limit(error: &Error, times: u32) -> u32 {
    match (error.kind(), error.retry_after()) {
        (ErrorKind::Unavailable, Some(Duration::ZERO)) => times.max(INSTANT_TRIES),
        (ErrorKind::RateLimited, Some(_)) => times.max(RATE_LIMIT_TRIES),
        (kind, _) if kind.is_transient() => times,
        _ => 0,
    }
}

/// Sleeps, but wakes up when the operation is stopped.
fn sleep(host: &Host, delay: Duration) -> Result<()> {
    let end = Instant::now() + delay;
    loop {
        host.check_cancelled()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Silent;

    fn tries(kind: ErrorKind, times: u32) -> u32 {
        tries_of(times, || Error::new(kind, "no"))
    }

    fn tries_of(times: u32, error: impl Fn() -> Error) -> u32 {
        let host = Host::silent();
        let retry = Retry { times, delay: Some(Duration::ZERO), host: &host, progress: &Silent };
        let mut count = 0;
        let _ = retry.run("it", || -> Result<()> {
            count += 1;
            Err(error())
        });
        count
    }

    #[test]
    fn only_passing_failures_are_tried_again() {
        assert_eq!(tries(ErrorKind::Unavailable, 2), 3);
        assert_eq!(tries(ErrorKind::Unavailable, 0), 1);
        assert_eq!(tries(ErrorKind::RateLimited, 0), 1);
        assert_eq!(tries(ErrorKind::Denied, 9), 1);
        assert_eq!(tries(ErrorKind::Corrupt, 9), 1);
        assert_eq!(tries(ErrorKind::Cancelled, 9), 1);
    }

    #[test]
    fn a_storage_that_says_how_long_it_wants_to_be_left_alone_is_asked_again() {
        let soon =
            || Error::new(ErrorKind::RateLimited, "no").with_retry_after(Duration::from_millis(1));
        assert_eq!(tries_of(0, soon), 6);
        assert_eq!(tries_of(7, soon), 8);
    }

    #[test]
    fn a_transport_that_knows_another_way_gets_another_try_at_once() {
        let other_way =
            || Error::new(ErrorKind::Unavailable, "no").with_retry_after(Duration::ZERO);
        assert_eq!(tries_of(0, other_way), 3);
        assert_eq!(tries_of(4, other_way), 5);
    }
}
