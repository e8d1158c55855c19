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

/// Counts of wrong passwords.
#[derive(Debug, Default)]
pub struct Limiter(HashMap<Against, Timestamp>);

impl Limiter {
    /// Seconds to wait before a try, or `None` when it can be made now.
    pub fn wait(&self, now: Timestamp, against: &[Against]) -> Option<u64> {
        // Each wrong try puts a key's debt REFILL seconds further into the future.
        let wait = |key| self.0.get(key).and_then(|debt| (debt + REFILL).checked_sub(now + BURST * REFILL));
        against.iter().filter_map(wait).filter(|wait| *wait > 0).max()
    }

    /// Notes a wrong password.
    pub fn failed(&mut self, now: Timestamp, against: Vec<Against>) {
        if self.0.len() >= MOST {
            self.0.retain(|_, debt| *debt > now);
        }
        for key in against {
            if self.0.len() < MOST || self.0.contains_key(&key) {
                let debt = self.0.entry(key).or_insert(now);
                *debt = (*debt).max(now) + REFILL;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tries_then_one_in_thirty_seconds() {
        let mut limiter = Limiter::default();
        let key = || vec![Against::Source("10.0.0.1".into())];
        for _ in 0..10 {
            assert_eq!(limiter.wait(1000, &key()), None);
            limiter.failed(1000, key());
        }
        assert_eq!(limiter.wait(1000, &key()), Some(30));
        assert_eq!(limiter.wait(1030, &key()), None);
        assert_eq!(limiter.wait(1000, &[Against::Source("10.0.0.2".into())]), None);
        assert_eq!(limiter.wait(1000, &[Against::Device("d".into())]), None, "a known browser has its own count");
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut limiter = Limiter::default();
        for n in 0..MOST as u64 + 100 {
            limiter.failed(1000, vec![Against::Source(n.to_string())]);
        }
        assert_eq!(limiter.0.len(), MOST);
    }
}
