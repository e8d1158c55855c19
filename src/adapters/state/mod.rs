//! Stores sessions, the daemon's key, events and the last outcome of each workspace in SQLite, on a separate thread.

mod database;
mod events;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::event_log::EventLog;
use crate::access::session::Session;
use crate::access::token::Key;
use crate::activity::Activity;
use crate::model::event::{Event, Filter};
use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;
use crate::ports::{History, LastOutcome};
use database::Database;
pub use database::StateError;

/// The thread's stack size. A small one is enough, because SQLite's buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// What the database contained when csm opened it.
pub struct Stored {
    /// The daemon's key.
    pub key: Key,
    /// The sessions that have not expired.
    pub sessions: Vec<Session>,
}

/// The open database. SQLite waits for disks and locks, so it runs on a separate thread, which does one job after the other. Every job
/// is done, even if its caller has stopped waiting: dropping the last clone of this waits for the remaining jobs.
#[derive(Clone)]
pub struct State {
    worker: Arc<Worker>,
    event_log: Arc<EventLog>,
}

type Job = Box<dyn FnOnce(&mut Database) + Send>;

struct Worker {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The rows of the table `workspace`. csm's lock guarantees that no other process changes them.
    last_outcomes: Mutex<BTreeMap<WorkspaceId, LastOutcome>>,
    /// The rows of the table `activity` when the database was opened.
    activity: BTreeMap<WorkspaceId, Activity>,
    /// The highest number of an event when the database was opened.
    last_event: u64,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread ends when it has done the remaining jobs.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Opens or creates the database. `random` becomes the key if the database has none. Events are logged on standard error.
    pub fn open(path: &Path, random: [u8; 32], now: Timestamp) -> Result<(Self, Stored), StateError> {
        let mut database = Database::open(path)?;
        let stored = Stored { key: database.key(random)?, sessions: database.sessions(now)? };
        let last_outcomes = Mutex::new(database.last_outcomes()?);
        let activity = database.activity()?;
        let last_event = database.last_event()?;
        let (jobs, mut to_do) = mpsc::unbounded_channel::<Job>();
        let work = move || {
            while let Some(job) = to_do.blocking_recv() {
                job(&mut database);
            }
        };
        let thread = std::thread::Builder::new().name("state".to_owned()).stack_size(STACK_BYTES).spawn(work);
        let thread = Some(thread.map_err(StateError::Thread)?);
        let worker = Arc::new(Worker { jobs: Some(jobs), thread, last_outcomes, activity, last_event });
        Ok((Self { worker, event_log: Arc::default() }, stored))
    }

    /// Logs events there.
    #[must_use]
    pub fn with_event_log(self, event_log: EventLog) -> Self {
        Self { event_log: Arc::new(event_log), ..self }
    }

