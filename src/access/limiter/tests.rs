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
    assert_eq!(limiter.wait(now, &for_name("dan", 2)), Some(30), "the name's own attempt is free before the reserve's");
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
