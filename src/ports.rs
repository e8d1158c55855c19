//! What the daemon needs from the host, as traits. The adapters implement them; tests use fakes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::activity::Activity;
use crate::model::container::{ContainerSpec, SOCKET, SecretCopy, container_spec, secret_copies};
use crate::model::endpoint::Endpoint;
use crate::model::event::Event;
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::printed::Tail;
use crate::model::settings;
use crate::model::workspace::{Progress, Timestamp, Usage, Workspace};
use crate::plan::Observed;

#[cfg(test)]
pub(crate) mod contract;
mod error;
#[cfg(test)]
pub(crate) mod fake;

pub use error::RuntimeError;

/// Describes a workspace to start.
#[derive(Debug, Clone, PartialEq)]
pub struct StartRequest {
    /// The container.
    pub spec: ContainerSpec,
    /// The secrets to copy for the container.
    pub secrets: Vec<SecretCopy>,
    /// The initial VS Code settings.
    pub settings: Map<String, Value>,
    /// The owner's home on the host.
    pub home: PathBuf,
    /// The directory on the host that is mounted at `~/project`.
    pub project: PathBuf,
    /// Where code-server binds its socket. The workspace can create any file there.
    pub bound: PathBuf,
    /// Where csm publishes the socket for nginx, after checking that it is a socket.
    pub socket: PathBuf,
}

impl StartRequest {
    /// Describes how to start this workspace.
    pub fn new(manifest: &Manifest, workspace: &Workspace, layout: &Layout) -> Self {
        let mut settings = settings::defaults();
        settings.extend(workspace.settings.clone());
        let spec = container_spec(manifest, workspace, layout);
        Self {
            secrets: secret_copies(workspace),
            settings,
            home: workspace.home.clone(),
            project: workspace.project.clone(),
            bound: layout.inside(&spec.workspace).join(SOCKET),
            socket: layout.socket(&spec.workspace),
            spec,
        }
    }
}

/// How many lines of a failed workspace's log are kept.
const LAST_LINES: usize = 40;

/// How many bytes of these lines are kept.
const LAST_BYTES: usize = 16 << 10;

/// How long to wait for these lines. After that, the failure is reported without them.
const LAST_LINES_WAIT: Duration = Duration::from_secs(5);

