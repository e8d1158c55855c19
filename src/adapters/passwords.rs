//! Password files: plain, or an argon2 hash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher as _, Salt, SaltString};
use argon2::{Argon2, Block, Params, Version};
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
            let stored = file.and_then(|file| stored(&file));
            let right = matches(stored.as_deref(), &password);
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

/// The password or hash in a file's content, without its trailing newlines. `None` if it is empty or not text.
pub fn content(stored: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(stored).ok()?.trim_end_matches(['\r', '\n']);
    (!text.is_empty()).then_some(text)
}

fn matches(stored: Option<&[u8]>, password: &str) -> bool {
    let stored = stored.and_then(content);
    let hash = stored.filter(|stored| stored.starts_with("$argon2")).unwrap_or(DUMMY);
    let hashed = PasswordHash::new(hash).is_ok_and(|hash| verify(&hash, password).unwrap_or(false));
    match stored {
        None => false,
        Some(stored) if stored.starts_with("$argon2") => hashed,
        // Digests have equal length, so the comparison's duration does not reveal the password's length.
        Some(plain) => {
            equal_in_constant_time(sha256_hex(plain.as_bytes()).as_bytes(), sha256_hex(password.as_bytes()).as_bytes())
        }
    }
}

/// Verifies like argon2's `verify_password`, but in memory that is returned to the kernel afterwards. glibc caches freed blocks unless
/// they are bigger than 32 MiB, so this reserves more than that; the part that is never written costs nothing.
fn verify(hash: &PasswordHash<'_>, password: &str) -> Option<bool> {
    const BLOCKS_RETURNED: usize = (33 << 20) / Block::SIZE;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let argon2 = Argon2::new(hash.algorithm.try_into().ok()?, version, Params::try_from(hash).ok()?);
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

    #[test]
    fn plain_and_hashed_passwords() {
        assert!(matches(Some(b"secret\n"), "secret"));
        assert!(!matches(Some(b"secret\n"), "secret\n"));
        assert!(!matches(Some(b"secret"), "Secret"));
        let hashed = hash("secret", [3; 32]).expect("hashed");
        assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(matches(Some(hashed.as_bytes()), "secret"));
        assert!(!matches(Some(hashed.as_bytes()), &hashed), "the hash is not a password");
        assert!(!matches(Some(hashed.as_bytes()), "other"));
    }

    #[test]
    fn an_empty_missing_or_invalid_file_never_matches() {
        for stored in [None, Some(b"".as_slice()), Some(b"\n"), Some(b"\xff\xfe"), Some(b"$argon2id$broken")] {
            for password in ["", "\n", "$argon2id$broken"] {
                assert!(!matches(stored, password), "{stored:?} {password:?}");
            }
        }
    }

    #[test]
    fn the_dummy_hash_is_valid() {
        assert!(PasswordHash::new(DUMMY).is_ok());
    }
}