    fn queue(&self, job: impl FnOnce(&mut Database) + Send + 'static) {
        if let Some(jobs) = &self.worker.jobs {
            // If the thread has ended, the job is dropped, and its caller gets an error.
            let _ = jobs.send(Box::new(job));
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StateError> {
        let (tx, rx) = oneshot::channel();
        self.queue(move |database| drop(tx.send(work(database))));
        Ok(rx.await.map_err(|_| StateError::Ended)??)
    }

    /// Stores a session, and deletes those that have expired by `now`.
    pub async fn insert_session(&self, session: Session, now: Timestamp) -> Result<(), StateError> {
        self.run(move |database| database.insert_session(&session, now)).await
    }

    /// Deletes a session.
    pub async fn delete_session(&self, id: &str) -> Result<(), StateError> {
        let id = id.to_owned();
        self.run(move |database| database.delete_session(&id)).await
    }

    /// The newest events that a filter admits, oldest first. They include all that were recorded before this call.
    pub async fn events(&self, filter: Filter, limit: usize) -> Result<Vec<Event>, StateError> {
        self.run(move |database| database.events(&filter, limit)).await
    }

    /// Whether the database can still be read and written.
    pub async fn healthy(&self) -> bool {
        self.run(|database| Ok(database.healthy())).await.unwrap_or(false)
    }

    /// Resolves when the database's thread ends. While this `State` exists, it ends only if it panics.
    pub async fn ended(&self) {
        if let Some(jobs) = &self.worker.jobs {
            jobs.closed().await;
        }
    }

    fn last_outcomes(&self) -> MutexGuard<'_, BTreeMap<WorkspaceId, LastOutcome>> {
        self.worker.last_outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History for State {
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome> {
        self.last_outcomes().clone()
    }

    fn load_activity(&self) -> BTreeMap<WorkspaceId, Activity> {
        self.worker.activity.clone()
    }

    fn record_activity(&self, changed: Vec<(WorkspaceId, Activity)>) {
        self.queue(move |database| {
            if let Err(error) = database.record_activity(&changed) {
                tracing::error!(%error, "can't record the workspaces' activity");
            }
        });
    }

    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome) {
        self.last_outcomes().insert(id.clone(), outcome.clone());
        let (id, outcome) = (id.clone(), outcome.clone());
        self.queue(move |database| {
            if let Err(error) = database.record(&id, &outcome) {
                tracing::error!(workspace = %id, %error, "can't record the workspace's last outcome");
            }
        });
    }

    fn last_event(&self) -> u64 {
        self.worker.last_event
    }

    fn record_events(&self, events: Vec<Arc<Event>>) {
        // Before they are stored, so that a slow disk does not delay the log.
        for event in &events {
            self.event_log.write(event);
        }
        self.queue(move |database| {
            if let Err(error) = database.insert_events(&events) {
                tracing::error!(count = events.len(), %error, "can't store events");
            }
        });
    }

    fn prune_events(&self, before: Timestamp) {
        self.queue(move |database| {
            if let Err(error) = database.prune_events(before) {
                tracing::error!(%error, "can't delete old events");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A directory for one database file.
    pub(super) struct Stage {
        directory: tempfile::TempDir,
    }

    impl Stage {
        pub(super) fn new() -> Self {
            Self { directory: tempfile::tempdir().expect("a directory") }
        }

        pub(super) fn path(&self) -> std::path::PathBuf {
            self.directory.path().join("state.db")
        }

        /// Another connection to the same file.
        pub(super) fn other_connection(&self) -> Connection {
            Connection::open(self.path()).expect("opened")
        }

        fn open(&self, now: Timestamp) -> (State, Stored) {
            State::open(&self.path(), [1; 32], now).expect("opened")
        }
    }

    fn session(id: &str, now: Timestamp) -> Session {
        Session::new("dan".parse().expect("a name"), id.into(), "secret", "c".into(), now).0
    }

    fn outcome(reason: &str) -> LastOutcome {
        LastOutcome { failed: true, reason: reason.into(), at: 7 }
    }

    #[tokio::test]
    async fn sessions_and_the_key_survive_a_restart() {
        let stage = Stage::new();
        let (state, first) = stage.open(100);
        let session = session("id", 100);
        state.insert_session(session.clone(), 100).await.expect("stored");
        drop(state);
        let (state, again) = State::open(&stage.path(), [2; 32], 101).expect("opened");
        assert_eq!(again.sessions, vec![session.clone()]);
        assert_eq!(again.key.sign(&["x"]), first.key.sign(&["x"]));
        drop(state);
        assert!(stage.open(session.expires).1.sessions.is_empty(), "it has expired");
    }

    #[tokio::test]
    async fn a_new_session_deletes_expired_ones() {
        let stage = Stage::new();
        let (first, second) = (session("first", 100), session("second", 200));
        {
            let (state, _) = stage.open(100);
            state.insert_session(first.clone(), 100).await.expect("stored");
            state.insert_session(second.clone(), first.expires).await.expect("stored");
        }
        assert_eq!(stage.open(0).1.sessions, vec![second]);
    }

    #[test]
    fn a_last_outcome_can_be_loaded_immediately_and_survives_a_restart() {
        let stage = Stage::new();
        let id: WorkspaceId = "dan".parse().expect("an id");
        let (state, _) = stage.open(100);
        let lock = stage.other_connection();
        lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
        for reason in ["one", "two"] {
            state.record(&id, &outcome(reason));
        }
        assert_eq!(state.load()[&id].reason, "two", "loading does not wait for the disk");
        lock.execute_batch("COMMIT").expect("unlocked");
        drop(state);
        assert_eq!(stage.open(100).0.load()[&id].reason, "two");
    }

    #[tokio::test]
    async fn a_panic_ends_the_thread_and_fails_its_jobs() {
        let stage = Stage::new();
        let (state, _) = stage.open(100);
        assert!(futures_util::poll!(Box::pin(state.ended())).is_pending());
        let lost = state.run::<()>(|_| panic!("on purpose")).await;
        assert!(matches!(lost, Err(StateError::Ended)), "{lost:?}");
        state.ended().await;
        assert!(!state.healthy().await);
    }
}
