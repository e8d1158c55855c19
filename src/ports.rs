//! What the daemon needs from the host, as traits. The adapters implement them; tests have fakes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::model::container::{ContainerSpec, SOCKET, SecretCopy, container_spec, secret_copies};
use crate::model::endpoint::Endpoint;
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

/// Everything that a start needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StartRequest {
    /// The container.
    pub spec: ContainerSpec,
    /// The secrets to copy for it.
    pub secrets: Vec<SecretCopy>,
    /// The VS Code settings to begin with.
    pub settings: Map<String, Value>,
    /// The owner's home on the host.
    pub home: PathBuf,
    /// The directory on the host that is mounted at `~/project`.
    pub project: PathBuf,
    /// Where code-server will bind its socket. The owner may put anything there.
    pub bound: PathBuf,
    /// Where csm publishes the socket, once it is one, for nginx.
    pub socket: PathBuf,
}

impl StartRequest {
    /// Everything that a start of this workspace needs.
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

/// How many bytes of them.
const LAST_BYTES: usize = 16 << 10;

/// How long they may take to come; a reason without them is better than none.
const LAST_LINES_WAIT: Duration = Duration::from_secs(5);

/// What runs workspaces, each at most once. `ports/contract.rs` holds every adapter and the fake to what is said here.
///
/// A workspace is absent (never started, or removed), running, frozen, or exited (with or without a failure). An operation is done
/// when the workspace is in the state that it leads to, and repeating it changes nothing. Operations on one workspace may be asked for
/// together: they take effect one after the other, except that a stop interrupts starts that were asked for before it.
///
/// Every operation returns in bounded time. Any can fail with [`RuntimeError::Unavailable`], [`RuntimeError::TimedOut`] or
/// [`RuntimeError::Refused`]; then [`Runtime::observe`] says what is there.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// The workspaces of this csm: those that run or are frozen, and what is left of those that exited. One that is absent, or of
    /// which nothing is known any more, is not among them.
    fn observe(&self) -> impl Future<Output = Result<BTreeMap<WorkspaceId, Observed>, RuntimeError>> + Send;

    /// Yields whenever a workspace may have changed: a reason to observe again.
    fn changes(&self) -> BoxStream<'static, ()>;

    /// Prepares, creates and starts a workspace, in place of what is left of an earlier one; done when code-server answers. One that
    /// runs already is only waited for, and one that is frozen is thawed first: neither is restarted.
    ///
    /// A start holds a permit of `turn` while it creates the workspace and waits for code-server, but not while it pulls the image;
    /// it reports [`Progress::Queued`] before it waits for one. Systemd's units can't wait after they pulled: there it waits for the
    /// permit before the unit starts, gives it up while the unit pulls, and then takes one only if one is free.
    ///
    /// Fails with [`RuntimeError::Failed`] when the workspace did not start: then nothing of it runs. With
    /// [`RuntimeError::Interrupted`] when it was stopped meanwhile, and with [`RuntimeError::StillRunning`] when it was running already
    /// and code-server does not answer: it runs on.
    ///
    /// Dropped, a start gives up: what it has not begun to create is not created. What it is creating may still run afterwards,
    /// unless a stop follows.
    fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync,
        turn: Arc<Semaphore>,
    ) -> impl Future<Output = Result<Endpoint, RuntimeError>> + Send;

    /// Stops a workspace, a frozen one too, and interrupts starts of it. Done when nothing of it runs and no start that was asked for
    /// before, dropped or not, can make it run. No error when it does not run; it may still be observed as exited.
    fn stop(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Freezes a workspace: its processes stay, and use no CPU. No error when it is frozen; [`RuntimeError::NotRunning`] when it does
    /// not run.
    fn freeze(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Thaws a workspace: its processes continue. No error when it is not frozen; [`RuntimeError::NotRunning`] when it does not run.
    fn thaw(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes what is left of a workspace that exited. Its files stay, and it may be observed as exited for a while. No error when it
    /// is absent; [`RuntimeError::StillRunning`] when it runs or is frozen.
    fn remove(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The last lines that a workspace printed, then, with `follow`, those to come: each safe to show and bounded, see [`crate::model::printed`].
    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>>;

    /// What a workspace that failed printed last; empty when it can't be read soon.
    fn last_lines(&self, id: &WorkspaceId) -> impl Future<Output = Vec<String>> + Send {
        let lines = self.logs(id, LAST_LINES, false).filter_map(async |line| line.ok());
        let tail = lines.fold(Tail::new(LAST_BYTES), async |mut tail, line| {
            tail.push(line);
            tail
        });
        async { tokio::time::timeout(LAST_LINES_WAIT, tail).await.map(Tail::into_lines).unwrap_or_default() }
    }

    /// What workspaces take on disk, as far as that can be measured.
    fn disk(&self, manifest: &Manifest) -> impl Future<Output = DiskUsage> + Send;

    /// What running workspaces use.
    fn usage(&self) -> impl Future<Output = BTreeMap<WorkspaceId, Usage>> + Send;

    /// Limits of the manifest that this host can't enforce, each with the reason.
    fn unenforced(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// What workspaces take on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of each workspace's home and project. A workspace that is missing was not measured.
    pub used: BTreeMap<WorkspaceId, u64>,
    /// Bytes free in `workspaceBase`.
    pub free: Option<u64>,
}

/// What the daemon knows of a workspace from its own last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOutcome {
    /// Whether it failed the last time.
    pub failed: bool,
    /// The reason for that.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// What survives the daemon's restart.
pub trait History: Clone + Send + Sync + 'static {
    /// What was last recorded.
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome>;
    /// Records how a workspace stopped or failed. A failure to record it is logged, and does not stop csm.
    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome);
}

/// Seconds since 1970, so that tests can set the time.
pub type Clock = fn() -> Timestamp;
