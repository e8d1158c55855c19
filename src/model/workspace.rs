//! The states of a workspace, and the words for them.

use std::fmt;

use serde::Serialize;

/// Seconds since 1970, UTC.
pub type Timestamp = u64;

/// How far a start has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum Progress {
    /// Others are being started; it waits for its turn.
    Queued,
    /// The image comes from a registry.
    Pulling {
        /// How much of it is here, when the registry says how big it is.
        percent: Option<u8>,
    },
    /// The container is made; the first time, the image is copied for the account.
    Creating,
    /// The container runs; code-server does not answer yet.
    Waiting,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued => f.write_str("waiting for its turn"),
            Self::Pulling { percent: Some(percent) } => write!(f, "pulling image {percent} %"),
            Self::Pulling { percent: None } => f.write_str("pulling image"),
            Self::Creating => f.write_str("starting"),
            Self::Waiting => f.write_str("waiting for code-server"),
        }
    }
}

/// What a workspace does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum State {
    /// Nothing runs.
    Stopped,
    /// On its way up.
    Starting(Progress),
    /// code-server answers.
    Running {
        /// When the container started.
        since: Timestamp,
    },
    /// All its processes are held where they are; a visit lets it go on.
    Frozen {
        /// When the container started.
        since: Timestamp,
    },
    /// On its way down.
    Stopping,
    /// The last start failed, or it ended by itself.
    Failed,
}

impl State {
    /// Whether it has been started, and not been stopped: it runs, or is frozen.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Frozen { .. })
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting(_) => "starting",
            Self::Running { .. } => "running",
            Self::Frozen { .. } => "frozen",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

/// What a workspace uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Memory in bytes: under systemd what the unit is charged; under Podman the proportional set size of all its processes.
    pub memory: u64,
    /// CPU time used since the start, in milliseconds.
    pub cpu_millis: u64,
    /// Processes and threads.
    pub tasks: u32,
}

/// A time span for people: `3 h 12 min`, `45 s`.
pub fn human_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
