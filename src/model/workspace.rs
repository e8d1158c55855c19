//! A workspace's configuration, its states and its resource usage, and how they are displayed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::autostop::Autostop;
use super::label::WorkspaceId;
use super::secret_file::SecretFileEntry;
use super::size::{Bytes, Cpus};
use super::text::{AbsolutePath, EnvName, ExtensionId, HomePath, ImageRef, SecretPath};

/// A workspace's complete configuration, with defaults applied. Every runtime creates its container or unit from it, nginx its server
/// block, and the daemon its pages. The manifest gives each user one workspace, their `main`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Its owner, and its name among the owner's workspaces.
    pub id: WorkspaceId,
    /// The container image.
    pub image: ImageRef,
    /// Its resource limits.
    pub limits: Limits,
    /// The owner's home directory on the host.
    pub home: PathBuf,
    /// The directory on the host that is mounted at `~/project`.
    pub project: PathBuf,
    /// Whether it starts when the daemon starts.
    pub auto_start: bool,
    /// When it is frozen and stopped while nobody uses it.
    pub autostop: Autostop,
    /// Plain environment variables.
    pub environment: BTreeMap<EnvName, String>,
    /// Environment variables whose values are read from files.
    pub secret_environment: BTreeMap<EnvName, SecretPath>,
    /// Secret files in the home.
    pub secret_files: BTreeMap<HomePath, SecretFileEntry>,
    /// TCP ports of the host's loopback that are reachable as `localhost` in the container.
    pub host_services: Vec<u16>,
    /// The host's loopback port on which nginx serves it to SSH tunnels.
    pub port: Option<u16>,
    /// Extensions to install if they are missing.
    pub extensions: Vec<ExtensionId>,
    /// VS Code settings that are added once to the owner's own.
    pub settings: Map<String, Value>,
    /// A directory in the Nix store whose `bin` contains more programs.
    pub packages: Option<AbsolutePath>,
}

/// A workspace's resource limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Hard memory limit; above it the kernel kills a process.
    pub memory: Bytes,
    /// Soft memory limit; above it the kernel slows the workspace down.
    pub memory_high: Bytes,
    /// The number of CPUs.
    pub cpu: Cpus,
    /// The number of processes and threads.
    pub tasks: u32,
}

/// Seconds since 1970, UTC.
pub type Timestamp = u64;

/// The current step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum Progress {
    /// It waits for other workspaces to start.
    Queued,
    /// Podman pulls the image from a registry.
    Pulling {
        /// How much of the image has been pulled, if the registry reports its size.
        percent: Option<u8>,
    },
    /// Podman creates the container. The first time, it also copies the image for the account.
    Creating,
    /// The container runs, but code-server does not respond yet.
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

/// A workspace's state, as pages and the API show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum State {
    /// No process runs.
    Stopped,
    /// It is being started.
    Starting(Progress),
    /// code-server responds.
    Running {
        /// When the container started.
        since: Timestamp,
    },
    /// All its processes are frozen. The owner's visit thaws it.
    Frozen {
        /// When the container started.
        since: Timestamp,
    },
    /// It is being stopped.
    Stopping,
    /// The last start failed, it exited unexpectedly, or it could not be stopped.
    Failed,
}

impl State {
    /// True if it runs or is frozen.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Frozen { .. })
    }

    /// When its container started, if it runs or is frozen.
    pub fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Running { since } | Self::Frozen { since } => Some(*since),
            _ => None,
        }
    }

    /// The state's name for display.
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

/// A workspace's resource usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Memory in bytes: for systemd, the unit's cgroup usage; for Podman, the proportional set size of all its processes.
    pub memory: u64,
    /// CPU time used since the start, in milliseconds.
    pub cpu_millis: u64,
    /// The number of processes and threads.
    pub tasks: u32,
}

/// Formats a duration for display: `3 h 12 min`, `45 s`.
pub fn human_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
