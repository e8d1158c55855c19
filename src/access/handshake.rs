//! How a session of the dashboard's host becomes a cookie of a workspace's host.
//!
//! The workspace's host stores where the visitor was going under an opaque id, and gives the browser a nonce. The dashboard's host
//! checks session and right, and makes a code for that id. The workspace's host takes the code back: once, within 30 s, on the exact
//! host, from the browser with the nonce. So no address ever travels through the browser that could be swapped on the way.

use std::collections::{HashMap, VecDeque};

use super::site::Site;
use super::token::same;
use crate::model::workspace::Timestamp;

/// How long a code is good, in seconds.
pub const CODE_LIFETIME: u64 = 30;

/// How long someone can take to sign in, in seconds.
pub const PENDING_LIFETIME: u64 = 600;

/// Anybody can begin a handshake, so there are at most this many; the oldest go first.
const MOST: usize = 10_000;

/// Longer targets are forgotten: the visitor lands on the first page.
const LONGEST_TARGET: usize = 8192;

struct Pending {
    site: Site,
    target: String,
    nonce: String,
    expires: Timestamp,
    code: Option<Code>,
}

struct Code {
    value: String,
    session: String,
    expires: Timestamp,
}

/// A handshake that came to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// The session that it belongs to.
    pub session: String,
    /// Where the visitor was going: a path on that host.
    pub target: String,
}

/// All handshakes under way.
#[derive(Default)]
pub struct Handshakes {
    pending: HashMap<String, Pending>,
    order: VecDeque<String>,
}

impl Handshakes {
    /// Begins one. `id` is random; `nonce` is the browser's, random when it had none.
    pub fn begin(&mut self, now: Timestamp, id: String, nonce: String, site: Site, target: &str) {
        while let Some(oldest) = self.order.front() {
            let stale = self.pending.get(oldest).is_none_or(|pending| pending.expires <= now);
            if !stale && self.order.len() < MOST {
                break;
            }
            self.pending.remove(oldest);
            self.order.pop_front();
        }
        let sound = target.starts_with('/') && !target.starts_with("/_csm/") && target.len() <= LONGEST_TARGET;
        let target = if sound { target.to_owned() } else { "/".to_owned() };
        let pending = Pending { site, target, nonce, expires: now + PENDING_LIFETIME, code: None };
        self.pending.insert(id.clone(), pending);
        self.order.push_back(id);
    }

    /// The site that a handshake is for.
    pub fn site(&self, now: Timestamp, id: &str) -> Option<&Site> {
        self.pending.get(id).filter(|pending| pending.expires > now).map(|pending| &pending.site)
    }

    /// Gives a session's right to a handshake. `code` is random. The caller has checked that the session's owner has the right.
    pub fn grant(&mut self, now: Timestamp, id: &str, session: &str, code: String) -> bool {
        let Some(pending) = self.pending.get_mut(id).filter(|pending| pending.expires > now) else { return false };
        pending.code = Some(Code { value: code, session: session.to_owned(), expires: now + CODE_LIFETIME });
        true
    }

    /// Ends one. Whatever the outcome, it can't be tried again.
    pub fn redeem(&mut self, now: Timestamp, id: &str, code: &str, site: &Site, nonce: &str) -> Option<Redeemed> {
        let pending = self.pending.remove(id)?;
        let granted = pending.code?;
        let good = granted.expires > now
            && pending.site == *site
            && same(granted.value.as_bytes(), code.as_bytes())
            && same(pending.nonce.as_bytes(), nonce.as_bytes());
        good.then_some(Redeemed { session: granted.session, target: pending.target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(label: &str) -> Site {
        Site::Workspace(label.parse().expect("a label"))
    }

    fn granted() -> Handshakes {
        let mut all = Handshakes::default();
        all.begin(0, "id".into(), "nonce".into(), site("dan"), "/a?b=c");
        assert!(all.grant(10, "id", "session", "code".into()));
        all
    }

    #[test]
    fn a_code_works_once_on_its_host_in_its_browser_in_time() {
        let end = |now, id, code, on: &str, nonce| granted().redeem(now, id, code, &site(on), nonce).is_some();
        assert!(end(39, "id", "code", "dan", "nonce"));
        assert!(!end(40, "id", "code", "dan", "nonce"), "too late");
        assert!(!end(11, "id2", "code", "dan", "nonce"), "another handshake");
        assert!(!end(11, "id", "edoc", "dan", "nonce"), "another code");
        assert!(!end(11, "id", "code", "alice", "nonce"), "another host");
        assert!(!end(11, "id", "code", "3000--dan", "nonce"), "another host of the same workspace");
        assert!(!end(11, "id", "code", "dan", ""), "another browser");
        let mut all = granted();
        assert!(all.redeem(11, "id", "code", &site("dan"), "nonce").is_some());
        assert!(all.redeem(11, "id", "code", &site("dan"), "nonce").is_none(), "replayed");
        let mut all = granted();
        assert!(all.redeem(11, "id", "guess", &site("dan"), "nonce").is_none());
        assert!(all.redeem(11, "id", "code", &site("dan"), "nonce").is_none(), "one guess only");
    }

    #[test]
    fn nothing_is_redeemed_that_was_not_granted() {
        let mut all = Handshakes::default();
        all.begin(0, "id".into(), "nonce".into(), site("dan"), "/");
        assert!(all.redeem(1, "id", "", &site("dan"), "nonce").is_none());
        assert!(!all.grant(1, "id", "session", "code".into()));
    }

    #[test]
    fn the_target_stays_a_path_of_the_host() {
        for (given, kept) in [
            ("/a?b", "/a?b"),
            ("https://evil.example/", "/"),
            ("evil", "/"),
            ("", "/"),
            ("/_csm/callback?id=x", "/"),
            // A path all the same: it is appended to the host's own origin, never sent alone.
            ("//evil.example/", "//evil.example/"),
        ] {
            let mut all = Handshakes::default();
            all.begin(0, "id".into(), "n".into(), site("dan"), given);
            all.grant(0, "id", "s", "c".into());
            assert_eq!(all.redeem(1, "id", "c", &site("dan"), "n").expect("good").target, kept);
        }
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut all = Handshakes::default();
        for n in 0..20_000 {
            all.begin(0, n.to_string(), String::new(), site("dan"), "/");
        }
        assert_eq!(all.pending.len(), MOST);
        assert!(all.site(1, "19999").is_some() && all.site(1, "0").is_none());
        all.begin(PENDING_LIFETIME, "x".into(), String::new(), site("dan"), "/");
        assert_eq!(all.pending.len(), 1, "stale ones go");
    }
}
