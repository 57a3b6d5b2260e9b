//! How a command is stopped: by Ctrl-C, SIGTERM, or its time limit.
//!
//! The first signal sets a flag that every long operation asks for at least once a second; they
//! then clean up and the command ends with its error and exit code 1. A second signal ends the
//! program at once, and so does an operation that does not listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use diolkos_sdk::{Error, ErrorKind};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::console::{Console, Personality, exit_code};
use crate::levels;

/// How long a stopped command may take to clean up.
const GRACE: Duration = Duration::from_secs(2);

/// Why a command was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// `--command-timeout` is over.
    Timeout,
}

/// Tells whether the command was stopped; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<AtomicU8>);

impl Cancellation {
    /// Stops the command, unless it is stopped already.
    pub fn stop(&self, why: Stop) {
        let code = match why {
            Stop::Interrupt => 1,
            Stop::Terminate => 2,
            Stop::Timeout => 3,
        };
        let _ = self.0.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Tells whether and why the command was stopped.
    pub fn why(&self) -> Option<Stop> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Stop::Interrupt),
            2 => Some(Stop::Terminate),
            3 => Some(Stop::Timeout),
            _ => None,
        }
    }

    /// Waits, in short steps, and tells whether the whole time has passed without a stop.
    pub fn sleep(&self, duration: Duration) -> bool {
        let end = Instant::now() + duration;
        loop {
            if self.why().is_some() {
                return false;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Adds the reason to the error of a command that was stopped.
    pub fn explain(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Cancelled {
            return error;
        }
        let reason = match self.why() {
            None => return error,
            Some(Stop::Interrupt) => "interrupted",
            Some(Stop::Terminate) => "terminated",
            Some(Stop::Timeout) => "context deadline exceeded",
        };
        let hint =
            (self.why() == Some(Stop::Timeout)).then_some("allow more time with --command-timeout");
        let mut messages = error.chain();
        messages.push(reason.to_owned());
        levels::error(error.kind(), messages, hint)
    }
}

/// Watches for signals and the time limit from now on.
pub fn watch(cancellation: &Cancellation, console: &Arc<Console>, timeout: Option<Duration>) {
    // With SIGXFSZ caught, a write beyond a limit on file sizes fails, and does not kill.
    match Signals::new([SIGINT, SIGTERM, SIGXFSZ]) {
        Ok(signals) => {
            let (cancellation, console) = (cancellation.clone(), console.clone());
            std::thread::spawn(move || watch_signals(signals, &cancellation, &console));
        }
        Err(error) => console.debug(&format!("cannot watch for signals: {error}")),
    }
    if let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) {
        let (cancellation, console) = (cancellation.clone(), console.clone());
        std::thread::spawn(move || {
            std::thread::sleep(timeout);
            cancellation.stop(Stop::Timeout);
            leave_after_grace(&cancellation, &console);
        });
    }
}

fn watch_signals(mut signals: Signals, cancellation: &Cancellation, console: &Arc<Console>) {
    for signal in signals.forever() {
        if signal == SIGXFSZ {
            continue;
        }
        if cancellation.why().is_some() {
            leave(cancellation, console);
        }
        let interrupt = signal == SIGINT;
        cancellation.stop(if interrupt { Stop::Interrupt } else { Stop::Terminate });
        if interrupt && console.personality() == Personality::Diolkos && console.is_terminal() {
            console.line("stopping; press Ctrl-C again to end at once");
        }
        let (cancellation, console) = (cancellation.clone(), console.clone());
        std::thread::spawn(move || leave_after_grace(&cancellation, &console));
    }
}

fn leave_after_grace(cancellation: &Cancellation, console: &Console) {
    std::thread::sleep(GRACE);
    leave(cancellation, console);
}

/// Ends the program without waiting for whoever does not listen.
fn leave(cancellation: &Cancellation, console: &Console) -> ! {
    console.set_bars(None);
    let error = Error::new(ErrorKind::Cancelled, "the operation was stopped");
    console.error(&cancellation.explain(error));
    std::process::exit(exit_code(ErrorKind::Cancelled).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_wait_ends_early_and_the_first_reason_counts() {
        let cancellation = Cancellation::default();
        assert!(cancellation.sleep(Duration::from_millis(1)));
        cancellation.stop(Stop::Timeout);
        cancellation.stop(Stop::Interrupt);
        let begun = Instant::now();
        assert!(!cancellation.sleep(Duration::from_secs(10)));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(cancellation.why(), Some(Stop::Timeout));
    }

    #[test]
    fn the_error_of_a_stopped_command_ends_with_the_reason() {
        let cancellation = Cancellation::default();
        cancellation.stop(Stop::Timeout);
        let error =
            Error::new(ErrorKind::Cancelled, "the operation was stopped").context("reading");
        let error = cancellation.explain(error);
        assert_eq!(
            error.chain(),
            ["reading", "the operation was stopped", "context deadline exceeded"]
        );
        let other = Error::new(ErrorKind::Io, "disk full");
        assert_eq!(cancellation.explain(other).chain(), ["disk full"]);
    }
}
