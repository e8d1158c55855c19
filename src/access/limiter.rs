//! Wrong passwords are limited, by where they come from and whom they are tried on, without locking a person out.
//!
//! A browser that signed in before has a mark, and is counted by that alone. Any other browser needs a free try of its address, and
//! one of the name or, when attackers have used the name's up, one of the grace that each address has for each name.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use crate::model::name::Name;
use crate::model::workspace::Timestamp;

/// At most this many keys of one kind are remembered.
const MAX_ENTRIES: usize = 20_000;

/// How often one key can be tried.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// How many wrong passwords in a row are free.
    free: u64,
    /// Seconds after which one more is free.
    refill: u64,
}

const RATE: Rate = Rate { free: 10, refill: 30 };

/// For one name from one address while the name's own tries are used up: enough for a person, little for an attacker.
const GRACE: Rate = Rate { free: 3, refill: 8 * 3600 };

/// For one name from all addresses together, so that many of them get hardly more than the name's own rate.
const ALL_GRACE: Rate = Rate { free: 1000, refill: 120 };

/// Where a request comes from: an address, or an IPv6 network, as one visitor has 2^64 addresses of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(Option<IpAddr>);

impl Source {
    /// The source that nginx names. All that it can't name by an address count as one.
    pub fn new(text: &str) -> Self {
        let network = |address: Ipv6Addr| IpAddr::from(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64));
        Self(text.parse::<IpAddr>().ok().map(|address| match address.to_canonical() {
            IpAddr::V6(address) => network(address),
            address @ IpAddr::V4(_) => address,
        }))
    }
}

/// A password that is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// By a browser with this mark, which is valid for the name that it tries.
    Marked(String),
    /// By any other browser.
    Unmarked {
        /// Where it is.
        source: Source,
        /// The name that it tries, if that is declared.
        name: Option<Name>,
    },
}

/// What an attempt was counted against. A right password gives exactly this back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a right password gives it back"]
pub struct Charge(Charged);

#[derive(Debug, PartialEq, Eq)]
enum Charged {
    Mark(String),
    Source(Source),
    Name(Source, Name),
    Grace(Source, Name),
}

/// What happens to a key that is new while there are as many as can be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    /// It takes the place of the key that would be forgotten next. So nobody gets rid of a debt by filling the memory, unless with
    /// greater debts.
    Replace,
    /// It waits until one is forgotten.
    Wait,
}

/// Counts of wrong passwords for keys of one kind.
#[derive(Debug)]
struct Counts<K> {
    rate: Rate,
    when_full: WhenFull,
    /// When all tries of a key are free again: each wrong one puts it `refill` seconds further into the future.
    debts: HashMap<K, Timestamp>,
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn new(rate: Rate, when_full: WhenFull) -> Self {
        Self { rate, when_full, debts: HashMap::new() }
    }

    /// A debt as it counts now. One that is further ahead than tries can put it is from before the clock was set back.
    fn counted(&self, debt: Timestamp, now: Timestamp) -> Timestamp {
        if debt > now + self.rate.free * self.rate.refill { now } else { debt.max(now) }
    }

    /// Seconds until a try of this key is free; 0 when it is now.
    fn wait(&self, now: Timestamp, key: &K) -> u64 {
        let Rate { free, refill } = self.rate;
        match self.debts.get(key) {
            Some(debt) => (self.counted(*debt, now) + refill).saturating_sub(now + free * refill),
            None if self.when_full == WhenFull::Wait && self.debts.len() >= MAX_ENTRIES => {
                self.debts.values().map(|debt| self.counted(*debt, now) - now).min().unwrap_or(0)
            }
            None => 0,
        }
    }

    /// Counts a try, which is free.
    fn charge(&mut self, now: Timestamp, key: K) {
        if self.debts.len() >= MAX_ENTRIES && !self.debts.contains_key(&key) {
            self.make_room(now);
        }
        let debt = self.debts.get(&key).map_or(now, |debt| self.counted(*debt, now));
        self.debts.insert(key, debt + self.rate.refill);
    }

