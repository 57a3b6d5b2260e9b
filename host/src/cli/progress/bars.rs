//! Progress as bars on a terminal: one for each blob on its way, lines above for those that are
//! done.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diolkos_sdk::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{announcement, lines, role, warn_of_retry};
use crate::cli::console::Console;
use crate::copy::{Counter, Event, Progress};

/// How often bars are drawn.
const INTERVAL: Duration = Duration::from_millis(100);

/// Draws bars.
pub struct Bars {
    console: Arc<Console>,
    multi: MultiProgress,
    running: Arc<Mutex<HashMap<Digest, (ProgressBar, Counter)>>>,
    /// Its end stops the thread that moves the bars.
    _stop: Sender<()>,
}

impl Bars {
    /// Starts showing progress on stderr.
    pub fn new(console: Arc<Console>) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        console.set_bars(Some(multi.clone()));
        let running = Arc::<Mutex<HashMap<Digest, (ProgressBar, Counter)>>>::default();
        let (stop, stopped) = channel::<()>();
        let shared = running.clone();
        std::thread::spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                for (bar, counter) in shared.lock().unwrap_or_else(PoisonError::into_inner).values()
                {
                    bar.set_position(counter.get());
                }
            }
        });
        Self { console, multi, running, _stop: stop }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (ProgressBar, Counter)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn event(&self, event: &Event) {
        match event {
            Event::BlobStart { digest, size, role: blob, counter } => {
                let bar = match size {
                    Some(size) => ProgressBar::new(*size).with_style(style(KNOWN)),
                    None => ProgressBar::new_spinner().with_style(style(UNKNOWN)),
                };
                let bar = self.multi.add(bar);
                bar.set_prefix(format!("{} {}", role(*blob), digest.short()));
                // A step that is tried again begins the same blob again.
                if let Some((old, _)) =
                    self.running().insert(digest.clone(), (bar, counter.clone()))
                {
                    old.finish_and_clear();
                }
            }
            Event::BlobDone { digest, role, outcome } => {
                let done = self.running().remove(digest);
                let read = done.map(|(bar, counter)| {
                    bar.finish_and_clear();
                    counter.get()
                });
                self.console.line(&lines::done(digest, *role, *outcome, read));
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

impl Drop for Bars {
    fn drop(&mut self) {
        for (_, (bar, _)) in self.running().drain() {
            bar.finish_and_clear();
        }
        self.console.set_bars(None);
    }
}

const KNOWN: &str =
    "{prefix:22} [{bar:28}] {decimal_bytes:>10} / {decimal_total_bytes:10} {decimal_bytes_per_sec}";
const UNKNOWN: &str = "{prefix:22} {spinner} {decimal_bytes:>10} {decimal_bytes_per_sec}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("our templates are well-formed")
        .progress_chars("=> ")
}
