//! What the daemon shows of itself: an immutable snapshot, published after each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::model::label::WorkspaceId;
use crate::model::workspace::{Limits, State, Timestamp, Usage};

/// One workspace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Which one.
    pub id: WorkspaceId,
    /// What it does now.
    #[serde(flatten)]
    pub state: State,
    /// Why.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub at: Timestamp,
    /// What went wrong, and the fix; null when all is well.
    pub failure: Option<String>,
    /// The last lines of its log after a failure.
    pub log: Vec<String>,
    /// What it can use at most.
    pub limits: Limits,
    /// What it uses. Only while somebody looks.
    pub usage: Option<Usage>,
    /// CPU in thousandths of a CPU over the last seconds.
    pub cpu: Option<u64>,
    /// Bytes on disk in the home and the project. Measured while a dashboard is open; null when unknown.
    pub disk: Option<u64>,
    /// Whether the manifest has changed since it started; it takes effect at the next start.
    pub update_pending: bool,
    /// Whether nothing is being done to it, and nothing is about to be.
    pub settled: bool,
    /// Whether something of it may run, whatever the state says: the last stop failed, or its editor does not respond.
    #[serde(skip)]
    pub may_run: bool,
    /// The editor's address.
    pub url: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Whether the runtime has said what runs, or why it can't. Until then everything seems to be stopped.
    pub observed: bool,
    /// The workspaces, by id.
    pub workspaces: BTreeMap<WorkspaceId, Arc<View>>,
    /// What an admin must know: a manifest that was refused, a Podman that does not answer.
    pub alarms: Vec<String>,
    /// Limits that this machine can't enforce.
    pub notes: Vec<String>,
    /// Bytes free where the workspaces lie.
    pub disk_free: Option<u64>,
}