    fn make_room(&mut self, now: Timestamp) {
        let mut debts = std::mem::take(&mut self.debts);
        debts.retain(|_, debt| self.counted(*debt, now) > now);
        if debts.len() >= MAX_ENTRIES {
            let least = debts.iter().min_by_key(|(_, debt)| **debt).map(|(key, _)| key.clone());
            least.and_then(|key| debts.remove(&key));
        }
        self.debts = debts;
    }

    fn give_back(&mut self, key: &K) {
        if let Some(debt) = self.debts.get_mut(key) {
            *debt = debt.saturating_sub(self.rate.refill);
        }
    }
}

/// Counts of wrong passwords.
#[derive(Debug)]
pub struct Limiter {
    marks: Counts<String>,
    sources: Counts<Source>,
    names: Counts<Name>,
    graces: Counts<(Name, Source)>,
    /// The graces of a name from all sources together.
    all_graces: Counts<Name>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            marks: Counts::new(RATE, WhenFull::Replace),
            sources: Counts::new(RATE, WhenFull::Replace),
            names: Counts::new(RATE, WhenFull::Replace),
            graces: Counts::new(GRACE, WhenFull::Wait),
            all_graces: Counts::new(ALL_GRACE, WhenFull::Wait),
        }
    }
}

impl Limiter {
    /// The shortest wait, in seconds, after which a try would be taken; `None` when it would be now.
    fn wait(&self, now: Timestamp, attempt: &Attempt) -> Option<u64> {
        let wait = match attempt {
            Attempt::Marked(mark) => self.marks.wait(now, mark),
            Attempt::Unmarked { source, name } => {
                let of_name = name.as_ref().map_or(0, |name| {
                    let grace = self.graces.wait(now, &(name.clone(), *source));
                    self.names.wait(now, name).min(grace.max(self.all_graces.wait(now, name)))
                });
                self.sources.wait(now, source).max(of_name)
            }
        };
        (wait > 0).then_some(wait)
    }

    /// Counts a try as wrong before it is made, so that tries made side by side count each other; or returns how long to wait, and
    /// counts nothing. Waiting never becomes longer by trying: no debt is more than the free tries ahead.
    pub fn take(&mut self, now: Timestamp, attempt: &Attempt) -> Result<Charge, u64> {
        if let Some(wait) = self.wait(now, attempt) {
            return Err(wait);
        }
        let charged = match attempt {
            Attempt::Marked(mark) => {
                self.marks.charge(now, mark.clone());
                Charged::Mark(mark.clone())
            }
            Attempt::Unmarked { source, name } => {
                self.sources.charge(now, *source);
                match name.clone() {
                    None => Charged::Source(*source),
                    Some(name) if self.names.wait(now, &name) == 0 => {
                        self.names.charge(now, name.clone());
                        Charged::Name(*source, name)
                    }
                    Some(name) => {
                        self.graces.charge(now, (name.clone(), *source));
                        self.all_graces.charge(now, name.clone());
                        Charged::Grace(*source, name)
                    }
                }
            }
        };
        Ok(Charge(charged))
    }

