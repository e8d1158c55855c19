//! Wrong passwords are limited, by where they come from and whom they are tried on, without locking anybody out.

use std::collections::HashMap;

use crate::model::workspace::Timestamp;

/// How many wrong passwords in a row are free.
const BURST: u64 = 10;

/// Seconds after which one more try is free.
const REFILL: u64 = 30;

/// At most this many keys are remembered.
const MOST: usize = 20_000;

/// Whom a wrong password counts against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Against {
    /// An address.
    Source(String),
    /// A name, for browsers that never signed in as this person. Those that did have a count of their own, so that strangers can't
    /// lock the person out.
    Name(String),
    /// A browser that signed in before.
    Device(String),
}

/// A key's debt as it counts now. One that is further ahead than tries can put it is from before the clock was set back.
fn counted(debt: Timestamp, now: Timestamp) -> Timestamp {
    if debt > now + BURST * REFILL { now } else { debt.max(now) }
}

/// Counts of wrong passwords.
#[derive(Debug, Default)]
pub struct Limiter(HashMap<Against, Timestamp>);

impl Limiter {
    /// Seconds to wait before a try, or `None` when it can be made now.
    pub fn wait(&self, now: Timestamp, against: &[Against]) -> Option<u64> {
        // Each wrong try puts a key's debt REFILL seconds further into the future.
        let wait = |key| (counted(*self.0.get(key)?, now) + REFILL).checked_sub(now + BURST * REFILL);
        against.iter().filter_map(wait).filter(|wait| *wait > 0).max()
    }

    /// Notes a try as wrong before it is made, so that tries made side by side count each other; or says how long to wait, and notes
    /// nothing. Waiting never becomes longer by trying: no debt is more than BURST tries ahead.
    pub fn take(&mut self, now: Timestamp, against: &[Against]) -> Result<(), u64> {
        if let Some(wait) = self.wait(now, against) {
            return Err(wait);
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, debt| *debt > now);
        }
        for key in against {
            if self.0.len() < MOST || self.0.contains_key(key) {
                let debt = self.0.entry(key.clone()).or_insert(now);
                *debt = counted(*debt, now) + REFILL;
            }
        }
        Ok(())
    }

    /// Takes the note of a try back: its password was right.
    pub fn give_back(&mut self, against: &[Against]) {
        for key in against {
            if let Some(debt) = self.0.get_mut(key) {
                *debt = debt.saturating_sub(REFILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let mut limiter = Limiter::default();
        let key = [Against::Source("10.0.0.1".into())];
        let year = 365 * 86_400;
        assert_eq!(limiter.take(year, &key), Ok(()));
        limiter.give_back(&key);
        for _ in 0..BURST {
            assert_eq!(limiter.take(0, &key), Ok(()));
        }
        assert_eq!(limiter.take(0, &key), Err(REFILL));
    }

    #[test]
    fn ten_tries_then_one_in_thirty_seconds() {
        let mut limiter = Limiter::default();
        let key = [Against::Source("10.0.0.1".into())];
        for _ in 0..10 {
            assert_eq!(limiter.take(1000, &key), Ok(()));
        }
        assert_eq!(limiter.wait(1000, &key), Some(30));
        assert_eq!(limiter.wait(1030, &key), None);
        assert_eq!(limiter.wait(1000, &[Against::Source("10.0.0.2".into())]), None);
        assert_eq!(limiter.wait(1000, &[Against::Device("d".into())]), None, "a known browser has its own count");
    }

    #[test]
    fn a_thousand_at_once_are_ten_tries_and_no_longer_wait() {
        let mut limiter = Limiter::default();
        let key = [Against::Source("10.0.0.1".into()), Against::Name("dan".into())];
        let taken = (0..1000).filter(|_| limiter.take(1000, &key).is_ok()).count();
        assert_eq!((taken, limiter.take(1000, &key)), (10, Err(30)));
        assert_eq!(limiter.take(1030, &key), Ok(()));
        assert_eq!(limiter.take(1030, &key), Err(30));
        assert_eq!(limiter.wait(1030 + BURST * REFILL, &key), None);
    }

    #[test]
    fn a_right_password_costs_nothing() {
        let mut limiter = Limiter::default();
        let key = [Against::Source("10.0.0.1".into())];
        for _ in 0..100 {
            assert_eq!(limiter.take(1000, &key), Ok(()));
            limiter.give_back(&key);
        }
        assert_eq!(limiter.take(1000, &key), Ok(()));
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut limiter = Limiter::default();
        for n in 0..MOST as u64 + 100 {
            assert_eq!(limiter.take(1000, &[Against::Source(n.to_string())]), Ok(()));
        }
        assert_eq!(limiter.0.len(), MOST);
    }
}
