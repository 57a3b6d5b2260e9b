//! Trying again, for commands whose work is a single request; copies do so step by step within the
//! engine.

use std::time::Duration;

use clap::ArgMatches;
use diolkos_sdk::Result;

use super::context::Context;
use super::flags::one;
use super::values::format_duration;
use crate::copy::retry::limit;

/// How often and how fast to try again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// How often, after the first try.
    pub times: u32,
    /// The delay before each; `None` doubles from one second.
    pub delay: Option<Duration>,
}

impl Retry {
    /// Reads `--retry-times` and `--retry-delay`.
    pub fn read(matches: &ArgMatches) -> Self {
        Self {
            times: retry_times(matches),
            delay: one::<Duration>(matches, "retry-delay").filter(|delay| !delay.is_zero()),
        }
    }

    /// Runs `operation` until it succeeds, fails for good, or has failed too often.
    pub fn run<T>(self, context: &Context, mut operation: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let (error, most) = match operation() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let most = limit(&error, self.times);
                    if tries >= most {
                        return Err(error);
                    }
                    (error, most)
                }
            };
            let delay = error.retry_after().unwrap_or_else(|| self.delay(tries));
            tries += 1;
            context.console.warn(&format!(
                "Failed, retrying in {} ... ({tries}/{most}). Error: {}",
                format_duration(delay),
                error.chain().join(": ")
            ));
            if !context.cancellation.sleep(delay) {
                return Err(error);
            }
        }
    }

    fn delay(self, tries: u32) -> Duration {
        self.delay.unwrap_or_else(|| Duration::from_secs(1 << tries.min(10)))
    }
}

/// Reads `--retry-times`; as in skopeo, a negative number is none.
pub fn retry_times(matches: &ArgMatches) -> u32 {
    let times = one::<i64>(matches, "retry-times").unwrap_or(0).max(0);
    u32::try_from(times).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_passing_failures_are_tried_again() {
        let limit = |kind| limit(&Error::new(kind, "no"), 2);
        assert_eq!(limit(ErrorKind::Unavailable), 2);
        assert_eq!(limit(ErrorKind::RateLimited), 2);
        assert_eq!(limit(ErrorKind::ImageNotFound), 0);
    }

    #[test]
    fn delays_double_from_one_second_unless_given() {
        let retry = Retry { times: 9, delay: None };
        assert_eq!([0, 1, 2, 3].map(|tries| retry.delay(tries).as_secs()), [1, 2, 4, 8]);
        let retry = Retry { times: 9, delay: Some(Duration::from_millis(5)) };
        assert_eq!(retry.delay(7), Duration::from_millis(5));
    }
}
