//! Subordinate ids: the ranges of user ids that an account may use in its containers. `csm doctor` shows them, and `csm launch` refuses
//! to start where two accounts share some.

use std::env;
use std::fs;

/// The files of ranges, with the word that `usermod` has for each.
pub(super) const FILES: [(&str, &str); 2] = [("subuid", "/etc/subuid"), ("subgid", "/etc/subgid")];

/// What to do about ranges that overlap.
pub(super) const APART: &str = "give each account a range of its own; on NixOS set \
    services.code-server-multi.users.<name>.subIdStart, or update nixpkgs to 25.05 or newer";

/// A container needs this many: the usual range.
pub(super) const ENOUGH: u64 = 65_536;

/// A line of `/etc/subuid` or `/etc/subgid`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    account: String,
    start: u64,
    count: u64,
}

impl Range {
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.start + other.count && other.start < self.start + self.count
    }
}

/// What this process' account has of a file.
pub(super) struct Own {
    /// The account's name.
    pub(super) account: String,
    /// How many ids it has.
    pub(super) count: u64,
    shared: Vec<String>,
}

impl Own {
    /// Why containers of this account are not apart from those of others, if they are not.
    pub(super) fn shared_why(&self, path: &str) -> Option<String> {
        let (account, others) = (&self.account, self.shared.join(", "));
        (!self.shared.is_empty())
            .then(|| format!("{path} gives {account} ids of {others}: their containers reach each other's files"))
    }
}

/// What this process' account has of a file of ranges. One that is not there has none.
pub(super) fn own(path: &str) -> Own {
    let account = account_name();
    let names = [account.clone(), rustix::process::geteuid().as_raw().to_string()];
    let (count, shared) = judge(&parse(&fs::read_to_string(path).unwrap_or_default()), &names);
    Own { account, count, shared }
}

/// Refuses an account that shares subordinate ids with another.
pub(in crate::commands) fn refuse_shared() -> Result<(), String> {
    let shared = FILES.iter().find_map(|(_, path)| own(path).shared_why(path));
    shared.map_or(Ok(()), |why| Err(format!("can't start the workspace: {why}; {APART}")))
}

/// The name of this process' account.
pub(super) fn account_name() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = accounts.lines().find(|line| line.split(':').nth(2) == Some(uid.as_str()));
    own.and_then(|line| line.split(':').next()).map_or_else(|| env::var("USER").unwrap_or(uid), str::to_owned)
}

/// The ranges of all accounts. Lines that are none are passed over, as newuidmap does.
fn parse(text: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let account = fields.next()?.to_owned();
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (fields.next().is_none() && u64::checked_add(start, count).is_some()).then_some(Range { account, start, count })
    };
    text.lines().filter_map(range).collect()
}

/// How many ids an account has, by name or by number, and whose ranges share ids with its own.
fn judge(ranges: &[Range], names: &[String]) -> (u64, Vec<String>) {
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

    #[test]
    fn a_refusal_names_the_file_the_others_and_the_fix() {
        let (count, shared) = judged("dan:100000:65536\neve:100000:65536\n");
        let own = Own { account: "dan".to_owned(), count, shared };
        let why = own.shared_why("/etc/subuid").unwrap();
        assert!(why.starts_with("/etc/subuid gives dan ids of eve"), "{why}");
        assert!(APART.contains("users.<name>.subIdStart"));
        assert!(Own { shared: Vec::new(), ..own }.shared_why("/etc/subuid").is_none());
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
