//! Progress as JSON objects on stderr, one a line, for programs.
//!
//! Every object has `event`; the names and fields here are stable, and more may come:
//!
//! | `event` | other fields |
//! |---|---|
//! | `signatures` | `step` (`read`, `check`, `store`), `of_index` |
//! | `index` | `instances`, `selected` |
//! | `image` | `digest`, `platform` or null, `number`, `total` |
//! | `selected` | `platform`, `available` |
//! | `blob-start` | `digest`, `role` (`config`, `layer`), `layer` (from 0) or null, `size` or null |
//! | `blob-progress` | `digest`, `bytes`, `size` or null; once a second for each blob |
//! | `blob-done` | `digest`, `role`, `layer`, `outcome` (`copied`, `reused`, `foreign`), `written` or null |
//! | `retry` | `what`, `why`, `delay_seconds` |
//! | `manifest` | `digest`, `top_level` |
//! | `done` | `digest` |
//! | `warning`, `info`, `debug` | `message` |
//! | `error` | `messages`, outermost first, `hint` or null, `exit_code` |

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diolkos_sdk::{BlobRole, Digest};
use serde_json::{Value, json};

use crate::cli::console::Console;
use crate::copy::{BlobOutcome, Counter, Event, Progress, SignatureStep};

/// How often a blob's bytes are told.
const INTERVAL: Duration = Duration::from_secs(1);

type Running = HashMap<Digest, (Option<u64>, Counter)>;

/// Writes events.
pub struct Json {
    console: Arc<Console>,
    running: Arc<Mutex<Running>>,
    /// Its end stops the thread that tells the bytes.
    _stop: Sender<()>,
}

impl Json {
    /// Starts writing events; warnings and errors become events too.
    pub fn new(console: Arc<Console>) -> Self {
        console.use_json();
        let running = Arc::<Mutex<Running>>::default();
        let (stop, stopped) = channel::<()>();
        let shared = (running.clone(), console.clone());
        std::thread::spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let (running, console) = &shared;
                for (digest, (size, counter)) in
                    running.lock().unwrap_or_else(PoisonError::into_inner).iter()
                {
                    let event = json!({
                        "event": "blob-progress",
                        "digest": digest,
                        "bytes": counter.get(),
                        "size": size,
                    });
                    console.line(&event.to_string());
                }
            }
        });
        Self { console, running, _stop: stop }
    }
}

impl Progress for Json {
    fn event(&self, event: &Event) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::BlobStart { digest, size, counter, .. } => {
                running.insert(digest.clone(), (*size, counter.clone()));
            }
            Event::BlobDone { digest, .. } => {
                running.remove(digest);
            }
            _ => {}
        }
        self.console.line(&object(event).to_string());
    }
}

fn object(event: &Event) -> Value {
    match event {
        Event::Signatures { step, of_index } => {
            let step = match step {
                SignatureStep::Read => "read",
                SignatureStep::Check => "check",
                SignatureStep::Store => "store",
            };
            json!({ "event": "signatures", "step": step, "of_index": of_index })
        }
        Event::Index { instances, selected } => {
            json!({ "event": "index", "instances": instances, "selected": selected })
        }
        Event::Image { digest, platform, number, total } => json!({
            "event": "image", "digest": digest, "platform": platform,
            "number": number, "total": total,
        }),
        Event::Selected { platform, available } => {
            json!({ "event": "selected", "platform": platform, "available": available })
        }
        Event::BlobStart { digest, size, role, .. } => json!({
            "event": "blob-start", "digest": digest, "role": word(*role), "layer": layer(*role),
            "size": size,
        }),
        Event::BlobDone { digest, role, outcome } => {
            let (outcome, written) = match outcome {
                BlobOutcome::Copied { written } => ("copied", Some(written)),
                BlobOutcome::Reused => ("reused", None),
                BlobOutcome::Foreign => ("foreign", None),
            };
            json!({
                "event": "blob-done", "digest": digest, "role": word(*role),
                "layer": layer(*role), "outcome": outcome, "written": written,
            })
        }
        Event::Retry { what, why, delay } => json!({
            "event": "retry", "what": what, "why": why, "delay_seconds": delay.as_secs_f64(),
        }),
        Event::Manifest { digest, top_level } => {
            json!({ "event": "manifest", "digest": digest, "top_level": top_level })
        }
        Event::Done { digest } => json!({ "event": "done", "digest": digest }),
    }
}

fn word(role: BlobRole) -> &'static str {
    match role {
        BlobRole::Config => "config",
        BlobRole::Layer(_) => "layer",
    }
}

fn layer(role: BlobRole) -> Option<u32> {
    match role {
        BlobRole::Config => None,
        BlobRole::Layer(index) => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_names_and_fields() {
        let digest: Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        let event = Event::BlobDone {
            digest: digest.clone(),
            role: BlobRole::Layer(1),
            outcome: BlobOutcome::Copied { written: 7 },
        };
        assert_eq!(
            object(&event),
            json!({
                "event": "blob-done", "digest": digest.as_str(), "role": "layer", "layer": 1,
                "outcome": "copied", "written": 7,
            })
        );
        let event =
            Event::Retry { what: "w".into(), why: "y".into(), delay: Duration::from_millis(1500) };
        assert_eq!(object(&event)["delay_seconds"], json!(1.5));
    }
}
