//! Pure: what runs, what is asked for and what came of it → what to do next.

mod cause;
mod lifecycle;

use crate::model::workspace::Timestamp;
pub use cause::{Actor, Cause, Verb};
pub use lifecycle::{Container, Effects, Event, Failure, JobId, Lifecycle, Stage, Step};

/// A workspace that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The digest of the specification that it was made from, if its runtime knows.
    pub digest: Option<String>,
    /// How it is.
    pub phase: Phase,
}

/// How a workspace that the runtime knows is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// What went wrong meanwhile, for people.
        trouble: Option<String>,
    },
    /// The kernel's freezer holds all its processes: it uses no CPU and does not respond.
    Frozen {
        /// Since when it runs.
        since: Timestamp,
    },
    /// It has exited, or was never started.
    Exited {
        /// Whether that was a failure.
        failed: bool,
        /// How, for people: `exited with code 1`; unknown when it was stopped.
        why: Option<String>,
    },
}

impl Phase {
    /// Whether something of it runs.
    pub fn is_up(&self) -> bool {
        !matches!(self, Self::Exited { .. })
    }
}
