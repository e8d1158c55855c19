//! What must survive: sessions, the daemon's key, how workspaces ended. SQLite.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::{Connection, params};
use rusqlite_migration::{M, Migrations, SchemaVersion};
use tokio::sync::{mpsc, oneshot};

use crate::access::session::Session;
use crate::access::token::Key;
use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;
use crate::ports::{History, LastOutcome};

/// The tables' history. SQLite's `user_version` counts the steps that a file has taken. A step that was released never changes; what
/// is to be different is a further step.
const STEPS: &[M<'_>] = &[M::up(
    "CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE session (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, secret_digest TEXT NOT NULL, credential TEXT NOT NULL,
        expires INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE workspace (
        id TEXT PRIMARY KEY, failed INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL
    ) STRICT;",
)];

const MIGRATIONS: Migrations<'_> = Migrations::from_slice(STEPS);

const EXPIRE: &str = "DELETE FROM session WHERE expires <= ?1";

/// What the thread's stack needs; SQLite's own buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It can't be opened.
    #[error(
        "can't open the state database {path}: {cause}; check its disk, or move the file away (everyone signs in again)"
    )]
    Open {
        /// The file.
        path: String,
        /// What SQLite said.
        cause: String,
    },
    /// It was written by a newer csm.
    #[error(
        "can't open the state database {path}: it has version {found}, and this csm reads up to {}; run the csm that wrote it, or move the file away (everyone signs in again)",
        STEPS.len()
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: usize,
    },
    /// Its thread can't be started.
    #[error("can't start the state database's thread: {0}; check the account's limit of processes and the free memory")]
    Thread(std::io::Error),
    /// A question that it did not answer.
    #[error(
        "can't use the state database: {0}; check its disk, or stop csm and move state.db away (everyone signs in again)"
    )]
    Query(#[from] rusqlite::Error),
    /// Its thread has ended: csm is about to exit.
    #[error("can't use the state database: its thread has ended; restart csm")]
    Ended,
}

/// What an earlier csm left in the database.
pub struct Kept {
    /// The daemon's key.
    pub key: Key,
    /// The sessions that are still good.
    pub sessions: Vec<Session>,
}

/// The open database. SQLite waits for disks and locks, so it has a thread of its own, which takes what is asked of it in turn. What
/// is asked is done even when nobody waits for the outcome any more, at the latest before the last of these is dropped.
#[derive(Clone)]
pub struct State(Arc<Worker>);

type Job = Box<dyn FnOnce(&mut Database) + Send>;

struct Worker {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The rows of `workspace`. Nothing else writes there: csm holds a lock.
    last_outcomes: Mutex<BTreeMap<WorkspaceId, LastOutcome>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread ends when it has done what is still to do.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Opens or creates it. `random` becomes the key when there is none yet.
    pub fn open(path: &Path, random: [u8; 32], now: Timestamp) -> Result<(Self, Kept), StateError> {
        let mut database = Database::open(path)?;
        let kept = Kept { key: database.key(random)?, sessions: database.sessions(now)? };
        let last_outcomes = Mutex::new(database.last_outcomes()?);
        let (jobs, mut to_do) = mpsc::unbounded_channel::<Job>();
        let work = move || {
            while let Some(job) = to_do.blocking_recv() {
                job(&mut database);
            }
        };
        let thread = std::thread::Builder::new().name("state".to_owned()).stack_size(STACK_BYTES).spawn(work);
        let thread = Some(thread.map_err(StateError::Thread)?);
        Ok((Self(Arc::new(Worker { jobs: Some(jobs), thread, last_outcomes })), kept))
    }

