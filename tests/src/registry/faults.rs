//! Ways to fail that a test may ask for.

use std::time::Duration;

/// A failure of one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status and error code, and tells when to come back.
    Status {
        /// The HTTP status.
        status: u16,
        /// The error code in the body, such as `TOOMANYREQUESTS`.
        code: String,
        /// Seconds for `Retry-After`.
        retry_after: Option<u64>,
    },
    /// Closes the connection without an answer.
    Disconnect,
    /// Announces the whole body, sends this many bytes of it and closes the connection.
    CutAfter(usize),
    /// Changes the body's byte at this position.
    FlipByte(usize),
    /// Waits before answering as usual.
    Hang(Duration),
}

impl Fault {
    /// Makes the most common one: a status with a code.
    pub fn status(status: u16, code: &str) -> Self {
        Self::Status { status, code: code.to_owned(), retry_after: None }
    }
}

struct Rule {
    method: String,
    part: String,
    left: usize,
    fault: Fault,
}

/// The failures that were asked for and did not happen yet.
#[derive(Default)]
pub(super) struct Faults(Vec<Rule>);

impl Faults {
    pub(super) fn add(&mut self, method: &str, part: &str, times: usize, fault: Fault) {
        self.0.push(Rule { method: method.to_owned(), part: part.to_owned(), left: times, fault });
    }

    /// Takes the first one that fits a request.
    pub(super) fn take(&mut self, method: &str, path: &str) -> Option<Fault> {
        let rule = self
            .0
            .iter_mut()
            .find(|rule| rule.left > 0 && rule.method == method && path.contains(&rule.part))?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }
}
