//! The handshake by which a session on the dashboard's host gets a cookie on a workspace's host.
//!
//! 1. The workspace's host sets a nonce cookie, and redirects the browser to the dashboard's host with a signed token. The token contains
//!    the workspace's host, the requested path and the nonce's digest.
//! 2. The dashboard's host checks the signature, the session and the user's right to the workspace, stores a code, and redirects back.
//! 3. The workspace's host redeems the code: once, within 30 s, on the exact host, from the browser with the nonce.
//!
//! csm stores nothing for unauthenticated visitors, so that they can't use up its memory, however many they are. Every address that
//! passes through the browser is signed, so that an attacker can't replace it.

use std::collections::HashMap;

use super::site::Site;
use super::token::{Key, decode_text, encode_text, equal_in_constant_time};
use crate::model::digest::sha256_hex;
use crate::model::name::Name;
use crate::model::workspace::Timestamp;

/// How long a code is valid, in seconds.
pub const CODE_LIFETIME: u64 = 30;

/// How long a visitor can take to sign in, in seconds.
pub const PENDING_LIFETIME: u64 = 600;

/// The maximum number of codes per user; the oldest are removed first. A browser that opens many tabs together needs one for each.
const MAX_CODES: usize = 32;

/// The maximum length of a target; a longer one is replaced by `/`. The token must fit into a request line.
const MAX_TARGET: usize = 5000;

/// A handshake that was started: what a visitor requested on a host where they have no cookie yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The requested host.
    pub site: Site,
    /// The requested path on that host.
    target: String,
    /// The SHA-256 of the browser's nonce.
    nonce_digest: String,
    /// When it was started.
    started: Timestamp,
}

impl Handshake {
    /// Starts a handshake for the browser that has this nonce.
    pub fn new(now: Timestamp, nonce: &str, site: Site, target: &str) -> Self {
        let fits = target.starts_with('/') && !target.starts_with("/_csm/") && target.len() <= MAX_TARGET;
        let target = if fits { target.to_owned() } else { "/".to_owned() };
        Self { site, target, nonce_digest: sha256_hex(nonce.as_bytes()), started: now }
    }

    /// The signed token that passes through the browser. It consists of `A-Z a-z 0-9 - _ .`.
    pub fn token(&self, key: &Key) -> String {
        let site = encode_text(&self.site.to_string());
        format!("{}.{}.{site}.{}.{}", self.started, self.nonce_digest, encode_text(&self.target), self.signature(key))
    }

    /// Parses a token. Returns `None` if this daemon did not sign it, or if it has expired.
    pub fn from_token(token: &str, key: &Key, now: Timestamp) -> Option<Self> {
        let mut parts = token.split('.');
        let mut next = || parts.next();
        let (started, nonce_digest, site, target, signature) = (next()?, next()?, next()?, next()?, next()?);
        let (site, target) = (decode_text(site)?.parse().ok()?, decode_text(target)?);
        let handshake = Self { site, target, nonce_digest: nonce_digest.to_owned(), started: started.parse().ok()? };
        let is_signed =
            equal_in_constant_time(handshake.signature(key).as_bytes(), signature.as_bytes()) && parts.next().is_none();
        // The absolute difference, so that setting the clock back does not extend a token's lifetime.
        (is_signed && now.abs_diff(handshake.started) < PENDING_LIFETIME).then_some(handshake)
    }

    fn signature(&self, key: &Key) -> String {
        let (started, site) = (self.started.to_string(), self.site.to_string());
        key.sign(&["handshake", &started, &self.nonce_digest, &site, &self.target])
    }
}

struct Grant {
    handshake: Handshake,
    session: String,
    owner: Name,
    expires: Timestamp,
}

/// What a redeemed code grants.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// The id of the visitor's session.
    pub session: String,
    /// The requested path on the workspace's host.
    pub target: String,
}

/// The codes that were granted and not yet redeemed, by their SHA-256.
#[derive(Default)]
pub struct Codes(HashMap<String, Grant>);

impl Codes {
    /// Stores a code for a handshake. `code` is random. The caller has checked that the session belongs to `owner`, who has the right to
    /// the handshake's site.
    pub fn grant(&mut self, now: Timestamp, code: &str, handshake: Handshake, session: &str, owner: &Name) {
        self.0.retain(|_, grant| grant.expires > now);
        let owners_grants = || self.0.iter().filter(|(_, grant)| grant.owner == *owner);
        if owners_grants().count() >= MAX_CODES
            && let Some(oldest) = owners_grants().min_by_key(|(_, grant)| grant.expires).map(|(code, _)| code.clone())
        {
            self.0.remove(&oldest);
        }
        let expires = now + CODE_LIFETIME;
        let grant = Grant { handshake, session: session.to_owned(), owner: owner.clone(), expires };
        self.0.insert(sha256_hex(code.as_bytes()), grant);
    }