    /// Takes the count of a try back: its password was right.
    pub fn give_back(&mut self, Charge(charged): Charge) {
        match charged {
            Charged::Mark(mark) => self.marks.give_back(&mark),
            Charged::Source(source) => self.sources.give_back(&source),
            Charged::Name(source, name) => {
                self.sources.give_back(&source);
                self.names.give_back(&name);
            }
            Charged::Grace(source, name) => {
                self.sources.give_back(&source);
                self.all_graces.give_back(&name);
                self.graces.give_back(&(name, source));
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
        Source(Some(IpAddr::V4((u32::try_from(n).expect("few")).into())))
    }

    fn on(name: &str, n: u64) -> Attempt {
        Attempt::Unmarked { source: source(n), name: Some(name.parse().expect("a name")) }
    }

    fn from(n: u64) -> Attempt {
        Attempt::Unmarked { source: source(n), name: None }
    }

    fn marked(mark: &str) -> Attempt {
        Attempt::Marked(mark.to_owned())
    }

    /// How many wrong passwords are taken in a row.
    fn taken(limiter: &mut Limiter, now: Timestamp, attempt: &Attempt) -> usize {
        std::iter::repeat_with(|| limiter.take(now, attempt)).take(5000).take_while(Result::is_ok).count()
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let mut limiter = Limiter::default();
        let year = 365 * DAY;
        for n in 0..20 {
            taken(&mut limiter, year, &on("dan", n));
        }
        let charge = limiter.take(year, &from(50)).expect("free");
        limiter.give_back(charge);
        for attempt in [on("dan", 0), on("dan", 1), from(2), from(50)] {
            assert!(limiter.wait(0, &attempt).is_none());
        }
        assert_eq!(taken(&mut limiter, 0, &on("dan", 0)), 10);
        assert_eq!(limiter.wait(0, &on("dan", 0)), Some(30));
    }

    #[test]
    fn ten_tries_then_one_in_thirty_seconds() {
        for attempt in [from(1), on("dan", 1), marked("m")] {
            let mut limiter = Limiter::default();
            assert_eq!(taken(&mut limiter, 1000, &attempt), 10);
            assert_eq!(limiter.wait(1000, &attempt), Some(30));
            assert_eq!(limiter.wait(1010, &attempt), Some(20));
            assert_eq!(taken(&mut limiter, 1030, &attempt), 1);
            assert_eq!(limiter.take(1030, &attempt), Err(30));
            assert_eq!(taken(&mut limiter, 1030 + DAY, &attempt), 10);
            assert_eq!(limiter.wait(1000, &from(2)), None);
        }
    }

    #[test]
    fn a_thousand_together_are_ten_tries_and_no_longer_wait() {
        let mut limiter = Limiter::default();
        let count = (0..1000).filter(|_| limiter.take(1000, &on("dan", 1)).is_ok()).count();
        assert_eq!((count, limiter.take(1000, &on("dan", 1))), (10, Err(30)));
    }

    #[test]
    fn a_mark_is_counted_by_itself_alone() {
        let mut limiter = Limiter::default();
        taken(&mut limiter, 1000, &on("dan", 1));
        assert_eq!(taken(&mut limiter, 1000, &marked("a")), 10);
        assert_eq!(taken(&mut limiter, 1000, &marked("b")), 10);
        let mut limiter = Limiter::default();
        taken(&mut limiter, 1000, &marked("a"));
        assert_eq!(taken(&mut limiter, 1000, &on("dan", 1)), 10);
    }

    #[test]
    fn a_name_that_is_attacked_still_has_grace_from_elsewhere() {
        let mut limiter = Limiter::default();
        // A stranger takes every try of the name's own that becomes free, for a day.
        for now in (1000..1000 + DAY).step_by(30) {
            taken(&mut limiter, now, &on("dan", 1));
        }
        let now = 1000 + DAY - 30;
        assert!(limiter.wait(now, &on("dan", 1)).is_some());
        assert_eq!(taken(&mut limiter, now, &on("dan", 2)), 3);
        assert_eq!(limiter.wait(now, &on("dan", 2)), Some(30), "the name's own try comes first");
        assert_eq!(taken(&mut limiter, now, &on("eve", 2)), 7, "other names are not attacked; the address has its ten");
        let grace = (8 * HOUR, on("dan", 3));
        assert_eq!(taken(&mut limiter, now, &grace.1), 3);
        for at in (now..now + grace.0).step_by(30) {
            taken(&mut limiter, at + 30, &on("dan", 4));
        }
        assert_eq!(taken(&mut limiter, now + grace.0, &grace.1), 1, "one more in eight hours");
    }

    #[test]
    fn many_addresses_together_get_hardly_more_than_the_rate_of_the_name() {
        let mut limiter = Limiter::default();
        let mut day = |from: Timestamp| -> usize {
            // Every address has more tries than the day's budget has room for.
            (0..DAY / 30).map(|step| taken(&mut limiter, from + step * 30, &on("dan", from + step))).sum()
        };
        let (first, second) = (day(DAY), day(2 * DAY));
        assert!((1010..=1010 + 2880 + 720).contains(&first), "{first}");
        assert!(second <= 2880 + 720, "{second}");
        assert_eq!(taken(&mut limiter, 3 * DAY - 30, &on("eve", 1)), 10, "the budget is one name's");
    }

    #[test]
    fn a_right_password_gives_back_what_it_took() {
        let mut limiter = Limiter::default();
        taken(&mut limiter, 1000, &on("eve", 1));
        for attempt in [from(2), on("dan", 3), on("eve", 4), marked("m")] {
            for _ in 0..100 {
                let charge = limiter.take(1000, &attempt).expect("free");
                limiter.give_back(charge);
            }
        }
        let counts = [(from(2), 10), (on("eve", 4), 3), (on("dan", 3), 10), (marked("m"), 10)];
        for (attempt, count) in counts {
            assert_eq!(taken(&mut limiter, 1000, &attempt), count, "{attempt:?}");
        }
    }

    #[test]
    fn nobody_gets_rid_of_a_count_by_filling_the_memory() {
        let mut limiter = Limiter::default();
        assert_eq!(taken(&mut limiter, 1000, &on("dan", 0)), 10);
        for n in 1..MAX_ENTRIES as u64 + 100 {
            assert!(limiter.take(1000, &from(n)).is_ok());
        }
        assert_eq!(limiter.sources.debts.len(), MAX_ENTRIES);
        assert_eq!(limiter.wait(1000, &on("dan", 0)), Some(30));
        let late = MAX_ENTRIES as u64 + 99;
        assert_eq!(taken(&mut limiter, 1000, &from(late)), 9, "the newest is counted too");
    }

    #[test]
    fn grace_waits_while_the_memory_is_full() {
        let mut graces = Limiter::default().graces;
        let key = |n| ("dan".parse().expect("a name"), source(n));
        for n in 0..MAX_ENTRIES as u64 {
            assert_eq!(graces.wait(1000, &key(n)), 0);
            graces.charge(1000, key(n));
        }
        let new = key(MAX_ENTRIES as u64);
        assert_eq!(graces.wait(1000, &new), 8 * HOUR, "until the first is forgotten");
        assert_eq!(graces.wait(1000, &key(0)), 0, "those that are remembered have what they had");
        assert_eq!(graces.wait(1000 + 8 * HOUR, &new), 0);
        graces.charge(1000 + 8 * HOUR, new);
        assert_eq!(graces.debts.len(), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let same = |a, b| Source::new(a) == Source::new(b);
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
        assert!(same("", "unix:"));
        assert!(!same("", "0.0.0.0"));
    }

    proptest! {
        #[test]
        fn the_wait_is_the_shortest_after_which_a_try_is_taken(
            tries in prop::collection::vec((0..3u64, 0..2usize, prop::sample::select(vec![0, 1, 29, 30, 200, 8 * HOUR])), 0..120),
            last in (0..3u64, 0..2usize),
        ) {
            let attempt = |(n, name): (u64, usize)| on(["dan", "eve"][name], n);
            let (mut limiter, mut now) = (Limiter::default(), 1000);
            for (n, name, pause) in tries {
                now += pause;
                let before = limiter.wait(now, &attempt((n, name)));
                prop_assert_eq!(limiter.take(now, &attempt((n, name))).err(), before);
            }
            if let Some(wait) = limiter.wait(now, &attempt(last)) {
                prop_assert!(wait <= 30, "{}", wait);
                prop_assert!(limiter.wait(now + wait - 1, &attempt(last)).is_some());
                prop_assert!(limiter.take(now + wait, &attempt(last)).is_ok());
            }
        }
    }
}
