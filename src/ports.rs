//! What the daemon needs of the world, as traits. The adapters implement them; tests have fakes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::model::container::{ContainerSpec, SOCKET, SecretCopy, container_spec, secret_copies};
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::printed::{self, Tail};
use crate::model::settings;
use crate::model::workspace::{Progress, Timestamp, Usage, Workspace};
use crate::plan::{Failure, Observed};

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
    /// What is mounted at `~/project`, on the host.
    pub project: PathBuf,
    /// Where code-server will bind its socket. The owner may put anything there.
    pub bound: PathBuf,
    /// Where the socket is to be found by others once it is one.
    pub socket: PathBuf,
}

impl StartRequest {
    /// What a workspace needs.
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

/// Why something could not be done: a reason for people, and the last lines of the workspace's log if it got that far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// What happened, and what to do.
    pub message: String,
    /// The workspace's last words.
    pub log: Vec<String>,
    /// Whether what could not be started was there already, and runs on: csm stops nothing that it did not start itself.
    pub runs_on: bool,
}

impl RuntimeError {
    /// An error without a log. What others say in it is made safe to show.
    pub fn new(message: impl AsRef<str>) -> Self {
        Self { message: printed::one_line(message.as_ref()), log: Vec::new(), runs_on: false }
    }

    /// The same, with the workspace's last words.
    #[must_use]
    pub fn with_log(self, log: Vec<String>) -> Self {
        Self { log, ..self }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self { message: error.message, log: error.log, still_runs: error.runs_on }
    }
}

/// How many lines of a failed workspace's log are kept.
const LAST_LINES: usize = 40;

/// How many bytes of them.
const LAST_BYTES: usize = 16 << 10;

/// How long they may take to come; a reason without them is better than none.
const LAST_LINES_WAIT: Duration = Duration::from_secs(5);

/// What runs workspaces.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// All containers of this csm.
    fn observe(&self) -> impl Future<Output = Result<BTreeMap<WorkspaceId, Observed>, RuntimeError>> + Send;

    /// Yields whenever a container may have changed: a reason to observe again.
    fn changes(&self) -> BoxStream<'static, ()>;

    /// Prepares, makes and starts a workspace, in place of what is left of an earlier one; done when code-server answers. One that
    /// runs already is only waited for. Of `creations` it holds a permit while it creates and waits, not while it pulls. What fails
    /// leaves nothing running, unless the error says so.
    fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync + 'static,
        creations: Arc<Semaphore>,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Stops a workspace, a frozen one too. No error when it does not run.
    fn stop(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Holds all processes of a workspace where they are.
    fn freeze(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Lets them go on.
    fn thaw(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes what is left of a workspace that ended. Its files stay.
    fn remove(&self, id: &WorkspaceId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The last lines that a workspace printed, then, with `follow`, those to come: each safe to show and bounded, see [`printed`].
    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>>;

    /// What a workspace that failed printed last; nothing when it can't be had soon.
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

    /// Limits of the manifest that this machine can't enforce, each with its reason.
    fn unenforced(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// What workspaces take on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of each workspace's home and project. What is not here is unknown.
    pub used: BTreeMap<WorkspaceId, u64>,
    /// Bytes free in `workspaceBase`.
    pub free: Option<u64>,
}

/// What the daemon knows of a workspace from its own last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOutcome {
    /// Whether it failed the last time.
    pub failed: bool,
    /// Why it is as it is.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// What survives the daemon's restart.
pub trait History: Clone + Send + Sync + 'static {
    /// What was last recorded.
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome>;
    /// Records what became of a workspace. A failure to record it is logged, and is not a reason to stop.
    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome);
}

/// Seconds since 1970, so that tests can set the time.
pub type Clock = fn() -> Timestamp;