/// Runs workspaces, each at most once. `ports/contract.rs` tests every adapter and the fake against the rules that are documented here.
///
/// A workspace is absent (never started, or removed), running, frozen, or exited (with or without a failure). An operation returns
/// when the workspace is in the operation's final state, and repeating the operation changes nothing. Several operations on a workspace
/// can be called concurrently: they take effect one after the other, except that a stop interrupts all starts that were called before it.
///
/// Every operation returns in bounded time. Any operation can fail with [`RuntimeError::Unavailable`], [`RuntimeError::TimedOut`] or
/// [`RuntimeError::Refused`]; [`Runtime::observe`] then shows the workspace's state.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// The workspaces of this csm that are running or frozen, and those that have exited, as long as the runtime still knows them. Absent
    /// workspaces are not included.
    fn observe(&self) -> impl Future<Output = Result<BTreeMap<WorkspaceId, Observed>, RuntimeError>> + Send;

    /// Yields whenever a workspace may have changed, so that the caller observes again.
    fn changes(&self) -> BoxStream<'static, ()>;

    /// Prepares, creates and starts a workspace, and returns when code-server responds. A container that has exited is replaced. A
    /// workspace that is already running is not restarted, and neither is a frozen one, which is thawed first.
    ///
    /// A start keeps a permit of `turn` while it creates the workspace and waits for code-server, but not while it pulls the image. It
    /// reports [`Progress::Queued`] before it waits for a permit. A systemd unit can't wait between pulling the image and creating the
    /// workspace: under systemd, a start waits for the permit before it starts the unit, returns the permit while the unit pulls, and
    /// then takes one only if one is free.
    ///
    /// Fails with [`RuntimeError::Failed`] if the workspace did not start; none of its processes then runs. Fails with
    /// [`RuntimeError::Interrupted`] if the workspace was stopped meanwhile, and with [`RuntimeError::StillRunning`] if it was already
    /// running and code-server does not respond; the workspace then keeps running.
    ///
    /// If the future is dropped, the start creates nothing more. A container whose creation has begun may still run afterwards, unless
    /// a stop follows.
    fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync,
        turn: Arc<Semaphore>,
    ) -> impl Future<Output = Result<Endpoint, RuntimeError>> + Send;

    /// Stops a running or frozen workspace, and interrupts its starts. Returns when none of its processes runs and no start that was
    /// called before, even if it was dropped, can run it. It is not an error if the workspace is not running. Afterwards the workspace
    /// may be observed as exited.
    fn stop(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Freezes a workspace: suspends its processes, which keep their memory and use no CPU. Does nothing if the workspace is already
    /// frozen. Fails with [`RuntimeError::NotRunning`] if it is not running.
    fn freeze(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Thaws a workspace: its processes continue. Does nothing if the workspace is not frozen. Fails with [`RuntimeError::NotRunning`]
    /// if it is not running.
    fn thaw(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes the container of a workspace that has exited, and keeps the owner's files. The workspace may be observed as exited for a
    /// while. Does nothing if the workspace is absent. Fails with [`RuntimeError::StillRunning`] if it is running or frozen.
    fn remove(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The last lines that a workspace printed and, with `follow`, the lines that it prints from now on. Each line is bounded and safe to
    /// show, see [`crate::model::printed`].
    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>>;

    /// The last lines that a failed workspace printed. Empty if they can't be read in time.
    fn last_lines(&self, id: &WorkspaceId) -> impl Future<Output = Vec<String>> + Send {
        let lines = self.logs(id, LAST_LINES, false).filter_map(async |line| line.ok());
        let tail = lines.fold(Tail::new(LAST_BYTES), async |mut tail, line| {
            tail.push(line);
            tail
        });
        async { tokio::time::timeout(LAST_LINES_WAIT, tail).await.map(Tail::into_lines).unwrap_or_default() }
    }

    /// The workspaces' disk usage, as far as it can be measured.
    fn disk(&self, manifest: &Manifest) -> impl Future<Output = DiskUsage> + Send;

    /// The memory, CPU time and processes of the running workspaces.
    fn usage(&self) -> impl Future<Output = BTreeMap<WorkspaceId, Usage>> + Send;

    /// The limits that this host can't enforce, each with the reason.
    fn unenforced(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// The workspaces' disk usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// The bytes in each workspace's home and project. A workspace that was not measured is missing.
    pub used: BTreeMap<WorkspaceId, u64>,
    /// The free bytes in `workspaceBase`.
    pub free: Option<u64>,
}

/// How a workspace last stopped or failed, as recorded before the daemon restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOutcome {
    /// Whether it failed.
    pub failed: bool,
    /// Why it stopped or failed.
    pub reason: String,
    /// When it stopped or failed.
    pub at: Timestamp,
}

/// The records that survive a restart of the daemon.
pub trait History: Clone + Send + Sync + 'static {
    /// The last record of each workspace.
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome>;
    /// The activity of each workspace, as it was last recorded.
    fn load_activity(&self) -> BTreeMap<WorkspaceId, Activity>;
    /// Records the activity of workspaces. A failure to record it is logged, and does not stop csm.
    fn record_activity(&self, changed: Vec<(WorkspaceId, Activity)>);
    /// Records how a workspace stopped or failed. A failure to record this is logged, and csm continues.
    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome);
    /// The highest number of an event that was recorded; 0 if there is none.
    fn last_event(&self) -> u64;
    /// Logs events and records them together. A failure to record them is logged, and csm continues.
    fn record_events(&self, events: Vec<Arc<Event>>);
    /// Deletes events before a time, and the oldest if there are too many.
    fn prune_events(&self, before: Timestamp);
}

/// Returns the seconds since 1970. Tests use one whose time they set.
pub type Clock = fn() -> Timestamp;
