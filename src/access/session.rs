//! Who is signed in.

use std::collections::HashMap;

use super::token::same;
use crate::model::digest::sha256_hex;
use crate::model::name::Name;
use crate::model::workspace::Timestamp;

/// How long a sign-in lasts, in seconds: 30 days.
pub const LIFETIME: u64 = 30 * 86_400;

/// How many sessions a person can have. A further sign-in ends the oldest.
pub const MAX_SESSIONS: usize = 50;

/// One sign-in of one browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Names it; no secret.
    pub id: String,
    /// Who signed in.
    pub owner: Name,
    /// The SHA-256 of the cookie's secret.
    pub secret_digest: String,
    /// A keyed digest of the password that proved it: with another password the session ends.
    pub credential: String,
    /// When it ends.
    pub expires: Timestamp,
}

impl Session {
    /// A session and the value of its cookie. `id` and `secret` are random.
    pub fn new(owner: Name, id: String, secret: &str, credential: String, now: Timestamp) -> (Self, String) {
        let cookie = format!("{id}.{secret}");
        let secret_digest = sha256_hex(secret.as_bytes());
        (Self { id, owner, secret_digest, credential, expires: now + LIFETIME }, cookie)
    }
}

/// All sessions, by id.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<String, Session>);

impl Sessions {
    /// These sessions.
    pub fn new(sessions: impl IntoIterator<Item = Session>) -> Self {
        Self(sessions.into_iter().map(|session| (session.id.clone(), session)).collect())
    }

    /// Adds one.
    pub fn insert(&mut self, session: Session) {
        self.0.insert(session.id.clone(), session);
    }

    /// Adds one, in place of the person's oldest if they have [`MAX_SESSIONS`]. Returns the ids of those that ended.
    pub fn insert_newest(&mut self, session: Session) -> Vec<String> {
        let mut others: Vec<_> = self.0.values().filter(|other| other.owner == session.owner).collect();
        others.sort_by_key(|other| other.expires);
        let excess = (others.len() + 1).saturating_sub(MAX_SESSIONS);
        let ended: Vec<String> = others.iter().take(excess).map(|other| other.id.clone()).collect();
        for id in &ended {
            self.remove(id);
        }
        self.insert(session);
        ended
    }

    /// Ends one.
    pub fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// Forgets those that ended by themselves.
    pub fn expire(&mut self, now: Timestamp) {
        self.0.retain(|_, session| session.expires > now);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is signed in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A session that is still good.
    pub fn get(&self, id: &str, now: Timestamp) -> Option<&Session> {
        self.0.get(id).filter(|session| session.expires > now)
    }

    /// The session that a cookie's value proves.
    pub fn by_cookie(&self, cookie: &str, now: Timestamp) -> Option<&Session> {
        let (id, secret) = cookie.split_once('.')?;
        let session = self.get(id, now)?;
        same(session.secret_digest.as_bytes(), sha256_hex(secret.as_bytes()).as_bytes()).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_proves_a_session_and_only_until_it_ends() {
        let (session, cookie) = Session::new("dan".parse().expect("a name"), "i".into(), "s", "c".into(), 100);
        let mut sessions = Sessions::new([session]);
        assert_eq!(sessions.by_cookie(&cookie, 100).expect("signed in").owner.as_str(), "dan");
        for wrong in ["", "i", "i.", "i.t", "j.s", "i.s."] {
            assert!(sessions.by_cookie(wrong, 100).is_none(), "{wrong}");
        }
        assert!(sessions.by_cookie(&cookie, 100 + LIFETIME).is_none());
        sessions.remove("i");
        assert!(sessions.by_cookie(&cookie, 100).is_none());
    }

    #[test]
    fn a_session_too_many_ends_the_oldest_of_that_person() {
        let session = |owner: &str, n: u64| {
            Session::new(owner.parse().expect("a name"), format!("{owner}{n}"), "s", "c".into(), n).0
        };
        let mut sessions = Sessions::new((0..60).map(|n| session("grace", n)));
        let most = MAX_SESSIONS as u64;
        for n in 0..most {
            assert!(sessions.insert_newest(session("dan", n)).is_empty());
        }
        assert_eq!(sessions.insert_newest(session("dan", most)), ["dan0"]);
        assert_eq!(sessions.insert_newest(session("grace", 60)).len(), 60 + 1 - MAX_SESSIONS);
        assert_eq!(sessions.len(), 2 * MAX_SESSIONS);
        assert!(sessions.get("grace60", 100).is_some() && sessions.get("dan1", 100).is_some());
    }
}
