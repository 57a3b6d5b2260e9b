//! The kit that judges a transport, through the traits that its author wrote.
//!
//! A transport's tests are one line, [`conformance!`](crate::conformance!): it makes a test of each
//! case, once with the transport linked into the test and once with the built library loaded as a
//! host loads it. `diolkos plugin check` runs the same cases on an installed library. Cases are
//! chosen by what the transport can do, [`Capabilities`]; what does not apply is named, never
//! passed over in silence.
//!
//! - [`Subject`]: the transport under test, and how references to scratch images are written.
//! - [`fn@cases`], [`run_case`], [`run`]: the cases, one of them, all of them.
//! - [`image`]: images made up for tests; [`drive`]: the least a host does to write and read them.
//! - [`faults`]: a transport around another one that fails where a test says.
//! - `library` (feature `load`): finds or builds the plugin library of the package under test.

#[macro_use]
mod bench;
mod cases;
pub mod drive;
pub mod faults;
mod generated;
pub mod image;
#[cfg(feature = "load")]
pub mod library;
mod macros;
mod subject;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bench::Bench;
pub use bench::Failure;
pub use cases::cases;
#[doc(hidden)]
pub use generated::{Recipe, check, find};
pub use subject::{Capabilities, Described, Need, Subject};

/// One claim about transports, and the code that tries to prove it wrong.
pub struct Case {
    /// The name, which is the claim: `a_dropped_writer_leaves_no_blob`.
    pub name: &'static str,
    /// What a transport must be able to do for the claim to mean anything.
    pub needs: &'static [Need],
    run: fn(&Bench<'_>) -> Result<(), Failure>,
}

impl Case {
    /// Returns the claim as a sentence.
    pub fn claim(&self) -> String {
        self.name.replace('_', " ")
    }

    /// Returns what the subject lacks for this case, `None` when the case applies.
    pub fn lacking(&self, subject: &Subject) -> Option<Need> {
        self.needs.iter().copied().find(|need| !subject.has(*need))
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim holds.
    Passed,
    /// The transport has not what the claim is about.
    DoesNotApply(Need),
    /// The claim does not hold.
    Failed(Failure),
}

/// Runs one case. A panic of the transport is a failure, too.
///
/// Returns `None` when there is no case of that name.
pub fn run_case(subject: &Subject, name: &str) -> Option<Verdict> {
    cases().iter().find(|case| case.name == name).map(|case| judge(subject, case))
}

/// Runs every case, in a fixed order.
pub fn run(subject: &Subject) -> Report {
    let verdicts = cases().iter().map(|case| (case.name, judge(subject, case))).collect();
    Report { subject: subject.label().to_owned(), verdicts }
}

fn judge(subject: &Subject, case: &Case) -> Verdict {
    if let Some(need) = case.lacking(subject) {
        return Verdict::DoesNotApply(need);
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let bench = Bench::new(subject)?;
        (case.run)(&bench)
    }));
    match outcome {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(failure)) => Verdict::Failed(failure),
        Err(payload) => {
            let message = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            Verdict::Failed(Failure::new(format!("panicked: {message}")))
        }
    }
}

/// How all cases ended for one subject; prints as a list.
#[derive(Clone, Debug)]
pub struct Report {
    /// The subject's label.
    pub subject: String,
    /// Each case with its verdict.
    pub verdicts: Vec<(&'static str, Verdict)>,
}

impl Report {
    /// Tells whether no case failed.
    pub fn is_ok(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Iterates over the cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &Failure)> {
        self.verdicts.iter().filter_map(|(name, verdict)| match verdict {
            Verdict::Failed(failure) => Some((*name, failure)),
            _ => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.subject)?;
        let mut counts = (0, 0, 0);
        for (name, verdict) in &self.verdicts {
            match verdict {
                Verdict::Passed => {
                    counts.0 += 1;
                    writeln!(f, "  ok      {name}")?;
                }
                Verdict::DoesNotApply(need) => {
                    counts.1 += 1;
                    writeln!(f, "  -       {name} (needs {need})")?;
                }
                Verdict::Failed(failure) => {
                    counts.2 += 1;
                    writeln!(f, "  FAILED  {name}: {failure}")?;
                }
            }
        }
        write!(f, "{} passed, {} do not apply, {} failed", counts.0, counts.1, counts.2)
    }
}
