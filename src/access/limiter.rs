//! Limits wrong passwords by source address and by user name, without locking out the user whose password is being guessed.
//!
//! A browser that signed in before sends a device cookie, and its attempts count only against the id in that cookie. An attempt of any
//! other browser needs a free attempt of its address and one of the user name. If attackers have used up the name's, it needs one of the
//! few reserve attempts that each address has for each name.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use crate::model::name::Name;
use crate::model::workspace::Timestamp;

/// The maximum number of keys of each kind in memory.
const MAX_ENTRIES: usize = 20_000;

/// How many wrong passwords are allowed for one key.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// How many attempts are free at first.
    free: u64,
    /// The number of seconds after which one more attempt is free.
    refill: u64,
}

const RATE: Rate = Rate { free: 10, refill: 30 };

/// The reserve of one name for one address, while the name's own attempts are used up: enough for a user, too few for an attacker.
const RESERVE: Rate = Rate { free: 3, refill: 8 * 3600 };

/// The reserve of one name for all addresses together, so that an attacker with many addresses gets little more than the name's own
/// rate.
const TOTAL_RESERVE: Rate = Rate { free: 1000, refill: 120 };

/// Where a request comes from: an IPv4 address, or an IPv6 network of 64 bits, because one visitor has all addresses of such a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(Option<IpAddr>);

impl Source {
    /// Parses the address that nginx passes. All requests without an address, such as those over a unix socket, count as one source.
    pub fn new(text: &str) -> Self {
        let network = |address: Ipv6Addr| IpAddr::from(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64));
        Self(text.parse::<IpAddr>().ok().map(|address| match address.to_canonical() {
            IpAddr::V6(address) => network(address),
            address @ IpAddr::V4(_) => address,
        }))
    }
}

/// An attempt to sign in with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// By a browser whose device cookie has this id and is valid for the user name of the attempt.
    KnownDevice(String),
    /// By any other browser.
    UnknownDevice {
        /// The browser's address.
        source: Source,
        /// The user name of the attempt, if a user of that name is declared.
        name: Option<Name>,
    },
}

/// The keys against which an attempt was counted. Pass it to [`Limiter::refund`] if the password was right.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a right password must be refunded"]
pub struct Charge(LimitKey);

#[derive(Debug, PartialEq, Eq)]
enum LimitKey {
    Device(String),
    Source(Source),
    Name(Source, Name),
    Reserve(Source, Name),
}

/// What happens to a new key while [`MAX_ENTRIES`] keys are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    /// It replaces the key with the smallest debt. So an attacker who fills the memory can't erase a debt, except with larger debts.
    Replace,
    /// Its attempts are refused until another key's debt is over.
    Wait,
}

/// Counts wrong passwords for keys of one kind.
#[derive(Debug)]
struct Counts<K> {
    rate: Rate,
    when_full: WhenFull,
    /// The time at which all attempts of a key are free again. Each wrong password moves it `refill` seconds into the future.
    debts: HashMap<K, Timestamp>,
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn new(rate: Rate, when_full: WhenFull) -> Self {
        Self { rate, when_full, debts: HashMap::new() }
    }

    /// The time until which a debt lasts, at least now. A debt that is further in the future than attempts can move it is from before
    /// the clock was set back, and is ignored.
    fn effective(&self, debt: Timestamp, now: Timestamp) -> Timestamp {
        if debt > now + self.rate.free * self.rate.refill { now } else { debt.max(now) }
    }

    /// The number of seconds until an attempt of this key is free; 0 if it is free now.
    fn wait(&self, now: Timestamp, key: &K) -> u64 {
        let Rate { free, refill } = self.rate;
        match self.debts.get(key) {
            Some(debt) => (self.effective(*debt, now) + refill).saturating_sub(now + free * refill),
            None if self.when_full == WhenFull::Wait && self.debts.len() >= MAX_ENTRIES => {
                self.debts.values().map(|debt| self.effective(*debt, now) - now).min().unwrap_or(0)
            }
            None => 0,
        }
    }

