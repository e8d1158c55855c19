//! Password files: plain, or an argon2 hash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher as _, Salt, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::files::read_secret;
use crate::access::token::equal_in_constant_time;
use crate::model::digest::sha256_hex;

/// A hash that no password matches. Sign-ins without an argon2 hash are verified against it, so that every attempt takes the same time.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$Y3NtLWR1bW15LXNhbHQ$bI4C7uVyRQiSfs5LTTFtJqIqIHnmuRmIV+tOW6uqG0s";

/// How many browsers can wait for a turn: some seconds of work. More would only use memory.
const MAX_WAITING: usize = 64;

/// Verifies a few passwords at a time: each verification takes 19 MiB of memory and about 20 ms.
#[derive(Clone)]
pub struct Passwords {
    unknown: Queue,
    known: Queue,
}

/// A queue of verifications.
#[derive(Clone)]
struct Queue {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Queue {
    fn new(concurrent: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(concurrent)), places: Arc::new(Semaphore::new(MAX_WAITING)) }
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self { unknown: Queue::new(2), known: Queue::new(1) }
    }
}

impl Passwords {
    /// Waits for a turn; `None` if too many are already waiting. Browsers that have signed in before (`known`) have a separate queue, so
    /// that they never wait for unknown ones.
    pub async fn turn(&self, known: bool) -> Option<Turn> {
        let queue = if known { &self.known } else { &self.unknown };
        let place = queue.places.try_acquire().ok()?;
        let permit = queue.turns.clone().acquire_owned().await.ok()?;
        drop(place);
        Some(Turn { _permit: permit })
    }
}

/// The right to verify one password.
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Returns the file's content if the password matches it. Pass `None` as the file of an unknown name: it takes as long.
    pub async fn verify(self, file: Option<PathBuf>, password: String) -> Option<Vec<u8>> {
        let verified = tokio::task::spawn_blocking(move || {
            // The turn ends with the work, even if the caller has stopped waiting for it.
            let _turn = self;
            let stored = file.as_deref().and_then(stored);
            let right = matches(stored.as_deref(), &password).unwrap_or_else(|error| {
                let file = file.as_deref().unwrap_or(Path::new("")).display();
                tracing::error!(%file, %error, "can't use a password file, so its user can't sign in; {FIX}");
                false
            });
            stored.filter(|_| right)
        });
        verified.await.unwrap_or_default()
    }
}

/// Reads a password file.
pub fn stored(file: &Path) -> Option<Vec<u8>> {
    match read_secret(file) {
        Ok((content, _)) => Some(content),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "can't read a password file, so its user can't sign in; let csm's account read it");
            None
        }
    }
}

/// The limits of a hash's parameters: memory in KiB, passes, lanes. Verifying a hash with greater ones could exhaust the host.
const MAX_COST: (u32, u32, u32) = (256 << 10, 16, 8);

/// Why the content of a password file can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no password in it.
    #[error("the file is empty, blank or not text")]
    Blank,
    /// A hash of another kind, or a part of one. It is not taken as a plain password, because anyone who reads it could sign in with it.
    #[error("the file begins with \"$\", but is not an argon2 hash")]
    NotArgon2,
    /// The hash takes too much memory or time.
    #[error("its argon2 hash takes more than 256 MiB, 16 passes or 8 lanes")]
    TooExpensive,
}

/// The fix for an [`Unusable`] file.
pub const FIX: &str = "write the password into it, or its hash from \"csm hash-password\"";

/// What a password file contains.
enum Secret<'a> {
    Plain(&'a str),
    Hash(Box<(PasswordHash<'a>, Params)>),
}

/// Parses a password file's content, without its trailing newlines.
fn parse(stored: &[u8]) -> Result<Secret<'_>, Unusable> {
    let text = std::str::from_utf8(stored).map_err(|_| Unusable::Blank)?.trim_end_matches(['\r', '\n']);
    match text.trim_start() {
        "" => return Err(Unusable::Blank),
        hash if hash.starts_with('$') => {}
        _ => return Ok(Secret::Plain(text)),
    }
    let hash = PasswordHash::new(text).map_err(|_| Unusable::NotArgon2)?;
    let is_argon2 = Algorithm::try_from(hash.algorithm).is_ok() && hash.salt.is_some() && hash.hash.is_some();
    let params = Params::try_from(&hash).ok().filter(|_| is_argon2).ok_or(Unusable::NotArgon2)?;
    let (memory, passes, lanes) = MAX_COST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return Err(Unusable::TooExpensive);
    }
    Ok(Secret::Hash(Box::new((hash, params))))
}

/// Checks a password file's content.
pub fn check(stored: &[u8]) -> Result<(), Unusable> {
    parse(stored).map(|_| ())
}

