//! Waiting for hosts that want it, and how often a request is worth repeating.
//!
//! There is one [`Gate`] for each host in the process, whoever talks to it: when a host asks one
//! transfer to wait, all of them wait, and they come back spread over a little time. A host has a
//! budget of repeated requests that successes refill, so that one that is down is not flooded.
//!
//! # Source
//! RFC 9110, section 10.2.3 (`Retry-After`); RFC 6585, section 4.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A host that asks for a longer pause is told to the user, who may have better things to do.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// How often a request is repeated when its host limits requests.
const LIMITED_TRIES: u32 = 5;
/// The first pause for a host that limits requests and does not say for how long.
const LIMITED_DELAY: Duration = Duration::from_secs(1);
/// How often a request is repeated after a passing failure.
const FAILED_TRIES: u32 = 3;
/// The first pause after a passing failure; each further one is three times as long.
const FAILED_DELAY: Duration = Duration::from_millis(300);
/// How often a request is repeated that was not answered for a long time.
const SILENT_TRIES: u32 = 1;

/// Repeated requests that a host is good for at once.
const BUDGET: f64 = 30.0;
/// What a successful request adds to them.
const REFILL: f64 = 0.2;

/// Why a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The host limits requests, or is busy and says until when.
    Limited(Option<Duration>),
    /// It failed, or the connection broke.
    Failed,
    /// No answer came within the time that one may take.
    Silent,
}

impl Why {
    fn tries(self) -> u32 {
        match self {
            Self::Limited(_) => LIMITED_TRIES,
            Self::Failed => FAILED_TRIES,
            Self::Silent => SILENT_TRIES,
        }
    }

    /// Returns the pause before the next try, after `tries` of them; without what it is spread by.
    fn delay(self, tries: u32) -> Duration {
        match self {
            Self::Limited(Some(asked)) => asked,
            Self::Limited(None) => LIMITED_DELAY * (1 << tries.min(5)),
            Self::Failed | Self::Silent => FAILED_DELAY * 3u32.pow(tries.min(4)),
        }
    }
}

/// What is known of a host's wish to be left alone.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Until when nobody may ask, and how long that was when it was said.
    closed: Option<(Instant, Duration)>,
    budget: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { state: Mutex::new(State { closed: None, budget: BUDGET }) }
    }
}

impl Gate {
    /// Returns the gate of a host, given with its port.
    pub fn of(authority: &str) -> Arc<Self> {
        static GATES: OnceLock<Mutex<HashMap<String, Arc<Gate>>>> = OnceLock::new();
        let gates = GATES.get_or_init(Mutex::default);
        let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.entry(authority.to_owned()).or_default().clone()
    }

    /// Waits until requests may pass.
    pub async fn pass(&self) {
        while let Some(pause) = self.pause(Instant::now()) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns how long a request has to wait; each gets a little more of its own, so that those
    /// who wait do not come back all at once.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        let (until, length) = state.closed?;
        if until <= now {
            state.closed = None;
            return None;
        }
        Some(until - now + spread(length.min(Duration::from_secs(4)), 0.0, 0.25))
    }

    /// Notes that a request was answered.
    pub fn succeeded(&self) {
        let mut state = self.state();
        state.budget = (state.budget + REFILL).min(BUDGET);
    }

    /// Notes that a host limits requests, for all others; the one that heard of it is not repeated.
    pub fn close_for(&self, why: Why, tries: u32) {
        let delay = why.delay(tries);
        if matches!(why, Why::Limited(_)) && delay <= LONGEST_PAUSE {
            let mut state = self.state();
            let until = Instant::now() + delay;
            if state.closed.is_none_or(|(known, _)| known < until) {
                state.closed = Some((until, delay));
            }
        }
    }

    /// Decides whether a request that failed is repeated, and after which pause: `None` when it was
    /// tried often enough, the pause would be too long, or the host's budget is spent.
    ///
    /// A host that limits requests is closed for all others too.
    pub fn again(&self, why: Why, tries: u32) -> Option<Duration> {
        self.close_for(why, tries);
        let delay = why.delay(tries);
        let mut state = self.state();
        if tries >= why.tries() || delay > LONGEST_PAUSE || state.budget < 1.0 {
            return None;
        }
        state.budget -= 1.0;
        drop(state);
        Some(match why {
            // The gate itself spreads them.
            Why::Limited(_) => delay,
            Why::Failed | Why::Silent => spread(delay, 0.5, 1.5),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the pause before a step is tried again that broke off `tries` times before.
pub(crate) fn backoff(tries: u32) -> Duration {
    spread(Why::Failed.delay(tries), 0.5, 1.5)
}

/// Returns a random part of a duration, between the two factors.
fn spread(duration: Duration, least: f64, most: f64) -> Duration {
    // Each state hashes with keys of its own: random enough to keep requests apart.
    let number = RandomState::new().hash_one(0u8) >> 11;
    let part = number as f64 / (1u64 << 53) as f64;
    duration.mul_f64(least + (most - least) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_who_is_asked_to_wait_closes_the_gate_for_all() {
        let gate = Gate::default();
        assert_eq!(gate.pause(Instant::now()), None);
        assert_eq!(gate.again(Why::Limited(Some(7 * SECOND)), 0), Some(7 * SECOND));
        let now = Instant::now();
        let pause = gate.pause(now).unwrap();
        assert!((6 * SECOND..9 * SECOND).contains(&pause), "{pause:?}");
        // A shorter wish of another request does not open it earlier.
        gate.again(Why::Limited(Some(SECOND)), 0);
        assert!(gate.pause(now).unwrap() > 6 * SECOND);
        assert_eq!(gate.pause(now + 8 * SECOND), None);
    }

    #[test]
    fn a_failure_of_one_request_holds_nobody_else_back() {
        let gate = Gate::default();
        assert!(gate.again(Why::Failed, 0).is_some());
        assert_eq!(gate.pause(Instant::now()), None);
    }

    #[test]
    fn pauses_grow_and_end() {
        let gate = Gate::default();
        for (tries, least, most) in [(0, 150, 450), (1, 450, 1350), (2, 1350, 4050)] {
            let pause = gate.again(Why::Failed, tries).unwrap();
            assert!((least..=most).contains(&pause.as_millis()), "{tries}: {pause:?}");
        }
        assert_eq!(gate.again(Why::Failed, 3), None);
        assert_eq!(gate.again(Why::Silent, 1), None);
        let limited = |tries| gate.again(Why::Limited(None), tries).map(|pause| pause.as_secs());
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(limited),
            [1, 2, 4, 8, 16].map(Some).into_iter().chain([None]).collect::<Vec<_>>()[..]
        );
    }

    #[test]
    fn a_wish_to_be_left_alone_for_hours_ends_the_request() {
        let gate = Gate::default();
        assert_eq!(gate.again(Why::Limited(Some(LONGEST_PAUSE + SECOND)), 0), None);
        assert_eq!(gate.pause(Instant::now()), None, "nobody waits for that");
    }

    #[test]
    fn a_host_that_is_down_is_not_flooded_and_successes_count() {
        let gate = Gate::default();
        let repeated = (0..1000).filter(|_| gate.again(Why::Failed, 0).is_some()).count();
        assert_eq!(repeated, 30);
        for _ in 0..12 {
            gate.succeeded();
        }
        assert!(gate.again(Why::Failed, 0).is_some() && gate.again(Why::Failed, 0).is_some());
        assert!(gate.again(Why::Failed, 0).is_none());
    }
}
