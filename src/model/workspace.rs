//! A workspace: what it is made from, the states that it goes through, and the words for them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::label::WorkspaceId;
use super::secret_file::SecretFileEntry;
use super::size::{Bytes, Cpus};
use super::text::{AbsolutePath, EnvName, ExtensionId, HomePath, ImageRef, SecretPath};

/// A workspace, resolved: everything that its container, its unit, its server block and its pages are made from, whichever runtime
/// runs it. The manifest resolves each user to their `main`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Its owner, and which one of theirs it is.
    pub id: WorkspaceId,
    /// The image.
    pub image: ImageRef,
    /// What it can use at most.
    pub limits: Limits,
    /// The owner's home on the host.
    pub home: PathBuf,
    /// What is mounted at `~/project`, on the host.
    pub project: PathBuf,
    /// Whether it starts with the daemon.
    pub auto_start: bool,
    /// Plain environment variables.
    pub environment: BTreeMap<EnvName, String>,
    /// Environment variables whose values are in files.
    pub secret_environment: BTreeMap<EnvName, SecretPath>,
    /// Secret files in the home.
    pub secret_files: BTreeMap<HomePath, SecretFileEntry>,
    /// Host ports reachable as localhost inside.
    pub host_services: Vec<u16>,
    /// A loopback port for SSH tunnels.
    pub port: Option<u16>,
    /// Extensions to install when missing.
    pub extensions: Vec<ExtensionId>,
    /// VS Code settings to begin with.
    pub settings: Map<String, Value>,
    /// A directory of the Nix store with programs.
    pub packages: Option<AbsolutePath>,
}

/// What a workspace can use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Hard memory limit; above it the kernel kills a process.
    pub memory: Bytes,
    /// Soft memory limit; above it the kernel slows the workspace down.
    pub memory_high: Bytes,
    /// CPU time.
    pub cpu: Cpus,
    /// Processes and threads.
    pub tasks: u32,
}

/// Seconds since 1970, UTC.
pub type Timestamp = u64;

/// How far a start has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
