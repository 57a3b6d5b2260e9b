//! How many connections the large blobs of a registry are worth.
//!
//! One connection carries a blob as fast as the network does, most of the time. Where a server
//! gives each connection its share, or a far network fills none of them, several bring more. Which
//! it is shows in trying: while readers wait for bytes, the number is doubled, kept where the rate
//! of all connections together grew with it, and taken back where it did not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most connections for the large blobs of one registry.
const MOST: usize = 6;
/// Bytes that all blobs of the process may be read ahead by in parts.
const AHEAD: u64 = 12 << 20;
/// The least size of a part.
const LEAST_PART: u64 = 1 << 20;
/// Bytes that one permit for memory stands for.
const PERMIT: u64 = 4096;

/// Over how much time, and over how many bytes, a rate is measured.
const WINDOW: Duration = Duration::from_millis(500);
const WINDOW_BYTES: u64 = 2 << 20;
/// When a rate is measured although few bytes came.
const LONG_WINDOW: Duration = Duration::from_secs(5);
/// Bytes in a second from which on one connection is good enough.
const FAST: f64 = 200e6;
/// What twice the connections must bring to be worth it.
const GAIN: f64 = 1.25;
/// For how long nothing is tried after it brought nothing.
const REST: Duration = Duration::from_secs(60);

/// The connections that large blobs of one registry come over.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    received: AtomicU64,
    climb: Mutex<Climb>,
}

impl Lanes {
    /// Counts a connection as open until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> Lane {
        self.climb().open += 1;
        Lane(Arc::clone(self))
    }

    /// Tells whether one more connection is wanted.
    pub fn has_room(&self) -> bool {
        let climb = self.climb();
        climb.open < climb.limit
    }

    /// Tells whether several connections bring more than one, or are tried.
    pub fn has_several(&self) -> bool {
        self.climb().limit > 1
    }

    /// Returns how many bytes a part has, so that as many as there are connections fit in memory.
    pub fn part_length(&self) -> u64 {
        (AHEAD / self.climb().limit as u64).max(LEAST_PART)
    }

    /// Notes that a reader waited for bytes; `can_use_more` when it could use another connection.
    pub fn waited(&self, waited: Duration, can_use_more: bool) {
        let mut climb = self.climb();
        // Behind the lock: what others have seen before is not more.
        let received = self.received.load(Ordering::Relaxed);
        climb.step(Instant::now(), received, waited, can_use_more);
    }

    fn climb(&self) -> MutexGuard<'_, Climb> {
        self.climb.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Lane(Arc<Lanes>);

impl Lane {
    /// Notes that bytes came.
    pub fn received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.climb().open -= 1;
    }
}

/// Memory for bytes that are read ahead; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    _permit: OwnedSemaphorePermit,
}

impl Ahead {
    /// Takes memory for so many bytes, if there is enough.
    pub fn take(bytes: u64) -> Option<Self> {
        static MEMORY: OnceLock<Arc<Semaphore>> = OnceLock::new();
        let all = usize::try_from(AHEAD / PERMIT).unwrap_or(usize::MAX);
        let memory = MEMORY.get_or_init(|| Arc::new(Semaphore::new(all)));
        let permits = u32::try_from(bytes.div_ceil(PERMIT)).ok()?;
        let permit = Arc::clone(memory).try_acquire_many_owned(permits).ok()?;
        Some(Self { _permit: permit })
    }
}

