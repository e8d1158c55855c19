//! How a session of the dashboard's host becomes a cookie of a workspace's host.
//!
//! The workspace's host gives the browser a nonce, and sends it to the dashboard's host with a signed token that says which host it
//! comes from, where it was going, and for which nonce. The dashboard's host checks signature, session and right, and stores a code.
//! The workspace's host takes the code back: once, within 30 s, on the exact host, from the browser with the nonce. Nothing is
//! stored for a visitor who is not signed in, so that no number of them is in anybody's way; and no address travels through the
//! browser that could be swapped on the way.

use std::collections::HashMap;

use super::site::Site;
use super::token::{Key, decode_text, encode_text, same};
use crate::model::digest::sha256_hex;
use crate::model::name::Name;
use crate::model::workspace::Timestamp;

/// How long a code is good, in seconds.
pub const CODE_LIFETIME: u64 = 30;

/// How long someone can take to sign in, in seconds.
pub const PENDING_LIFETIME: u64 = 600;

/// At most this many codes for one user; the oldest go first. A browser that opens many tabs at a time needs one for each.
const MAX_CODES: usize = 32;

/// Longer targets are forgotten, and the visitor lands on the first page: the token has to fit into a request's first line.
const MAX_TARGET: usize = 5000;

/// Where a visitor was going who is not signed in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The host.
    pub site: Site,
    /// A path on that host.
    target: String,
    /// The SHA-256 of the browser's nonce.
    nonce_digest: String,
    /// When it began.
    at: Timestamp,
}

impl Handshake {
    /// One that begins now. `nonce` is the browser's.
    pub fn new(now: Timestamp, nonce: &str, site: Site, target: &str) -> Self {
        let fits = target.starts_with('/') && !target.starts_with("/_csm/") && target.len() <= MAX_TARGET;
        let target = if fits { target.to_owned() } else { "/".to_owned() };
        Self { site, target, nonce_digest: sha256_hex(nonce.as_bytes()), at: now }
    }

    /// As it travels through the browser: text of `A-Z a-z 0-9 - _ .`.
    pub fn token(&self, key: &Key) -> String {
        let site = encode_text(&self.site.to_string());
        format!("{}.{}.{site}.{}.{}", self.at, self.nonce_digest, encode_text(&self.target), self.signature(key))
    }

    /// The handshake of a token that this daemon signed, while it is good.
    pub fn of_token(token: &str, key: &Key, now: Timestamp) -> Option<Self> {
        let mut parts = token.split('.');
        let mut next = || parts.next();
        let (at, nonce_digest, site, target, signature) = (next()?, next()?, next()?, next()?, next()?);
        let (site, target) = (decode_text(site)?.parse().ok()?, decode_text(target)?);
        let handshake = Self { site, target, nonce_digest: nonce_digest.to_owned(), at: at.parse().ok()? };
        let good = same(handshake.signature(key).as_bytes(), signature.as_bytes()) && parts.next().is_none();
        // A clock that is set back makes none good for longer.
        (good && now.abs_diff(handshake.at) < PENDING_LIFETIME).then_some(handshake)
    }

    fn signature(&self, key: &Key) -> String {
        let (at, site) = (self.at.to_string(), self.site.to_string());
        key.sign(&["handshake", &at, &self.nonce_digest, &site, &self.target])
    }
}

struct Granted {
    handshake: Handshake,
    session: String,
    owner: Name,
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

/// The codes that were granted and not yet taken back, by their SHA-256.
#[derive(Default)]
pub struct Codes(HashMap<String, Granted>);

impl Codes {
    /// Gives a session's right to a handshake. `code` is random. The caller has checked that `owner`, whose session it is, has the right.
    pub fn grant(&mut self, now: Timestamp, code: &str, handshake: Handshake, session: &str, owner: &Name) {
        self.0.retain(|_, granted| granted.expires > now);
        let theirs = || self.0.iter().filter(|(_, granted)| granted.owner == *owner);
        if theirs().count() >= MAX_CODES
            && let Some(oldest) = theirs().min_by_key(|(_, granted)| granted.expires).map(|(code, _)| code.clone())
        {
            self.0.remove(&oldest);
        }
        let expires = now + CODE_LIFETIME;
        let granted = Granted { handshake, session: session.to_owned(), owner: owner.clone(), expires };
        self.0.insert(sha256_hex(code.as_bytes()), granted);
    }

