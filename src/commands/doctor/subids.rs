//! Subordinate ids: the ranges of user ids that an account may use in its containers.

/// A container needs this many: the usual range.
pub(super) const ENOUGH: u64 = 65_536;

/// A line of `/etc/subuid` or `/etc/subgid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) account: String,
    start: u64,
    count: u64,
}

impl Range {
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.start + other.count && other.start < self.start + self.count
    }
}

/// The ranges of all accounts. Lines that are none are passed over, as newuidmap does.
pub(super) fn parse(text: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let account = fields.next()?.to_owned();
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (fields.next().is_none() && u64::checked_add(start, count).is_some()).then_some(Range { account, start, count })
    };
    text.lines().filter_map(range).collect()
}

/// How many ids an account has, by name or by number, and whose ranges share ids with its own.
pub(super) fn judge(ranges: &[Range], names: &[String]) -> (u64, Vec<String>) {
    let (own, others): (Vec<&Range>, Vec<&Range>) = ranges.iter().partition(|range| names.contains(&range.account));
    let count = own.iter().map(|range| range.count).sum();
    let mut shared: Vec<String> = others
        .into_iter()
        .filter(|other| own.iter().any(|range| range.overlaps(other)))
        .map(|other| other.account.clone())
        .collect();
    shared.dedup();
    (count, shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(text: &str) -> (u64, Vec<String>) {
        judge(&parse(text), &["dan".to_owned(), "1001".to_owned()])
    }

    #[test]
    fn ranges_count_by_name_and_number() {
        assert_eq!(judged("dan:100000:65536\neve:165536:65536\n"), (65_536, vec![]));
        assert_eq!(judged("1001:100000:65536\n"), (65_536, vec![]));
        assert_eq!(judged("eve:100000:65536\n"), (0, vec![]));
        assert_eq!(judged("# no\n\ndan:x:y\ndan:1\ndan:1:2:3\ndan:18446744073709551615:2\n"), (0, vec![]));
    }

    #[test]
    fn sharing_even_one_id_is_seen() {
        assert_eq!(judged("dan:100000:65536\neve:165535:65536\n").1, ["eve"]);
        assert_eq!(judged("dan:100000:65536\neve:90000:10001\n").1, ["eve"]);
        assert_eq!(judged("dan:100000:65536\neve:90000:10000\n").1, Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn overlap_is_what_a_common_id_means(a in 0u64..60, n in 1u64..20, b in 0u64..60, m in 1u64..20) {
            let range = |start, count| Range { account: String::new(), start, count };
            let common = (a..a + n).any(|id| (b..b + m).contains(&id));
            prop_assert_eq!(range(a, n).overlaps(&range(b, m)), common);
        }
    }
}
