//! Sessions: which users are signed in, in which browsers.

use std::collections::HashMap;

use super::token::equal_in_constant_time;
use crate::model::digest::sha256_hex;
use crate::model::name::Name;
use crate::model::workspace::Timestamp;

/// How long a session lasts, in seconds: 30 days.
pub const SESSION_LIFETIME: u64 = 30 * 86_400;

/// The maximum number of sessions per user. A further sign-in removes the oldest.
pub const MAX_SESSIONS: usize = 50;

/// A user's session in one browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Identifies the session; not secret.
    pub id: String,
    /// The user who signed in.
    pub owner: Name,
    /// The SHA-256 of the cookie's secret.
    pub secret_digest: String,
    /// A keyed digest of the password with which the user signed in. The session ends when the user's password changes.
    pub credential: String,
    /// When the session expires.
    pub expires: Timestamp,
}

impl Session {
    /// Creates a session, and returns it with the value of its cookie. `id` and `secret` are random.
    pub fn new(owner: Name, id: String, secret: &str, credential: String, now: Timestamp) -> (Self, String) {
        let cookie = format!("{id}.{secret}");
        let secret_digest = sha256_hex(secret.as_bytes());
        (Self { id, owner, secret_digest, credential, expires: now + SESSION_LIFETIME }, cookie)
    }
}

/// All sessions, by id.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<String, Session>);

impl Sessions {
    /// Creates it from existing sessions.
    pub fn new(sessions: impl IntoIterator<Item = Session>) -> Self {
        Self(sessions.into_iter().map(|session| (session.id.clone(), session)).collect())
    }

    /// Adds a session.
    pub fn insert(&mut self, session: Session) {
        self.0.insert(session.id.clone(), session);
    }

    /// Adds a session. If the user then has more than [`MAX_SESSIONS`], removes their oldest. Returns the ids of removed sessions.
    pub fn insert_newest(&mut self, session: Session) -> Vec<String> {
        let mut others: Vec<_> = self.0.values().filter(|other| other.owner == session.owner).collect();
        others.sort_by_key(|other| other.expires);
        let excess = (others.len() + 1).saturating_sub(MAX_SESSIONS);
        let removed: Vec<String> = others.iter().take(excess).map(|other| other.id.clone()).collect();
        for id in &removed {
            self.remove(id);
        }
        self.insert(session);
        removed
    }

    /// Removes a session.
    pub fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// Removes expired sessions.
    pub fn remove_expired(&mut self, now: Timestamp) {
        self.0.retain(|_, session| session.expires > now);
    }

    /// Iterates over all sessions.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.0.values()
    }

    /// The number of sessions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The session with this id, if it has not expired.
    pub fn get(&self, id: &str, now: Timestamp) -> Option<&Session> {
        self.0.get(id).filter(|session| session.expires > now)
    }

    /// The session whose id and secret are in a cookie's value, if it has not expired.
    pub fn by_cookie(&self, cookie: &str, now: Timestamp) -> Option<&Session> {
        let (id, secret) = cookie.split_once('.')?;
        let session = self.get(id, now)?;
        let secret_digest = sha256_hex(secret.as_bytes());
        equal_in_constant_time(session.secret_digest.as_bytes(), secret_digest.as_bytes()).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_needs_its_secret_and_expires() {
        let (session, cookie) = Session::new("dan".parse().expect("a name"), "i".into(), "s", "c".into(), 100);
        let mut sessions = Sessions::new([session]);
        assert_eq!(sessions.by_cookie(&cookie, 100).expect("signed in").owner.as_str(), "dan");
        for wrong in ["", "i", "i.", "i.t", "j.s", "i.s."] {
            assert!(sessions.by_cookie(wrong, 100).is_none(), "{wrong}");
        }
        assert!(sessions.by_cookie(&cookie, 100 + SESSION_LIFETIME).is_none());
        sessions.remove("i");
        assert!(sessions.by_cookie(&cookie, 100).is_none());
    }

    #[test]
    fn a_session_over_the_maximum_removes_that_users_oldest() {
        let session = |owner: &str, n: u64| {
            Session::new(owner.parse().expect("a name"), format!("{owner}{n}"), "s", "c".into(), n).0
        };
        let mut sessions = Sessions::new((0..60).map(|n| session("grace", n)));
        let max = MAX_SESSIONS as u64;
        for n in 0..max {
            assert!(sessions.insert_newest(session("dan", n)).is_empty());
        }
        assert_eq!(sessions.insert_newest(session("dan", max)), ["dan0"]);
        assert_eq!(sessions.insert_newest(session("grace", 60)).len(), 60 + 1 - MAX_SESSIONS);
        assert_eq!(sessions.len(), 2 * MAX_SESSIONS);
        assert!(sessions.get("grace60", 100).is_some() && sessions.get("dan1", 100).is_some());
    }
}
