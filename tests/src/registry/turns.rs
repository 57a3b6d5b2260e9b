//! One request at a time for each upload.
//!
//! A client whose connection broke asks on the next one how far it got. What arrived on the first
//! must be counted by then, or tests would depend on which of two threads is faster.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::lock;

/// A connection that only looks dead holds its upload no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// The uploads that a request is being read for.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

/// Ends the turn when it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    path: Option<String>,
}

impl Turns {
    /// Waits until nobody else is at a path; only those of uploads are ever taken.
    pub(super) fn take(&self, path: &str) -> Turn<'_> {
        let id = path.split_once("/blobs/uploads/").map_or("", |(_, id)| id);
        if id.is_empty() {
            return Turn { turns: self, path: None };
        }
        let taken = lock(&self.taken);
        let wait = self.changed.wait_timeout_while(taken, PATIENCE, |taken| taken.contains(path));
        if let Ok((mut taken, _)) = wait {
            taken.insert(path.to_owned());
        }
        Turn { turns: self, path: Some(path.to_owned()) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            lock(&self.turns.taken).remove(path);
            self.turns.changed.notify_all();
        }
    }
}