    /// Takes a code back. Whatever the outcome, it can't be tried again.
    pub fn redeem(&mut self, now: Timestamp, code: &str, site: &Site, nonce: &str) -> Option<Redeemed> {
        let granted = self.0.remove(&sha256_hex(code.as_bytes()))?;
        let handshake = granted.handshake;
        let good = granted.expires > now
            && handshake.site == *site
            && same(handshake.nonce_digest.as_bytes(), sha256_hex(nonce.as_bytes()).as_bytes());
        good.then_some(Redeemed { session: granted.session, target: handshake.target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(label: &str) -> Site {
        Site::Workspace(label.parse().expect("a label"))
    }

    fn dan() -> Name {
        "dan".parse().expect("a name")
    }

    fn key() -> Key {
        Key::new([7; 32])
    }

    fn granted() -> Codes {
        let mut codes = Codes::default();
        codes.grant(10, "code", Handshake::new(0, "nonce", site("dan"), "/a?b=c"), "session", &dan());
        codes
    }

    #[test]
    fn a_code_works_once_on_its_host_in_its_browser_in_time() {
        let redeem = |now, code, on: &str, nonce| granted().redeem(now, code, &site(on), nonce).is_some();
        assert!(redeem(39, "code", "dan", "nonce"));
        assert!(!redeem(40, "code", "dan", "nonce"), "too late");
        assert!(!redeem(11, "edoc", "dan", "nonce"), "another code");
        assert!(!redeem(11, "code", "alice", "nonce"), "another host");
        assert!(!redeem(11, "code", "3000--dan", "nonce"), "another host of the same workspace");
        assert!(!redeem(11, "code", "dan", ""), "another browser");
        let mut codes = granted();
        assert!(codes.redeem(11, "code", &site("dan"), "nonce").is_some());
        assert!(codes.redeem(11, "code", &site("dan"), "nonce").is_none(), "replayed");
        let mut codes = granted();
        assert!(codes.redeem(11, "code", &site("dan"), "guess").is_none());
        assert!(codes.redeem(11, "code", &site("dan"), "nonce").is_none(), "taken back in vain");
    }

    #[test]
    fn a_token_says_what_was_signed_and_only_for_a_time() {
        let begun = Handshake::new(1000, "nonce", site("dan"), "/a?b=c&d=//e");
        let token = begun.token(&key());
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
        let read = |token: &str, now| Handshake::of_token(token, &key(), now);
        assert_eq!(read(&token, 1000), Some(begun.clone()));
        assert_eq!(read(&token, 1599), Some(begun.clone()));
        assert_eq!(read(&token, 1600), None, "too late");
        assert_eq!(read(&token, 400), None, "from the future");
        assert_eq!(Handshake::of_token(&token, &Key::new([8; 32]), 1000), None, "another daemon's");
        let mut parts: Vec<&str> = token.split('.').collect();
        assert_eq!(read(&format!("{token}.x"), 1000), None);
        for (at, other) in [(0, "1001"), (1, "00"), (2, "bGFiZWw6YWxpY2U"), (3, "Ly9ldmls"), (4, "")] {
            let was = std::mem::replace(&mut parts[at], other);
            assert_eq!(read(&parts.join("."), 1000), None, "part {at}");
            parts[at] = was;
        }
        assert_eq!(read(&parts.join("."), 1000), Some(begun));
        for bad in ["", ".", "....", "0....", "x.y.z.a.b", "é.é.é.é.é"] {
            assert_eq!(read(bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn the_target_stays_a_path_of_the_host() {
        let long = format!("/{}", "a".repeat(MAX_TARGET - 1));
        let longer = format!("{long}a");
        for (given, kept) in [
            ("/a?b", "/a?b"),
            ("https://evil.example/", "/"),
            ("evil", "/"),
            ("", "/"),
            ("/_csm/callback?id=x", "/"),
            // A path all the same: it is appended to the host's own origin, never sent alone.
            ("//evil.example/", "//evil.example/"),
            (&long, &long),
            (&longer, "/"),
        ] {
            let begun = Handshake::new(0, "n", site("dan"), given);
            let back = Handshake::of_token(&begun.token(&key()), &key(), 1).expect("good");
            let mut codes = Codes::default();
            codes.grant(1, "c", back, "s", &dan());
            assert_eq!(codes.redeem(1, "c", &site("dan"), "n").expect("good").target, kept);
        }
    }

    #[test]
    fn a_user_with_many_codes_is_in_nobodys_way() {
        let mut codes = granted();
        let grace: Name = "grace".parse().expect("a name");
        for n in 0..1000u64 {
            let begun = Handshake::new(10, "nonce", site("grace"), "/");
            codes.grant(10 + n / 100, &n.to_string(), begun, "s", &grace);
        }
        assert_eq!(codes.0.len(), MAX_CODES + 1);
        assert!(codes.redeem(20, "999", &site("grace"), "nonce").is_some(), "the newest");
        assert!(codes.redeem(20, "0", &site("grace"), "nonce").is_none(), "the oldest");
        assert!(codes.redeem(20, "code", &site("dan"), "nonce").is_some(), "another user's");
        codes.grant(1000, "x", Handshake::new(1000, "nonce", site("dan"), "/"), "s", &dan());
        assert_eq!(codes.0.len(), 1, "stale ones go");
    }
}
