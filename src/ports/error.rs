//! Why a runtime could not do what it was asked.

use crate::model::printed::to_one_line;
use crate::plan::Failure;

/// Why a runtime could not do what it was asked. Displayed, it is one line for people that names the cause and the fix, and safe to
/// show, whatever it quotes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// Podman's service or the system bus can't be reached.
    #[error("{}", to_one_line(.0))]
    Unavailable(String),
    /// There was no response in time, or what was asked took too long. It may still happen later.
    #[error("{}", to_one_line(.0))]
    TimedOut(String),
    /// What was asked for does not exist, such as a log.
    #[error("{}", to_one_line(.0))]
    NotFound(String),
    /// Only a workspace that runs can be frozen or thawed.
    #[error("{}", to_one_line(.0))]
    NotRunning(String),
    /// The workspace runs, and was left alone: its code-server can't be reached, or what was asked needs it stopped.
    #[error("{}", to_one_line(.0))]
    StillRunning(String),
    /// A stop interrupted the start.
    #[error("{}", to_one_line(.0))]
    Interrupted(String),
    /// Podman or systemd refused, or can't do it.
    #[error("{}", to_one_line(.0))]
    Refused(String),
    /// The workspace did not start, or exited while it started.
    #[error("{}", to_one_line(.reason))]
    Failed {
        /// The cause and the fix.
        reason: String,
        /// The last lines of the workspace's log.
        log: Vec<String>,
    },
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let (message, still_runs) = (error.to_string(), matches!(error, RuntimeError::StillRunning(_)));
        let log = if let RuntimeError::Failed { log, .. } = error { log } else { Vec::new() };
        Self { message, log, still_runs }
    }
}
