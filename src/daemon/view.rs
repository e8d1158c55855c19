//! The daemon's snapshot: immutable, and published after each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::activity::Verdict;
use crate::model::label::WorkspaceId;
use crate::model::workspace::{Limits, State, Timestamp, Usage};

/// A workspace in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The workspace's id.
    pub id: WorkspaceId,
    /// The state.
    #[serde(flatten)]
    pub state: State,
    /// Why the workspace is in this state.
    pub reason: String,
    /// When this state began, in seconds since 1970.
    pub at: Timestamp,
    /// The error and its fix; null if there is none.
    pub failure: Option<String>,
    /// The last lines of its log after a failure.
    pub log: Vec<String>,
    /// The limits.
    pub limits: Limits,
    /// What the workspace uses; only known while it is measured.
    pub usage: Option<Usage>,
    /// The CPU use between the last two measurements, in thousandths of a CPU.
    pub cpu: Option<u64>,
    /// Bytes on disk in the home and the project. Measured while a dashboard is open; null when unknown.
    pub disk: Option<u64>,
    /// Whether the manifest specifies another container than the running one. The change takes effect at the next start.
    pub update_pending: bool,
    /// What keeps it, and what happens next; null unless it runs or is frozen.
    pub activity: Option<Verdict>,
    /// Whether no step is in progress or planned.
    pub settled: bool,
    /// Whether its processes may be running, even if the state is `failed`: the last stop failed, or its editor does not respond.
    #[serde(skip)]
    pub may_run: bool,
    /// The editor's address.
    pub url: String,
}

/// The state of all workspaces.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Whether the first observation has succeeded or failed. Until then all workspaces are shown as stopped.
    pub observed: bool,
    /// The workspaces, by id.
    pub workspaces: BTreeMap<WorkspaceId, Arc<View>>,
    /// Problems that an admin must fix: an invalid manifest, a Podman that does not respond.
    pub alarms: Vec<String>,
    /// The limits that this host can't enforce.
    pub notes: Vec<String>,
    /// The free bytes of the file system that contains the workspaces.
    pub disk_free: Option<u64>,
}
