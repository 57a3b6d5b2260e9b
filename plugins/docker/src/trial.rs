//! Whether a network carries a large upload in one go.
//!
//! Many registries forget an upload whose connection breaks, and then all of its bytes are sent
//! again. So while it is not known whether connections break, one upload alone goes ahead; those
//! beside it send pieces until it has come through.

use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes that a connection has taken when the trial is passed. Some of them are still on their way.
const TAKEN: u64 = 16 << 20;
/// Bytes of an upload that has arrived whole when the trial is passed.
const ARRIVED: u64 = 8 << 20;

const OPEN: u8 = 0;
const UNDER_WAY: u8 = 1;
const PASSED: u8 = 2;

/// The trial of one registry.
#[derive(Debug, Default)]
pub(crate) struct Trial(AtomicU8);

/// What an upload is in a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    #[default]
    None,
    /// It goes ahead of all others.
    Pioneer,
}

impl Trial {
    /// Tells whether an upload may go in one request now; the first that asks goes ahead.
    pub fn may_go(&self, role: &mut Role) -> bool {
        if *role == Role::Pioneer {
            return true;
        }
        let begun = self.0.compare_exchange(OPEN, UNDER_WAY, Ordering::Relaxed, Ordering::Relaxed);
        match begun {
            Ok(_) => {
                *role = Role::Pioneer;
                true
            }
            Err(state) => state == PASSED,
        }
    }

    /// Notes how many bytes the pioneer's connection has taken.
    pub fn took(&self, role: Role, bytes: u64) {
        if role == Role::Pioneer && bytes >= TAKEN {
            self.0.store(PASSED, Ordering::Relaxed);
        }
    }

    /// Notes that the pioneer has ended: all of its bytes have arrived, or it was given up.
    pub fn ended(&self, role: &mut Role, arrived: Option<u64>) {
        if std::mem::take(role) != Role::Pioneer {
            return;
        }
        let passed = arrived.is_some_and(|bytes| bytes >= ARRIVED);
        let next = if passed { PASSED } else { OPEN };
        let _ = self.0.compare_exchange(UNDER_WAY, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_ahead_and_the_others_follow_when_it_has_come_through() {
        let trial = Trial::default();
        let (mut first, mut second) = (Role::None, Role::None);
        assert!(trial.may_go(&mut first) && !trial.may_go(&mut second));
        trial.took(second, TAKEN);
        trial.took(first, TAKEN - 1);
        assert!(!trial.may_go(&mut second));
        trial.took(first, TAKEN);
        assert!(trial.may_go(&mut second) && second == Role::None);
        trial.ended(&mut first, None);
        assert!(trial.may_go(&mut second), "what was passed stays passed");
    }

    #[test]
    fn an_upload_that_is_given_up_or_small_proves_nothing() {
        let trial = Trial::default();
        for arrived in [None, Some(ARRIVED - 1)] {
            let mut role = Role::None;
            assert!(trial.may_go(&mut role));
            trial.ended(&mut role, arrived);
        }
        let (mut role, mut other) = (Role::None, Role::None);
        assert!(trial.may_go(&mut role) && !trial.may_go(&mut other));
        trial.ended(&mut role, Some(ARRIVED));
        assert!(trial.may_go(&mut other) && other == Role::None);
    }
}
