//! What must survive: sessions, the daemon's key, how workspaces ended. SQLite.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};

use crate::access::session::Session;
use crate::access::token::Key;
use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;
use crate::ports::{History, LastOutcome};

/// The version of the tables, kept in SQLite's `user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE session (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, secret_digest TEXT NOT NULL, credential TEXT NOT NULL,
        expires INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE workspace (
        id TEXT PRIMARY KEY, failed INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
";

const EXPIRE: &str = "DELETE FROM session WHERE expires <= ?1";

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// SQLite's own words.
    #[error("{path}: {source}; check the disk, or move the file away to begin anew (everyone signs in again)")]
    Sqlite {
        /// The file.
        path: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A question that it did not answer.
    #[error("the state database: {0}; check its disk, or stop csm and move state.db away (everyone signs in again)")]
    Query(#[from] rusqlite::Error),
    /// It was written by a newer csm.
    #[error("{path}: written by a newer csm (version {found}; this one reads {VERSION}); use that csm again")]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
    },
}

/// The open database.
#[derive(Clone)]
pub struct State {
    connection: Arc<Mutex<Connection>>,
    /// Whether the last write failed: reads may go well on a disk that is full.
    failing: Arc<AtomicBool>,
}

impl State {
    /// Opens or creates it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Sqlite { path: path.display().to_string(), source };
        let connection = Connection::open(path).map_err(failed)?;
        let prepared = (|| {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // Small and seldom used: a page cache of 256 KiB is plenty.
            connection.pragma_update(None, "cache_size", -256)?;
            connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        })();
        match prepared.map_err(failed)? {
            0 => connection.execute_batch(&format!("BEGIN;{TABLES}COMMIT;")).map_err(failed)?,
            VERSION => {}
            found => return Err(StateError::Newer { path: path.display().to_string(), found }),
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)), failing: Arc::default() })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, all of it or nothing, and remembers whether it went well.
    fn write<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StateError> {
        let mut connection = self.connection();
        let written = connection.transaction().and_then(|transaction| {
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        self.failing.store(written.is_err(), Ordering::Relaxed);
        Ok(written?)
    }

    /// The daemon's key; `random` becomes the key when there is none yet.
    pub fn key(&self, random: [u8; 32]) -> Result<Key, StateError> {
        let connection = self.connection();
        connection.execute("INSERT OR IGNORE INTO secret VALUES ('key', ?1)", [random])?;
        Ok(Key::new(connection.query_row("SELECT value FROM secret WHERE name = 'key'", [], |row| row.get(0))?))
    }

    /// The sessions that are still good.
    pub fn sessions(&self, now: Timestamp) -> Result<Vec<Session>, StateError> {
        let connection = self.connection();
        connection.execute(EXPIRE, [now.cast_signed()])?;
        let mut query = connection.prepare("SELECT id, owner, secret_digest, credential, expires FROM session")?;
        let rows = query.query_map([], |row| {
            let (owner, expires): (String, i64) = (row.get(1)?, row.get(4)?);
            let session = owner.parse().ok().map(|owner| {
                Ok(Session {
                    id: row.get(0)?,
                    owner,
                    secret_digest: row.get(2)?,
                    credential: row.get(3)?,
                    expires: expires.cast_unsigned(),
                })
            });
            session.transpose()
        })?;
        Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
    }

    /// Keeps a session, in place of those that have ended by `now`.
    pub fn insert_session(&self, session: &Session, now: Timestamp) -> Result<(), StateError> {
        self.write(|connection| {
            connection.execute(EXPIRE, [now.cast_signed()])?;
            connection.execute(
                "INSERT INTO session VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    session.id,
                    session.owner.as_str(),
                    session.secret_digest,
                    session.credential,
                    session.expires.cast_signed()
                ],
            )?;
            Ok(())
        })
    }

    /// Forgets a session.
    pub fn delete_session(&self, id: &str) -> Result<(), StateError> {
        self.write(|connection| connection.execute("DELETE FROM session WHERE id = ?1", [id]))?;
        Ok(())
    }

    fn remembered(&self) -> rusqlite::Result<BTreeMap<WorkspaceId, LastOutcome>> {
        let connection = self.connection();
        let mut query = connection.prepare("SELECT id, failed, reason, at FROM workspace")?;
        let rows = query.query_map([], |row| {
            let (id, at): (String, i64) = (row.get(0)?, row.get(3)?);
            Ok((id, LastOutcome { failed: row.get(1)?, reason: row.get(2)?, at: at.cast_unsigned() }))
        })?;
        rows.filter_map(|row| row.map(|(id, past)| Some((id.parse().ok()?, past))).transpose()).collect()
    }

    /// Whether the database can still be read, and written. After a write that failed another one is tried, which changes nothing.
    pub fn healthy(&self) -> bool {
        if self.failing.load(Ordering::Relaxed) {
            return self.write(|connection| connection.execute("UPDATE secret SET value = value", [])).is_ok();
        }
        self.connection().query_row("SELECT count(*) FROM session", [], |_| Ok(())).is_ok()
    }
}

