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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn source(n: u64) -> Source {
        Source(Some(IpAddr::V4((u32::try_from(n).expect("a small number")).into())))
    }

    fn for_name(name: &str, n: u64) -> Attempt {
        Attempt::UnknownDevice { source: source(n), name: Some(name.parse().expect("a name")) }
    }

    fn from_source(n: u64) -> Attempt {
        Attempt::UnknownDevice { source: source(n), name: None }
    }

    fn from_device(id: &str) -> Attempt {
        Attempt::KnownDevice(id.to_owned())
    }

    /// Makes wrong attempts until one is refused, and returns how many were allowed.
    fn exhaust(limiter: &mut Limiter, now: Timestamp, attempt: &Attempt) -> usize {
        std::iter::repeat_with(|| limiter.charge(now, attempt)).take(5000).take_while(Result::is_ok).count()
    }

    #[test]
    fn setting_the_clock_back_locks_out_no_user() {
        let mut limiter = Limiter::default();
        let year = 365 * DAY;
        for n in 0..20 {
            exhaust(&mut limiter, year, &for_name("dan", n));
        }
        let charge = limiter.charge(year, &from_source(50)).expect("free");
        limiter.refund(charge);
        for attempt in [for_name("dan", 0), for_name("dan", 1), from_source(2), from_source(50)] {
            assert!(limiter.wait(0, &attempt).is_none());
        }
        assert_eq!(exhaust(&mut limiter, 0, &for_name("dan", 0)), 10);
        assert_eq!(limiter.wait(0, &for_name("dan", 0)), Some(30));
    }

    #[test]
    fn ten_attempts_are_free_then_one_in_thirty_seconds() {
        for attempt in [from_source(1), for_name("dan", 1), from_device("m")] {
            let mut limiter = Limiter::default();
            assert_eq!(exhaust(&mut limiter, 1000, &attempt), 10);
            assert_eq!(limiter.wait(1000, &attempt), Some(30));
            assert_eq!(limiter.wait(1010, &attempt), Some(20));
            assert_eq!(exhaust(&mut limiter, 1030, &attempt), 1);
            assert_eq!(limiter.charge(1030, &attempt), Err(30));
            assert_eq!(exhaust(&mut limiter, 1030 + DAY, &attempt), 10);
            assert_eq!(limiter.wait(1000, &from_source(2)), None);
        }
    }

    #[test]
    fn refused_attempts_do_not_extend_the_wait() {
        let mut limiter = Limiter::default();
        let count = (0..1000).filter(|_| limiter.charge(1000, &for_name("dan", 1)).is_ok()).count();
        assert_eq!((count, limiter.charge(1000, &for_name("dan", 1))), (10, Err(30)));
    }

    #[test]
    fn a_known_device_has_its_own_count() {
        let mut limiter = Limiter::default();
        exhaust(&mut limiter, 1000, &for_name("dan", 1));
        assert_eq!(exhaust(&mut limiter, 1000, &from_device("a")), 10);
        assert_eq!(exhaust(&mut limiter, 1000, &from_device("b")), 10);
        let mut limiter = Limiter::default();
        exhaust(&mut limiter, 1000, &from_device("a"));
        assert_eq!(exhaust(&mut limiter, 1000, &for_name("dan", 1)), 10);
    }

    #[test]
    fn an_attacked_name_has_a_reserve_for_other_addresses() {
        let mut limiter = Limiter::default();
        // For a day, an attacker uses each of the name's own attempts as soon as it is free.
        for now in (1000..1000 + DAY).step_by(30) {
            exhaust(&mut limiter, now, &for_name("dan", 1));
        }
        let now = 1000 + DAY - 30;
        assert!(limiter.wait(now, &for_name("dan", 1)).is_some());
        assert_eq!(exhaust(&mut limiter, now, &for_name("dan", 2)), 3);
        assert_eq!(
            limiter.wait(now, &for_name("dan", 2)),
            Some(30),
            "the name's own attempt is free before the reserve's"
        );
        assert_eq!(
            exhaust(&mut limiter, now, &for_name("eve", 2)),
            7,
            "the rest of the address's ten, for a name that is not attacked"
        );
        let attempt = for_name("dan", 3);
        assert_eq!(exhaust(&mut limiter, now, &attempt), 3);
        for at in (now..now + 8 * HOUR).step_by(30) {
            exhaust(&mut limiter, at + 30, &for_name("dan", 4));
        }
        assert_eq!(exhaust(&mut limiter, now + 8 * HOUR, &attempt), 1, "one more in eight hours");
    }

    #[test]
    fn many_addresses_together_get_little_more_than_the_names_rate() {
        let mut limiter = Limiter::default();
        let mut attack_for_a_day = |start: Timestamp| -> usize {
            // Each step uses a new address. Together they have more attempts than the name's reserve.
            (0..DAY / 30).map(|step| exhaust(&mut limiter, start + step * 30, &for_name("dan", start + step))).sum()
        };
        let (first, second) = (attack_for_a_day(DAY), attack_for_a_day(2 * DAY));
        assert!((1010..=1010 + 2880 + 720).contains(&first), "{first}");
        assert!(second <= 2880 + 720, "{second}");
        assert_eq!(exhaust(&mut limiter, 3 * DAY - 30, &for_name("eve", 1)), 10, "each name has its own reserve");
    }

    #[test]
    fn right_passwords_do_not_count() {
        let mut limiter = Limiter::default();
        exhaust(&mut limiter, 1000, &for_name("eve", 1));
        for attempt in [from_source(2), for_name("dan", 3), for_name("eve", 4), from_device("m")] {
            for _ in 0..100 {
                let charge = limiter.charge(1000, &attempt).expect("free");
                limiter.refund(charge);
            }
        }
        let counts = [(from_source(2), 10), (for_name("eve", 4), 3), (for_name("dan", 3), 10), (from_device("m"), 10)];
        for (attempt, count) in counts {
            assert_eq!(exhaust(&mut limiter, 1000, &attempt), count, "{attempt:?}");
        }
    }

    #[test]
    fn filling_the_memory_erases_no_count() {
        let mut limiter = Limiter::default();
        assert_eq!(exhaust(&mut limiter, 1000, &for_name("dan", 0)), 10);
        for n in 1..MAX_ENTRIES as u64 + 100 {
            assert!(limiter.charge(1000, &from_source(n)).is_ok());
        }
        assert_eq!(limiter.sources.debts.len(), MAX_ENTRIES);
        assert_eq!(limiter.wait(1000, &for_name("dan", 0)), Some(30));
        let newest = MAX_ENTRIES as u64 + 99;
        assert_eq!(exhaust(&mut limiter, 1000, &from_source(newest)), 9, "the newest is counted too");
    }

    #[test]
    fn new_reserves_wait_while_the_memory_is_full() {
        let mut reserves = Limiter::default().reserves;
        let key = |n| ("dan".parse().expect("a name"), source(n));
        for n in 0..MAX_ENTRIES as u64 {
            assert_eq!(reserves.wait(1000, &key(n)), 0);
            reserves.charge(1000, key(n));
        }
        let new = key(MAX_ENTRIES as u64);
        assert_eq!(reserves.wait(1000, &new), 8 * HOUR, "until the first debt is over");
        assert_eq!(reserves.wait(1000, &key(0)), 0, "keys in memory keep their attempts");
        assert_eq!(reserves.wait(1000 + 8 * HOUR, &new), 0);
        reserves.charge(1000 + 8 * HOUR, new);
        assert_eq!(reserves.debts.len(), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let is_same = |a, b| Source::new(a) == Source::new(b);
        assert!(is_same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!is_same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(is_same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!is_same("10.0.0.1", "10.0.0.2"));
        assert!(is_same("", "unix:"));
        assert!(!is_same("", "0.0.0.0"));
    }

    proptest! {
        #[test]
        fn an_attempt_is_allowed_exactly_after_the_wait(
            attempts in prop::collection::vec((0..3u64, 0..2usize, prop::sample::select(vec![0, 1, 29, 30, 200, 8 * HOUR])), 0..120),
            last in (0..3u64, 0..2usize),
        ) {
            let attempt = |(n, name): (u64, usize)| for_name(["dan", "eve"][name], n);
            let (mut limiter, mut now) = (Limiter::default(), 1000);
            for (n, name, pause) in attempts {
                now += pause;
                let before = limiter.wait(now, &attempt((n, name)));
                prop_assert_eq!(limiter.charge(now, &attempt((n, name))).err(), before);
            }
            if let Some(wait) = limiter.wait(now, &attempt(last)) {
                prop_assert!(wait <= 30, "{}", wait);
                prop_assert!(limiter.wait(now + wait - 1, &attempt(last)).is_some());
                prop_assert!(limiter.charge(now + wait, &attempt(last)).is_ok());
            }
        }
    }
}
