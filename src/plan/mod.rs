//! Decides what to do next with a workspace, from what runs, what was requested, and the results of earlier steps.
//!
//! This layer is pure: no module of it does input or output, or reads the clock.

mod cause;
mod lifecycle;

use crate::model::workspace::Timestamp;
pub use cause::{Actor, Cause, Verb};
pub use lifecycle::{Container, Effects, Event, Failure, JobId, Lifecycle, Stage, Step};

/// A workspace that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The digest of the specification that its container was created from, if the runtime knows it.
    pub digest: Option<String>,
    /// What the runtime reports about its container or unit.
    pub phase: Phase,
}

/// What the runtime reports about a workspace's container or unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It runs.
    Running {
        /// When it started.
        since: Timestamp,
        /// A problem that did not stop it, as text for users.
        warning: Option<String>,
    },
    /// All its processes are frozen: they use no CPU, and code-server does not respond.
    Frozen {
        /// When it started.
        since: Timestamp,
    },
    /// It has exited, or was never started.
    Exited {
        /// Whether the exit was a failure.
        failed: bool,
        /// How it exited, as text for users: `exited with code 1`; `None` if it was stopped.
        reason: Option<String>,
    },
}

impl Phase {
    /// True if any of its processes may run.
    pub fn is_up(&self) -> bool {
        !matches!(self, Self::Exited { .. })
    }
}
