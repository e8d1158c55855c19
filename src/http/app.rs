//! The state that all handlers share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::BoxStream;
use tokio::sync::watch;

use super::streams::Streams;
use crate::access::handshake::Codes;
use crate::access::limiter::Limiter;
use crate::access::session::Sessions;
use crate::access::token::Key;
use crate::adapters::passwords::Passwords;
use crate::adapters::state::{State, Stored};
use crate::daemon::Handle;
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::ports::{Clock, Runtime, RuntimeError};

/// The state of all handlers.
pub struct App {
    pub(super) manifest: watch::Receiver<Arc<Manifest>>,
    pub(super) daemon: Handle,
    access: Mutex<Access>,
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) passwords: Passwords,
    clock: Clock,
    pub(super) layout: Layout,
    pub(super) logs: Box<dyn Logs>,
    pub(super) followed_logs: Streams,
    pub(super) followed_events: Streams,
    pub(super) dashboard_events: Streams,
    /// Counted separately, because a page of a workspace can open any number of its own hostname's.
    pub(super) wake_events: Streams,
    pub(super) counters: Counters,
}

/// What changes with each sign-in. It is in memory, so that nginx's subrequest needs no database query.
pub(super) struct Access {
    pub(super) sessions: Sessions,
    /// The ids of sessions that have ended but may still be in the database.
    pub(super) undeleted: BTreeSet<String>,
    pub(super) codes: Codes,
    pub(super) limiter: Limiter,
}

/// Counters for `/metrics`.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) signed_in: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Counters {
    pub(super) fn increment(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads a workspace's log.
pub(super) trait Logs: Send + Sync {
    /// See [`Runtime::logs`].
    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>>;
}

impl<R: Runtime> Logs for R {
    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        Runtime::logs(self, id, lines, follow)
    }
}

impl App {
    /// Creates the state for a daemon.
    pub fn new(
        manifest: watch::Receiver<Arc<Manifest>>,
        daemon: Handle,
        runtime: impl Runtime,
        (state, stored): (State, Stored),
        layout: Layout,
        clock: Clock,
    ) -> Arc<Self> {
        let access = Access {
            sessions: Sessions::new(stored.sessions),
            undeleted: BTreeSet::new(),
            codes: Codes::default(),
            limiter: Limiter::default(),
        };
        Arc::new(Self {
            manifest,
            daemon,
            access: Mutex::new(access),
            key: stored.key,
            state,
            passwords: Passwords::default(),
            clock,
            layout,
            logs: Box::new(runtime),
            followed_logs: Streams::of_logs(),
            followed_events: Streams::of_events(),
            dashboard_events: Streams::of_events(),
            wake_events: Streams::of_events(),
            counters: Counters::default(),
        })
    }

    pub(super) fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn manifest(&self) -> Arc<Manifest> {
        self.manifest.borrow().clone()
    }

    pub(super) fn now(&self) -> u64 {
        (self.clock)()
    }
}