    fn queue(&self, job: impl FnOnce(&mut Database) + Send + 'static) {
        if let Some(jobs) = &self.0.jobs {
            // When the thread has ended, the job is dropped, and who waits for it learns that.
            let _ = jobs.send(Box::new(job));
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StateError> {
        let (answer, answered) = oneshot::channel();
        self.queue(move |database| drop(answer.send(work(database))));
        Ok(answered.await.map_err(|_| StateError::Ended)??)
    }

    /// Keeps a session, in place of those that have ended by `now`.
    pub async fn insert_session(&self, session: Session, now: Timestamp) -> Result<(), StateError> {
        self.run(move |database| database.insert_session(&session, now)).await
    }

    /// Forgets a session.
    pub async fn delete_session(&self, id: &str) -> Result<(), StateError> {
        let id = id.to_owned();
        self.run(move |database| database.delete_session(&id)).await
    }

    /// Whether the database can still be read, and written.
    pub async fn healthy(&self) -> bool {
        self.run(|database| Ok(database.healthy())).await.unwrap_or(false)
    }

    /// Resolves when the database's thread ends, which it does only when it panics.
    pub async fn ended(&self) {
        if let Some(jobs) = &self.0.jobs {
            jobs.closed().await;
        }
    }

    fn last_outcomes(&self) -> MutexGuard<'_, BTreeMap<WorkspaceId, LastOutcome>> {
        self.0.last_outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History for State {
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome> {
        self.last_outcomes().clone()
    }

    fn record(&self, id: &WorkspaceId, ended: &LastOutcome) {
        self.last_outcomes().insert(id.clone(), ended.clone());
        let (id, ended) = (id.clone(), ended.clone());
        self.queue(move |database| {
            if let Err(error) = database.record(&id, &ended) {
                tracing::error!(workspace = %id, %error, "can't note how it ended");
            }
        });
    }
}

/// The database itself, on whatever thread it is.
struct Database {
    connection: Connection,
    /// Whether the last write failed: reads may go well on a disk that is full.
    failing: bool,
}

impl Database {
    fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Open {
            path: path.display().to_string(),
            cause: match error {
                // In SQLite's words, without the statement.
                rusqlite_migration::Error::RusqliteError { err, .. } => err.to_string(),
                other => other.to_string(),
            },
        };
        let mut connection = Connection::open(path).map_err(|error| failed(error.into()))?;
        // Before anything is written: a newer csm's file stays as it is.
        if let SchemaVersion::Outside(found) = MIGRATIONS.current_version(&connection).map_err(failed)? {
            return Err(StateError::Newer { path: path.display().to_string(), found: found.get() });
        }
        let prepared = connection.pragma_update(None, "journal_mode", "WAL").and_then(|()| {
            // Small and seldom used: a page cache of 256 KiB is plenty.
            connection.pragma_update(None, "cache_size", -256)
        });
        prepared.map_err(|error| failed(error.into()))?;
        MIGRATIONS.to_latest(&mut connection).map_err(failed)?;
        Ok(Self { connection, failing: false })
    }

    /// Writes, all of it or nothing, and remembers whether it went well.
    fn write<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let written = self.connection.transaction().and_then(|transaction| {
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        self.failing = written.is_err();
        written
    }

    fn key(&self, random: [u8; 32]) -> rusqlite::Result<Key> {
        self.connection.execute("INSERT OR IGNORE INTO secret VALUES ('key', ?1)", [random])?;
        Ok(Key::new(self.connection.query_row("SELECT value FROM secret WHERE name = 'key'", [], |row| row.get(0))?))
    }

    fn sessions(&self, now: Timestamp) -> rusqlite::Result<Vec<Session>> {
        self.connection.execute(EXPIRE, [now.cast_signed()])?;
        let mut query = self.connection.prepare("SELECT id, owner, secret_digest, credential, expires FROM session")?;
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
        rows.filter_map(Result::transpose).collect()
    }

    fn insert_session(&mut self, session: &Session, now: Timestamp) -> rusqlite::Result<()> {
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

    fn delete_session(&mut self, id: &str) -> rusqlite::Result<()> {
        self.write(|connection| connection.execute("DELETE FROM session WHERE id = ?1", [id]).map(drop))
    }

    fn last_outcomes(&self) -> rusqlite::Result<BTreeMap<WorkspaceId, LastOutcome>> {
        let mut query = self.connection.prepare("SELECT id, failed, reason, at FROM workspace")?;
        let rows = query.query_map([], |row| {
            let (id, at): (String, i64) = (row.get(0)?, row.get(3)?);
            Ok((id, LastOutcome { failed: row.get(1)?, reason: row.get(2)?, at: at.cast_unsigned() }))
        })?;
        rows.filter_map(|row| row.map(|(id, past)| Some((id.parse().ok()?, past))).transpose()).collect()
    }

    fn record(&mut self, id: &WorkspaceId, ended: &LastOutcome) -> rusqlite::Result<()> {
        self.write(|connection| {
            connection.execute(
                "INSERT INTO workspace VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET failed = excluded.failed, reason = excluded.reason, at = excluded.at",
                params![id.to_string(), ended.failed, ended.reason, ended.at.cast_signed()],
            )?;
            Ok(())
        })
    }

    /// After a write that failed another one is tried, which changes nothing.
    fn healthy(&mut self) -> bool {
        if self.failing {
            return self.write(|connection| connection.execute("UPDATE secret SET value = value", [])).is_ok();
        }
        self.connection.query_row("SELECT count(*) FROM session", [], |_| Ok(())).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as csm 0.1.0 left it.
    const VERSION_1: &str = "
        CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
        CREATE TABLE session (
            id TEXT PRIMARY KEY, owner TEXT NOT NULL, secret_digest TEXT NOT NULL, credential TEXT NOT NULL,
            expires INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE workspace (
            id TEXT PRIMARY KEY, failed INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL
        ) STRICT;
        INSERT INTO secret VALUES ('key', zeroblob(32));
        INSERT INTO session VALUES ('a-session', 'dan', 'a-digest', 'a-credential', 500);
        INSERT INTO workspace VALUES ('dan', 1, 'it failed', 7);
        PRAGMA user_version = 1;
    ";

    struct Stage {
        directory: tempfile::TempDir,
    }

    impl Stage {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().expect("a directory") }
        }

        fn path(&self) -> std::path::PathBuf {
            self.directory.path().join("state.db")
        }

        fn open(&self, now: Timestamp) -> (State, Kept) {
            State::open(&self.path(), [1; 32], now).expect("opened")
        }

        /// Another connection to the same file.
        fn aside(&self) -> Connection {
            Connection::open(self.path()).expect("opened")
        }
    }

    fn session(id: &str, now: Timestamp) -> Session {
        Session::new("dan".parse().expect("a name"), id.into(), "secret", "c".into(), now).0
    }

    fn ended(reason: &str) -> LastOutcome {
        LastOutcome { failed: true, reason: reason.into(), at: 7 }
    }

    #[tokio::test]
    async fn sessions_and_key_survive() {
        let stage = Stage::new();
        let (state, first) = stage.open(100);
        let kept = session("id", 100);
        state.insert_session(kept.clone(), 100).await.expect("kept");
        drop(state);
        let (state, again) = State::open(&stage.path(), [2; 32], 101).expect("opened");
        assert_eq!(again.sessions, vec![kept.clone()]);
        assert_eq!(again.key.sign(&["x"]), first.key.sign(&["x"]));
        drop(state);
        assert!(stage.open(kept.expires).1.sessions.is_empty(), "it has ended");
    }

    #[tokio::test]
    async fn sessions_that_have_ended_make_room_for_new_ones() {
        let stage = Stage::new();
        let (first, second) = (session("first", 100), session("second", 200));
        {
            let (state, _) = stage.open(100);
            state.insert_session(first.clone(), 100).await.expect("kept");
            state.insert_session(second.clone(), first.expires).await.expect("kept");
        }
        assert_eq!(stage.open(0).1.sessions, vec![second]);
    }

    #[test]
    fn a_file_of_version_1_keeps_its_rows() {
        let stage = Stage::new();
        stage.aside().execute_batch(VERSION_1).expect("made");
        let (state, kept) = stage.open(100);
        assert_eq!(kept.key.sign(&["x"]), Key::new([0; 32]).sign(&["x"]));
        let expected = Session {
            id: "a-session".into(),
            owner: "dan".parse().expect("a name"),
            secret_digest: "a-digest".into(),
            credential: "a-credential".into(),
            expires: 500,
        };
        assert_eq!(kept.sessions, [expected]);
        assert_eq!(state.load(), BTreeMap::from([("dan".parse().expect("an id"), ended("it failed"))]));
        let version: usize = stage.aside().query_row("PRAGMA user_version", [], |row| row.get(0)).expect("read");
        assert_eq!(version, STEPS.len());
    }

    #[test]
    fn every_step_can_be_taken() {
        MIGRATIONS.validate().expect("sound");
    }

    #[test]
    fn a_newer_file_is_refused_with_a_fix_and_left_as_it_is() {
        let stage = Stage::new();
        stage.aside().execute_batch(&VERSION_1.replace("user_version = 1", "user_version = 99")).expect("made");
        let before = std::fs::read(stage.path()).expect("read");
        let refused = State::open(&stage.path(), [1; 32], 100).err().expect("refused").to_string();
        let says = format!("it has version 99, and this csm reads up to {}; run the csm that wrote it", STEPS.len());
        assert!(refused.contains(&says) && refused.contains("state.db"), "{refused}");
        assert!(std::fs::read(stage.path()).expect("read") == before, "it was changed");
    }

    #[test]
    fn a_broken_file_is_refused_with_a_fix() {
        let stage = Stage::new();
        std::fs::write(stage.path(), "not a database, and long enough to be seen as a broken one").expect("written");
        let refused = State::open(&stage.path(), [1; 32], 100).err().expect("refused").to_string();
        assert!(
            refused.contains("state.db: file is not a database; ") && refused.contains("move the file"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_write_that_failed_is_seen_until_one_succeeds() {
        let stage = Stage::new();
        let (state, _) = stage.open(100);
        let full = async |full| {
            state.run(move |database| database.connection.pragma_update(None, "query_only", full)).await.expect("set");
        };
        full(true).await;
        assert!(state.healthy().await, "nothing was written yet");
        state.delete_session("any").await.expect_err("refused");
        assert!(!state.healthy().await);
        assert!(!state.healthy().await, "still");
        full(false).await;
        assert!(state.healthy().await, "there is room again");
    }

    #[tokio::test]
    async fn a_table_that_is_gone_is_no_health() {
        let stage = Stage::new();
        let (state, _) = stage.open(100);
        assert!(state.healthy().await);
        stage.aside().execute_batch("DROP TABLE session").expect("dropped");
        assert!(!state.healthy().await);
    }

    #[test]
    fn how_a_workspace_ended_is_known_at_once_and_survives() {
        let stage = Stage::new();
        let id: WorkspaceId = "dan".parse().expect("an id");
        let (state, _) = stage.open(100);
        let lock = stage.aside();
        lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
        for reason in ["one", "two"] {
            state.record(&id, &ended(reason));
        }
        assert_eq!(state.load()[&id].reason, "two", "nobody waits for the disk");
        lock.execute_batch("COMMIT").expect("unlocked");
        drop(state);
        assert_eq!(stage.open(100).0.load()[&id].reason, "two");
    }

    #[tokio::test]
    async fn a_thread_that_panicked_has_ended() {
        let stage = Stage::new();
        let (state, _) = stage.open(100);
        assert!(futures_util::poll!(Box::pin(state.ended())).is_pending());
        let lost = state.run::<()>(|_| panic!("on purpose")).await;
        assert!(matches!(lost, Err(StateError::Ended)), "{lost:?}");
        state.ended().await;
        assert!(!state.healthy().await);
    }
}
