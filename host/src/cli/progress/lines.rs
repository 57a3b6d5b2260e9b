//! Progress as plain lines on stderr, for logs: one for each blob that is done, and a sum every
//! half minute in between.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diolkos_sdk::Digest;

use super::{announcement, role, warn_of_retry};
use crate::cli::console::Console;
use crate::copy::{BlobOutcome, Counter, Event, Progress, bytes};

/// How often the sum is shown while blobs are on their way.
const INTERVAL: Duration = Duration::from_secs(30);

/// Writes lines.
pub struct Lines {
    console: Arc<Console>,
    running: Arc<Mutex<HashMap<Digest, Running>>>,
    /// Its end stops the thread that shows the sum.
    _stop: Sender<()>,
}

struct Running {
    size: Option<u64>,
    counter: Counter,
}

impl Lines {
    /// Starts showing progress.
    pub fn new(console: Arc<Console>) -> Self {
        let running = Arc::<Mutex<HashMap<Digest, Running>>>::default();
        let (stop, stopped) = channel::<()>();
        let shared = (running.clone(), console.clone());
        std::thread::spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let (running, console) = &shared;
                let sum = sum(&running.lock().unwrap_or_else(PoisonError::into_inner));
                if let Some(sum) = sum {
                    console.line(&sum);
                }
            }
        });
        Self { console, running, _stop: stop }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Lines {
    fn event(&self, event: &Event) {
        match event {
            Event::BlobStart { digest, size, counter, .. } => {
                let running = Running { size: *size, counter: counter.clone() };
                self.running().insert(digest.clone(), running);
            }
            Event::BlobDone { digest, role, outcome } => {
                let read = self.running().remove(digest).map(|running| running.counter.get());
                self.console.line(&done(digest, *role, *outcome, read));
            }
            Event::Retry { .. } => warn_of_retry(&self.console, event),
            event => {
                if let Some(line) = announcement(event) {
                    self.console.line(&line);
                }
            }
        }
    }
}

/// Describes a blob that is done; `read` is how many of the source's bytes passed.
pub(super) fn done(
    digest: &Digest,
    blob: diolkos_sdk::BlobRole,
    outcome: BlobOutcome,
    read: Option<u64>,
) -> String {
    let how = match (outcome, read) {
        (BlobOutcome::Copied { written }, Some(read)) if read != written && read > 0 => {
            format!("copied, {} as {}", bytes(read), bytes(written))
        }
        (BlobOutcome::Copied { written }, _) => format!("copied, {}", bytes(written)),
        (BlobOutcome::Reused, _) => "already there".to_owned(),
        (BlobOutcome::Foreign, _) => "stays where it is".to_owned(),
    };
    format!("{} {}: {how}", role(blob), digest.short())
}

fn sum(running: &HashMap<Digest, Running>) -> Option<String> {
    if running.is_empty() {
        return None;
    }
    let copied = running.values().map(|it| it.counter.get()).sum();
    // What manifests claim may be any number.
    let whole = running.values().try_fold(0, |sum: u64, it| Some(sum.saturating_add(it.size?)));
    let of = whole.map_or(String::new(), |size| format!(" of {}", bytes(size)));
    let count = running.len();
    let blobs = if count == 1 { "blob" } else { "blobs" };
    Some(format!("copying {count} {blobs}: {}{of}", bytes(copied)))
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::BlobRole;

    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    #[test]
    fn a_blob_is_one_line_that_says_what_became_of_it() {
        let line = |outcome, read| done(&digest(), BlobRole::Layer(2), outcome, read);
        let copied = BlobOutcome::Copied { written: 1_500_000 };
        assert_eq!(line(copied, Some(1_500_000)), "layer 3 abababababab: copied, 1.5 MB");
        assert_eq!(line(copied, Some(9_000_000)), "layer 3 abababababab: copied, 9.0 MB as 1.5 MB");
        assert_eq!(line(BlobOutcome::Reused, None), "layer 3 abababababab: already there");
    }

    #[test]
    fn the_sum_counts_what_is_on_its_way() {
        assert_eq!(sum(&HashMap::new()), None);
        let running = Running { size: Some(2_000_000), counter: Counter::default() };
        let running = HashMap::from([(digest(), running)]);
        assert_eq!(sum(&running).unwrap(), "copying 1 blob: 0 B of 2.0 MB");
    }
}