    /// Redeems a code. The code is removed even if it is refused, so that it can't be tried again.
    pub fn redeem(&mut self, now: Timestamp, code: &str, site: &Site, nonce: &str) -> Option<Redeemed> {
        let Grant { handshake, session, expires, .. } = self.0.remove(&sha256_hex(code.as_bytes()))?;
        let nonce_digest = sha256_hex(nonce.as_bytes());
        let is_valid = expires > now
            && handshake.site == *site
            && equal_in_constant_time(handshake.nonce_digest.as_bytes(), nonce_digest.as_bytes());
        is_valid.then_some(Redeemed { session, target: handshake.target })
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

    fn codes_with_one_grant() -> Codes {
        let mut codes = Codes::default();
        codes.grant(10, "code", Handshake::new(0, "nonce", site("dan"), "/a?b=c"), "session", &dan());
        codes
    }

    #[test]
    fn a_code_works_once_in_time_on_its_host_in_its_browser() {
        let redeem = |now, code, on: &str, nonce| codes_with_one_grant().redeem(now, code, &site(on), nonce).is_some();
        assert!(redeem(39, "code", "dan", "nonce"));
        assert!(!redeem(40, "code", "dan", "nonce"), "too late");
        assert!(!redeem(11, "edoc", "dan", "nonce"), "another code");
        assert!(!redeem(11, "code", "alice", "nonce"), "another host");
        assert!(!redeem(11, "code", "3000--dan", "nonce"), "another host of the same workspace");
        assert!(!redeem(11, "code", "dan", ""), "another browser");
        let mut codes = codes_with_one_grant();
        assert!(codes.redeem(11, "code", &site("dan"), "nonce").is_some());
        assert!(codes.redeem(11, "code", &site("dan"), "nonce").is_none(), "replayed");
        let mut codes = codes_with_one_grant();
        assert!(codes.redeem(11, "code", &site("dan"), "guess").is_none());
        assert!(codes.redeem(11, "code", &site("dan"), "nonce").is_none(), "removed by the refused attempt");
    }

    #[test]
    fn a_changed_or_expired_token_is_refused() {
        let handshake = Handshake::new(1000, "nonce", site("dan"), "/a?b=c&d=//e");
        let token = handshake.token(&key());
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
        let read = |token: &str, now| Handshake::from_token(token, &key(), now);
        assert_eq!(read(&token, 1000), Some(handshake.clone()));
        assert_eq!(read(&token, 1599), Some(handshake.clone()));
        assert_eq!(read(&token, 1600), None, "too late");
        assert_eq!(read(&token, 400), None, "from the future");
        assert_eq!(Handshake::from_token(&token, &Key::new([8; 32]), 1000), None, "another daemon's");
        let mut parts: Vec<&str> = token.split('.').collect();
        assert_eq!(read(&format!("{token}.x"), 1000), None);
        for (at, other) in [(0, "1001"), (1, "00"), (2, "bGFiZWw6YWxpY2U"), (3, "Ly9ldmls"), (4, "")] {
            let was = std::mem::replace(&mut parts[at], other);
            assert_eq!(read(&parts.join("."), 1000), None, "part {at}");
            parts[at] = was;
        }
        assert_eq!(read(&parts.join("."), 1000), Some(handshake));
        for bad in ["", ".", "....", "0....", "x.y.z.a.b", "é.é.é.é.é"] {
            assert_eq!(read(bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn a_target_is_always_a_path_on_the_host() {
        let long = format!("/{}", "a".repeat(MAX_TARGET - 1));
        let longer = format!("{long}a");
        for (given, expected) in [
            ("/a?b", "/a?b"),
            ("https://evil.example/", "/"),
            ("evil", "/"),
            ("", "/"),
            ("/_csm/callback?id=x", "/"),
            // Also a path: csm appends it to the host's origin, and never sends it alone.
            ("//evil.example/", "//evil.example/"),
            (&long, &long),
            (&longer, "/"),
        ] {
            let started = Handshake::new(0, "n", site("dan"), given);
            let returned = Handshake::from_token(&started.token(&key()), &key(), 1).expect("a valid token");
            let mut codes = Codes::default();
            codes.grant(1, "c", returned, "s", &dan());
            assert_eq!(codes.redeem(1, "c", &site("dan"), "n").expect("a valid code").target, expected);
        }
    }

    #[test]
    fn many_codes_of_one_user_do_not_affect_other_users() {
        let mut codes = codes_with_one_grant();
        let grace: Name = "grace".parse().expect("a name");
        for n in 0..1000u64 {
            let handshake = Handshake::new(10, "nonce", site("grace"), "/");
            codes.grant(10 + n / 100, &n.to_string(), handshake, "s", &grace);
        }
        assert_eq!(codes.0.len(), MAX_CODES + 1);
        assert!(codes.redeem(20, "999", &site("grace"), "nonce").is_some(), "the newest");
        assert!(codes.redeem(20, "0", &site("grace"), "nonce").is_none(), "the oldest");
        assert!(codes.redeem(20, "code", &site("dan"), "nonce").is_some(), "another user's");
        codes.grant(1000, "x", Handshake::new(1000, "nonce", site("dan"), "/"), "s", &dan());
        assert_eq!(codes.0.len(), 1, "expired codes are removed");
    }
}
