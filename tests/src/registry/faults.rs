//! Ways to fail, or to be odd, that a test may ask for.

use std::time::Duration;

use super::Answer;
use crate::http::{Delivery, Intake};

/// What is different about one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers this.
    Answer(Answer),
    /// Closes the connection without an answer.
    Disconnect,
    /// Does what is asked and closes the connection without saying so.
    LoseAnswer,
    /// Waits before answering as usual.
    Hang(Duration),
    /// Announces the whole body, sends this many bytes of it and closes the connection.
    CutAfter(usize),
    /// Sends this many bytes of the body and then nothing, with the connection open.
    StallAfter(usize),
    /// Sends the body at so many bytes in a second.
    SlowAnswer(u64),
    /// Changes the body's byte at this position.
    FlipByte(usize),
    /// Announces this length in place of the true one, sends all and closes the connection.
    Announce(usize),
    /// Announces no length.
    Chunked,
    /// Answers with this header, in place of its own of that name.
    Header(String, String),
    /// Answers without this header.
    WithoutHeader(String),
    /// Asks for credentials with these header lines in place of its own. `{realm}` stands for the
    /// token service's address, `{scope}` for what the request needs.
    Challenges(Vec<String>),
    /// Sends the client to the same path of another host.
    Redirect(String),
    /// Gives the `Location` that it answers with as one on this host, with `http://`.
    LocationAt(String),
    /// Lets the tag that was asked for name another manifest as soon as it has answered.
    MoveTag(String),
    /// Sends a blob from its start, whatever range is asked for.
    IgnoreRange,
    /// Sends so many bytes of a range that is asked for at most, and says so.
    ShortPart(u64),
    /// Begins an upload where a mount is asked for.
    IgnoreMount,
    /// Reads this many bytes of the request's body and closes the connection. As with any body
    /// that breaks off, the upload keeps what arrived.
    CutBody(u64),
    /// Forgets the upload when the request's body breaks off.
    ForgetUpload,
    /// Reads the request's body at so many bytes in a second.
    SlowIntake(u64),
    /// Refuses bodies beyond this size as nginx does: 413, with a web page, before reading them.
    LimitBody(u64),
}

impl Fault {
    /// Makes the most common one: a status with a code.
    pub fn status(status: u16, code: &str) -> Self {
        Self::Answer(Answer::error(status, code))
    }

    /// Makes a header that lies.
    pub fn header(name: &str, value: impl Into<String>) -> Self {
        Self::Header(name.to_owned(), value.into())
    }

    /// Makes challenges of the given header lines.
    pub fn challenges(lines: &[&str]) -> Self {
        Self::Challenges(lines.iter().map(|line| (*line).to_owned()).collect())
    }
}

struct Rule {
    method: String,
    part: String,
    /// `None` is for ever.
    left: Option<usize>,
    fault: Fault,
}

impl Rule {
    fn fits(&self, method: &str, target: &[&str]) -> bool {
        (self.method.is_empty() || self.method == method)
            && target.iter().any(|form| form.contains(&self.part))
    }
}

/// The failures that were asked for and did not happen yet, and the habits that last.
#[derive(Default)]
pub(super) struct Faults(Vec<Rule>);

impl Faults {
    pub(super) fn add(&mut self, method: &str, part: &str, times: Option<usize>, fault: Fault) {
        self.0.push(Rule { method: method.to_owned(), part: part.to_owned(), left: times, fault });
    }

    /// Makes the plan for a request: all habits that fit, and the first of the failures.
    ///
    /// `target` is the same in several forms.
    pub(super) fn plan(&mut self, method: &str, target: &[&str]) -> Plan {
        let mut plan = Plan::default();
        let mut failed = false;
        for rule in self.0.iter_mut().filter(|rule| rule.fits(method, target)) {
            match &mut rule.left {
                None => {}
                Some(0) => continue,
                Some(_) if failed => continue,
                Some(left) => {
                    *left -= 1;
                    failed = true;
                }
            }
            plan.add(rule.fault.clone());
        }
        plan
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// How one request is treated.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) answer: Option<Answer>,
    pub(super) disconnect: bool,
    pub(super) lose_answer: bool,
    pub(super) delay: Option<Duration>,
    pub(super) delivery: Delivery,
    pub(super) intake: Intake,
    pub(super) flip: Option<usize>,
    /// Headers to set, or to leave out.
    pub(super) headers: Vec<(String, Option<String>)>,
    pub(super) challenges: Option<Vec<String>>,
    pub(super) redirect: Option<String>,
    pub(super) location_at: Option<String>,
    pub(super) move_tag: Option<String>,
    pub(super) ignore_range: bool,
    pub(super) short_part: Option<u64>,
    pub(super) ignore_mount: bool,
    pub(super) forget_upload: bool,
}

impl Plan {
    fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Answer(answer) => self.answer = Some(answer),
            Fault::Disconnect => self.disconnect = true,
            Fault::LoseAnswer => self.lose_answer = true,
            Fault::Hang(time) => self.delay = Some(time),
            Fault::CutAfter(bytes) => self.delivery.cut = Some(bytes),
            Fault::StallAfter(bytes) => self.delivery.stall = Some(bytes),
            Fault::SlowAnswer(rate) => self.delivery.pace = Some(rate),
            Fault::FlipByte(at) => self.flip = Some(at),
            Fault::Announce(length) => self.delivery.announce = Some(length),
            Fault::Chunked => self.delivery.chunked = true,
            Fault::Header(name, value) => self.headers.push((name, Some(value))),
            Fault::WithoutHeader(name) => self.headers.push((name, None)),
            Fault::Challenges(lines) => self.challenges = Some(lines),
            Fault::Redirect(host) => self.redirect = Some(host),
            Fault::LocationAt(host) => self.location_at = Some(host),
            Fault::MoveTag(digest) => self.move_tag = Some(digest),
            Fault::IgnoreRange => self.ignore_range = true,
            Fault::ShortPart(bytes) => self.short_part = Some(bytes),
            Fault::IgnoreMount => self.ignore_mount = true,
            Fault::CutBody(bytes) => self.intake.stop_after = Some(bytes),
            Fault::ForgetUpload => self.forget_upload = true,
            Fault::SlowIntake(rate) => self.intake.pace = Some(rate),
            Fault::LimitBody(bytes) => self.intake.limit = Some(bytes),
        }
    }
}