impl History for State {
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome> {
        self.remembered().unwrap_or_else(|error| {
            tracing::error!(%error, "can't read how workspaces ended");
            BTreeMap::new()
        })
    }

    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome) {
        let noted = self.write(|connection| {
            connection.execute(
                "INSERT INTO workspace VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET failed = excluded.failed, reason = excluded.reason, at = excluded.at",
                params![id.to_string(), outcome.failed, outcome.reason, outcome.at.cast_signed()],
            )
        });
        if let Err(error) = noted {
            tracing::error!(workspace = %id, %error, "can't note how it ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_key_survive() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.db");
        let session = Session::new("dan".parse().expect("a name"), "id".into(), "secret", "c".into(), 100).0;
        let signature = {
            let state = State::open(&path).expect("opened");
            state.insert_session(&session, 100).expect("kept");
            state.key([1; 32]).expect("a key").sign(&["x"])
        };
        let state = State::open(&path).expect("opened again");
        assert_eq!(state.sessions(101).expect("read"), vec![session.clone()]);
        assert_eq!(state.key([2; 32]).expect("the same key").sign(&["x"]), signature);
        assert!(state.sessions(session.expires).expect("read").is_empty(), "it has ended");
    }

    #[test]
    fn sessions_that_have_ended_make_room_for_new_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(&dir.path().join("state.db")).expect("opened");
        let session = |id: &str, now| Session::new("dan".parse().expect("a name"), id.into(), "s", "c".into(), now).0;
        let (first, second) = (session("first", 100), session("second", 200));
        state.insert_session(&first, 100).expect("kept");
        state.insert_session(&second, first.expires).expect("kept");
        assert_eq!(state.sessions(0).expect("read"), vec![second]);
    }

    #[test]
    fn a_write_that_failed_is_seen_until_one_succeeds() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(&dir.path().join("state.db")).expect("opened");
        state.key([1; 32]).expect("a key");
        let full = |full| state.connection().pragma_update(None, "query_only", full).expect("set");
        full(true);
        assert!(state.healthy(), "nothing was written yet");
        state.delete_session("any").expect_err("refused");
        assert!(!state.healthy());
        assert!(!state.healthy(), "still");
        full(false);
        assert!(state.healthy(), "there is room again");
    }

    #[test]
    fn a_table_that_is_gone_is_no_health() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(&dir.path().join("state.db")).expect("opened");
        assert!(state.healthy());
        state.connection().execute_batch("DROP TABLE session").expect("dropped");
        assert!(!state.healthy());
    }

    #[test]
    fn how_a_workspace_ended_survives() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(&dir.path().join("state.db")).expect("opened");
        let id: WorkspaceId = "dan".parse().expect("an id");
        for reason in ["one", "two"] {
            state.record(&id, &LastOutcome { failed: true, reason: reason.into(), at: 7 });
        }
        assert_eq!(state.load()[&id].reason, "two");
    }

    #[test]
    fn a_newer_or_broken_file_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.db");
        Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("made");
        assert!(State::open(&path).err().expect("refused").to_string().contains("newer csm (version 99"));
        let broken = dir.path().join("broken.db");
        std::fs::write(&broken, "not a database, and long enough to be seen as a broken one").expect("written");
        assert!(State::open(&broken).err().expect("refused").to_string().contains("move the file away"));
    }
}