/// The search for the number of connections.
#[derive(Debug)]
struct Climb {
    open: usize,
    limit: usize,
    phase: Phase,
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Watching,
    /// More connections are being made; the rate before, and how many there were.
    Settling(f64, usize),
    Measuring(f64, usize),
    RestingUntil(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    /// Bytes that had come when it began.
    received: u64,
    /// How long readers waited in it, all together.
    waited: Duration,
}

impl Default for Climb {
    fn default() -> Self {
        Self { open: 0, limit: 1, phase: Phase::Watching, window: None }
    }
}

impl Climb {
    fn step(&mut self, now: Instant, received: u64, waited: Duration, can_use_more: bool) {
        let window = self.window.get_or_insert(Window { begun: now, received, waited });
        let elapsed = now.saturating_duration_since(window.begun);
        if elapsed > 2 * LONG_WINDOW {
            // Nobody read: what was is forgotten.
            *window = Window { begun: now, received, waited: Duration::ZERO };
            return;
        }
        window.waited += waited;
        let bytes = received.saturating_sub(window.received);
        if elapsed < WINDOW || (bytes < WINDOW_BYTES && elapsed < LONG_WINDOW) {
            return;
        }
        let rate = bytes as f64 / elapsed.as_secs_f64();
        let starved = window.waited * 2 >= elapsed;
        *window = Window { begun: now, received, waited: Duration::ZERO };
        self.phase = match self.phase {
            Phase::Watching if can_use_more && starved && rate < FAST => self.try_more(rate),
            Phase::Settling(before, from) => Phase::Measuring(before, from),
            Phase::Measuring(before, from) if self.open > from && rate >= before * GAIN => {
                Phase::Watching
            }
            Phase::Measuring(_, from) => {
                let tried = self.open > from;
                self.limit = from;
                if tried { Phase::RestingUntil(now + REST) } else { Phase::Watching }
            }
            Phase::RestingUntil(until) if now < until => return,
            Phase::Watching | Phase::RestingUntil(_) => Phase::Watching,
        };
    }

    fn try_more(&mut self, rate: f64) -> Phase {
        let more = (self.open * 2).min(MOST);
        if self.open < self.limit || more <= self.open {
            return Phase::Watching;
        }
        let from = self.open;
        self.limit = more;
        Phase::Settling(rate, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that waits for a network, second by second.
    struct Reader {
        climb: Climb,
        now: Instant,
        received: u64,
        waits: bool,
    }

    impl Reader {
        fn new() -> Self {
            let climb = Climb { open: 1, ..Climb::default() };
            Self { climb, now: Instant::now(), received: 0, waits: true }
        }

        /// Opens what may be opened, and reads for so long at the rate that the network gives to
        /// so many connections.
        fn read(&mut self, tenths: u32, rate: impl Fn(usize) -> u64) {
            let step = Duration::from_millis(100);
            for _ in 0..tenths {
                self.climb.open = self.climb.limit.max(1);
                self.now += step;
                self.received += rate(self.climb.open) / 10;
                let waited = if self.waits { step } else { Duration::ZERO };
                self.climb.step(self.now, self.received, waited, true);
            }
        }
    }

    const MB: u64 = 1_000_000;

    #[test]
    fn connections_that_are_limited_one_by_one_are_taken_as_many_as_are_polite() {
        let mut reader = Reader::new();
        reader.read(50, |connections| 5 * MB * connections as u64);
        assert_eq!(reader.climb.limit, MOST);
    }

    #[test]
    fn a_network_that_is_full_keeps_its_one_connection() {
        let mut reader = Reader::new();
        let mut most = 0;
        for _ in 0..300 {
            reader.read(1, |_| 10 * MB);
            most = most.max(reader.climb.limit);
        }
        assert_eq!((reader.climb.limit, most), (1, 2), "one trial in half a minute, and no more");
        reader.read(350, |connections| 10 * MB * connections as u64);
        assert!(reader.climb.limit > 1, "another time it may be different");
    }

    #[test]
    fn where_two_connections_bring_all_there_is_two_are_kept() {
        let mut reader = Reader::new();
        reader.read(100, |connections| 10 * MB * connections.min(2) as u64);
        assert_eq!(reader.climb.limit, 2);
    }

    #[test]
    fn nothing_is_tried_for_a_reader_that_is_slower_than_the_network_or_where_it_is_fast() {
        let mut reader = Reader { waits: false, ..Reader::new() };
        reader.read(100, |connections| 10 * MB * connections as u64);
        assert_eq!(reader.climb.limit, 1);
        let mut reader = Reader::new();
        reader.read(100, |connections| 250 * MB * connections as u64);
        assert_eq!(reader.climb.limit, 1);
    }

    #[test]
    fn a_rate_is_known_of_slow_networks_too() {
        let mut reader = Reader::new();
        reader.read(600, |connections| 100_000 * connections as u64);
        assert!(reader.climb.limit >= 4, "{}", reader.climb.limit);
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let lanes = Arc::new(Lanes::default());
        assert!(lanes.has_room());
        let lane = lanes.open();
        assert!(!lanes.has_room());
        drop(lane);
        assert!(lanes.has_room());
    }
}
