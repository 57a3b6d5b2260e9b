//! Progress in skopeo's own lines, on stdout, which scripts compare.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use diolkos_sdk::{BlobRole, Digest};

use super::warn_of_retry;
use crate::cli::console::Console;
use crate::copy::{BlobOutcome, Event, Progress, SignatureStep};

/// Writes skopeo's lines.
pub struct Skopeo {
    console: Arc<Console>,
    state: Mutex<State>,
}

/// What was shown so far.
#[derive(Default)]
struct State {
    /// Whether several images are copied with their index.
    list: bool,
    /// The blobs of the current image that have their line.
    shown: HashSet<Digest>,
    /// The current image's config, whose line comes after those of all layers.
    config: Option<Digest>,
}

impl Skopeo {
    /// Starts showing progress.
    pub fn new(console: Arc<Console>) -> Self {
        Self { console, state: Mutex::default() }
    }
}

impl Progress for Skopeo {
    fn event(&self, event: &Event) {
        warn_of_retry(&self.console, event);
        // The lock also keeps lines of several threads in the order in which they were decided.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = state.lines(event);
        if !lines.is_empty() {
            let text = lines.join("\n") + "\n";
            // A copy goes on when nobody reads its progress any more.
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        }
    }
}

impl State {
    fn lines(&mut self, event: &Event) -> Vec<String> {
        match event {
            Event::Signatures { step, of_index } => {
                let line = match (step, of_index) {
                    (SignatureStep::Read, false) => "Getting image source signatures",
                    (SignatureStep::Read, true) => "Getting image list signatures",
                    (SignatureStep::Check, false) => {
                        "Checking if image destination supports signatures"
                    }
                    (SignatureStep::Check, true) => {
                        "Checking if image list destination supports signatures"
                    }
                    (SignatureStep::Store, false) => "Storing signatures",
                    // That line comes with every index, signed or not.
                    (SignatureStep::Store, true) => return Vec::new(),
                };
                vec![line.into()]
            }
            Event::Index { instances, selected } => {
                self.list = true;
                vec![format!("Copying {selected} images generated from {instances} images in list")]
            }
            Event::Image { digest, number, total, .. } => {
                self.shown.clear();
                self.config = None;
                if self.list {
                    vec![format!("Copying image {digest} ({number}/{total})")]
                } else {
                    Vec::new()
                }
            }
            Event::BlobStart { digest, role, .. }
            | Event::BlobDone {
                digest,
                role,
                outcome: BlobOutcome::Copied { .. } | BlobOutcome::Reused,
            } => {
                if !self.shown.insert(digest.clone()) {
                    return Vec::new();
                }
                match role {
                    BlobRole::Config => {
                        self.config = Some(digest.clone());
                        Vec::new()
                    }
                    BlobRole::Layer(_) => vec![format!("Copying blob {digest}")],
                }
            }
            Event::Manifest { top_level: true, .. } if self.list => {
                vec![
                    "Writing manifest list to image destination".into(),
                    "Storing list signatures".into(),
                ]
            }
            Event::Manifest { .. } => {
                let config = self.config.take();
                let mut lines: Vec<_> =
                    config.iter().map(|config| format!("Copying config {config}")).collect();
                lines.push("Writing manifest to image destination".into());
                lines
            }
            Event::Selected { .. }
            | Event::BlobDone { outcome: BlobOutcome::Foreign, .. }
            | Event::Retry { .. }
            | Event::Done { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Counter;

    fn digest(byte: &str) -> Digest {
        format!("sha256:{}", byte.repeat(32)).parse().unwrap()
    }

    fn image(byte: &str, number: usize, total: usize) -> Event {
        Event::Image { digest: digest(byte), platform: None, number, total }
    }

    fn blobs() -> Vec<Event> {
        vec![
            Event::BlobStart {
                digest: digest("aa"),
                size: None,
                role: BlobRole::Layer(0),
                counter: Counter::default(),
            },
            Event::BlobDone {
                digest: digest("aa"),
                role: BlobRole::Layer(0),
                outcome: BlobOutcome::Copied { written: 1 },
            },
            Event::BlobDone {
                digest: digest("bb"),
                role: BlobRole::Layer(1),
                outcome: BlobOutcome::Reused,
            },
            Event::BlobDone {
                digest: digest("cc"),
                role: BlobRole::Config,
                outcome: BlobOutcome::Reused,
            },
        ]
    }

    fn read(of_index: bool) -> Event {
        Event::Signatures { step: SignatureStep::Read, of_index }
    }

    fn lines(events: Vec<Event>) -> Vec<String> {
        let mut state = State::default();
        let lines = events.iter().flat_map(|event| state.lines(event));
        // Digests in tests are one byte repeated.
        lines.map(|line| line.replace("sha256:", "").replace(&"ab".repeat(32), "ab")).collect()
    }

    #[test]
    fn a_single_image_has_skopeos_lines() {
        let mut events = vec![image("dd", 1, 1), read(false)];
        events.extend(blobs());
        events.push(Event::Manifest { digest: digest("dd"), top_level: true });
        events.push(Event::Done { digest: digest("dd") });
        let expected = [
            "Getting image source signatures".to_owned(),
            format!("Copying blob {}", "aa".repeat(32)),
            format!("Copying blob {}", "bb".repeat(32)),
            format!("Copying config {}", "cc".repeat(32)),
            "Writing manifest to image destination".to_owned(),
        ];
        assert_eq!(lines(events), expected);
    }

    #[test]
    fn the_config_comes_after_all_layers_whichever_was_first() {
        let mut events = blobs();
        events.reverse();
        events.push(Event::Manifest { digest: digest("dd"), top_level: true });
        let lines = lines(events);
        assert_eq!(lines[2], format!("Copying config {}", "cc".repeat(32)));
        assert_eq!(lines[3], "Writing manifest to image destination");
    }

    #[test]
    fn a_list_has_lines_around_those_of_its_images() {
        let events = vec![
            read(true),
            Event::Index { instances: 3, selected: 2 },
            image("ab", 1, 2),
            read(false),
            Event::Manifest { digest: digest("ab"), top_level: false },
            image("ab", 2, 2),
            read(false),
            Event::Manifest { digest: digest("ab"), top_level: false },
            Event::Manifest { digest: digest("ab"), top_level: true },
        ];
        assert_eq!(
            lines(events),
            [
                "Getting image list signatures",
                "Copying 2 images generated from 3 images in list",
                "Copying image ab (1/2)",
                "Getting image source signatures",
                "Writing manifest to image destination",
                "Copying image ab (2/2)",
                "Getting image source signatures",
                "Writing manifest to image destination",
                "Writing manifest list to image destination",
                "Storing list signatures",
            ]
        );
    }
}