/// Whether a password matches. A wrong one takes as long whatever the file contains.
fn matches(stored: Option<&[u8]>, password: &str) -> Result<bool, Unusable> {
    let secret = stored.map(parse).transpose();
    if let Ok(Some(Secret::Hash(hashed))) = &secret {
        let (hash, params) = &**hashed;
        return Ok(verify(hash, params.clone(), password).unwrap_or(false));
    }
    if let Ok(dummy) = PasswordHash::new(DUMMY) {
        verify(&dummy, Params::default(), password);
    }
    Ok(match secret? {
        // Digests have equal length, so the comparison's duration does not reveal the password's length.
        Some(Secret::Plain(plain)) => {
            equal_in_constant_time(sha256_hex(plain.as_bytes()).as_bytes(), sha256_hex(password.as_bytes()).as_bytes())
        }
        _ => false,
    })
}

/// Verifies like argon2's `verify_password`, but in memory that is returned to the kernel afterwards. glibc caches freed blocks unless
/// they are bigger than 32 MiB, so this reserves more than that; the part that is never written costs nothing.
fn verify(hash: &PasswordHash<'_>, params: Params, password: &str) -> Option<bool> {
    const BLOCKS_RETURNED: usize = (33 << 20) / Block::SIZE;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let argon2 = Argon2::new(hash.algorithm.try_into().ok()?, version, params);
    let mut salt = [0; Salt::MAX_LENGTH];
    let salt = hash.salt?.decode_b64(&mut salt).ok()?;
    let stored = hash.hash?;
    let mut computed = vec![0; stored.len()];
    let blocks = argon2.params().block_count();
    let mut memory = Vec::with_capacity(blocks.max(BLOCKS_RETURNED));
    memory.resize(blocks, Block::default());
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut computed, &mut memory).ok()?;
    Some(equal_in_constant_time(&computed, stored.as_bytes()))
}

/// The argon2id hash of a password, for a password file. `salt` must be random.
pub fn hash(password: &str, salt: [u8; 32]) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(&salt[..16])?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_more_and_known_browsers_do_not_wait_for_it() {
        let passwords = Passwords::default();
        let _turns = (passwords.turn(false).await.expect("free"), passwords.turn(false).await.expect("free"));
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(passwords.turn(false))).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        assert!(passwords.turn(false).await.is_none(), "too many wait");
        assert!(passwords.turn(true).await.is_some());
        drop(waiting);
        assert!(futures_util::poll!(Box::pin(passwords.turn(false))).is_pending(), "there is room again");
    }

    fn right(stored: &[u8], password: &str) -> bool {
        matches(Some(stored), password).expect("usable")
    }

    #[test]
    fn plain_and_hashed_passwords() {
        assert!(right(b"secret\n", "secret"));
        assert!(!right(b"secret\n", "secret\n"));
        assert!(!right(b"secret", "Secret"));
        let hashed = hash("secret", [3; 32]).expect("hashed");
        assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(right(hashed.as_bytes(), "secret"));
        assert!(!right(hashed.as_bytes(), &hashed), "the hash is not a password");
        assert!(!right(hashed.as_bytes(), "other"));
        assert_eq!(matches(None, ""), Ok(false));
    }

    #[test]
    fn a_file_without_a_usable_password_never_matches() {
        let with = |cost: &str| DUMMY.replace("m=19456,t=2,p=1", cost);
        let no_salt = DUMMY.rsplit_once('$').expect("a hash").0;
        let cut = &DUMMY[..DUMMY.len() - 60];
        for (text, error) in [
            ("", Unusable::Blank),
            ("\n", Unusable::Blank),
            ("  \t \n", Unusable::Blank),
            ("$argon2id$broken", Unusable::NotArgon2),
            ("$", Unusable::NotArgon2),
            ("$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe", Unusable::NotArgon2),
            ("$6$salt$hash", Unusable::NotArgon2),
            (
                "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
                Unusable::NotArgon2,
            ),
            (no_salt, Unusable::NotArgon2),
            (cut, Unusable::NotArgon2),
            (&format!(" {DUMMY}"), Unusable::NotArgon2),
            (&format!("{DUMMY} "), Unusable::NotArgon2),
            (&with("m=4194304,t=200,p=1"), Unusable::TooExpensive),
            (&with("m=262145,t=1,p=1"), Unusable::TooExpensive),
            (&with("m=19456,t=17,p=1"), Unusable::TooExpensive),
            (&with("m=19456,t=2,p=9"), Unusable::TooExpensive),
        ] {
            assert_eq!(check(text.as_bytes()), Err(error), "{text:?}");
        }
        for text in ["", "  ", "$2y$05$bvIG6Nmid91Mu9RcmmWZfO"] {
            assert!(matches(Some(text.as_bytes()), text).is_err(), "{text:?}");
        }
        assert_eq!(check(b"\xff\xfe"), Err(Unusable::Blank));
        for usable in ["m=262144,t=16,p=8", "m=8,t=1,p=1"] {
            assert_eq!(check(with(usable).as_bytes()), Ok(()), "{usable}");
        }
    }

    #[test]
    fn the_dummy_hash_is_valid() {
        let Ok(Secret::Hash(hashed)) = parse(DUMMY.as_bytes()) else { panic!("not a hash") };
        let cost = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
        assert_eq!(cost(&hashed.1), cost(&Params::default()), "it takes as long as a real one");
    }
}