    /// Counts an attempt, which must be free.
    fn charge(&mut self, now: Timestamp, key: K) {
        if self.debts.len() >= MAX_ENTRIES && !self.debts.contains_key(&key) {
            self.evict(now);
        }
        let debt = self.debts.get(&key).map_or(now, |debt| self.effective(*debt, now));
        self.debts.insert(key, debt + self.rate.refill);
    }

    /// Removes keys without debt; if there are none, removes the key with the smallest debt.
    fn evict(&mut self, now: Timestamp) {
        let mut debts = std::mem::take(&mut self.debts);
        debts.retain(|_, debt| self.effective(*debt, now) > now);
        if debts.len() >= MAX_ENTRIES {
            let smallest = debts.iter().min_by_key(|(_, debt)| **debt).map(|(key, _)| key.clone());
            smallest.and_then(|key| debts.remove(&key));
        }
        self.debts = debts;
    }

    fn refund(&mut self, key: &K) {
        if let Some(debt) = self.debts.get_mut(key) {
            *debt = debt.saturating_sub(self.rate.refill);
        }
    }
}

/// Limits attempts to sign in with a password.
#[derive(Debug)]
pub struct Limiter {
    devices: Counts<String>,
    sources: Counts<Source>,
    names: Counts<Name>,
    reserves: Counts<(Name, Source)>,
    /// A name's reserve for all sources together.
    total_reserves: Counts<Name>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            devices: Counts::new(RATE, WhenFull::Replace),
            sources: Counts::new(RATE, WhenFull::Replace),
            names: Counts::new(RATE, WhenFull::Replace),
            reserves: Counts::new(RESERVE, WhenFull::Wait),
            total_reserves: Counts::new(TOTAL_RESERVE, WhenFull::Wait),
        }
    }
}

impl Limiter {
    /// The number of seconds until the attempt is allowed; `None` if it is allowed now.
    fn wait(&self, now: Timestamp, attempt: &Attempt) -> Option<u64> {
        let wait = match attempt {
            Attempt::KnownDevice(device) => self.devices.wait(now, device),
            Attempt::UnknownDevice { source, name } => {
                let name_wait = name.as_ref().map_or(0, |name| {
                    let reserve = self.reserves.wait(now, &(name.clone(), *source));
                    self.names.wait(now, name).min(reserve.max(self.total_reserves.wait(now, name)))
                });
                self.sources.wait(now, source).max(name_wait)
            }
        };
        (wait > 0).then_some(wait)
    }

    /// Counts an attempt as wrong before its password is checked, so that concurrent attempts can't exceed the limit. If the attempt is
    /// not allowed now, returns the number of seconds to wait, and does not count it: more attempts never make the wait longer.
    pub fn charge(&mut self, now: Timestamp, attempt: &Attempt) -> Result<Charge, u64> {
        if let Some(wait) = self.wait(now, attempt) {
            return Err(wait);
        }
        let key = match attempt {
            Attempt::KnownDevice(device) => {
                self.devices.charge(now, device.clone());
                LimitKey::Device(device.clone())
            }
            Attempt::UnknownDevice { source, name } => {
                self.sources.charge(now, *source);
                match name.clone() {
                    None => LimitKey::Source(*source),
                    Some(name) if self.names.wait(now, &name) == 0 => {
                        self.names.charge(now, name.clone());
                        LimitKey::Name(*source, name)
                    }
                    Some(name) => {
                        self.reserves.charge(now, (name.clone(), *source));
                        self.total_reserves.charge(now, name.clone());
                        LimitKey::Reserve(*source, name)
                    }
                }
            }
        };
        Ok(Charge(key))
    }

    /// Removes the count of an attempt whose password was right.
    pub fn refund(&mut self, Charge(key): Charge) {
        match key {
            LimitKey::Device(device) => self.devices.refund(&device),
            LimitKey::Source(source) => self.sources.refund(&source),
            LimitKey::Name(source, name) => {
                self.sources.refund(&source);
                self.names.refund(&name);
            }
            LimitKey::Reserve(source, name) => {
                self.sources.refund(&source);
                self.total_reserves.refund(&name);
                self.reserves.refund(&(name, source));
            }
        }
    }
}

#[cfg(test)]
mod tests;
