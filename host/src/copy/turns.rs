//! Turns at compressing: each layer that is compressed keeps all cores busy and holds buffers for
//! that, so only a few are at it at the same time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diolkos_sdk::{Host, Result};

/// Layers that may be compressed at the same time. Reading and hashing one leaves room for others.
const MOST: usize = 3;
/// How often who waits asks whether the copy was stopped.
const INTERVAL: Duration = Duration::from_millis(50);

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A turn; dropping it ends it.
pub(super) struct Turn(());

/// Waits for a turn.
///
/// # Errors
/// [`diolkos_sdk::ErrorKind::Cancelled`] when the copy is stopped meanwhile.
pub(super) fn take(host: &Host) -> Result<Turn> {
    let mut taken = lock();
    while *taken >= MOST {
        host.check_cancelled()?;
        taken = GIVEN_BACK.wait_timeout(taken, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
    }
    *taken += 1;
    Ok(Turn(()))
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock() -= 1;
        GIVEN_BACK.notify_one();
    }
}

fn lock() -> MutexGuard<'static, usize> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn never_more_than_a_few_have_a_turn_and_all_get_one() {
        let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let turn = take(&Host::silent()).unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    now.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.into_inner(), 20);
        assert!(most.into_inner() <= MOST);
    }
}
