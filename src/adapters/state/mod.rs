//! What must survive: sessions, the daemon's key, how workspaces ended. SQLite, on a thread of its own.

mod database;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::access::session::Session;
use crate::access::token::Key;
use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;
use crate::ports::{History, LastOutcome};
use database::Database;
pub use database::StateError;

/// What the thread's stack needs; SQLite's own buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

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

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

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
