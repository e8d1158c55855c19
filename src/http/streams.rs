//! Responses without an end: each user can read a limited number of them at a time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Refusal;
use crate::model::name::Name;

/// How many logs a user can follow at a time: each needs a connection to Podman, or a journalctl process.
const MAX_LOGS: usize = 8;

/// How many pages of a user can receive events at a time: each keeps memory, and csm measures workspaces for the dashboard's.
const MAX_EVENTS: usize = 32;

/// A kind of streams, and how many of them each user reads.
#[derive(Clone)]
pub(super) struct Streams {
    counts: Arc<Mutex<BTreeMap<Name, usize>>>,
    max: usize,
    refusal: Refusal,
}

impl Streams {
    pub(super) fn of_logs() -> Self {
        Self { counts: Arc::default(), max: MAX_LOGS, refusal: Refusal::TooManyLogs { max: MAX_LOGS } }
    }

    pub(super) fn of_events() -> Self {
        Self { counts: Arc::default(), max: MAX_EVENTS, refusal: Refusal::TooManyPages { max: MAX_EVENTS } }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Name, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more stream for a user, until the returned value is dropped.
    pub(super) fn admit(&self, user: &Name) -> Result<Reader, Refusal> {
        let mut counts = self.counts();
        let count = counts.entry(user.clone()).or_default();
        if *count >= self.max {
            return Err(self.refusal.clone());
        }
        *count += 1;
        Ok(Reader { streams: self.clone(), user: user.clone() })
    }
}

/// A stream that a user reads.
pub(super) struct Reader {
    streams: Streams,
    user: Name,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut counts = self.streams.counts();
        if let Entry::Occupied(mut count) = counts.entry(self.user.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
