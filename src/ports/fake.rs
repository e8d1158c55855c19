//! A runtime for tests, whose workspaces are entries of a map. It passes the same contract tests as the adapters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{Notify, Semaphore, watch};

use super::{DiskUsage, Runtime, RuntimeError, StartRequest};
use crate::model::endpoint::Endpoint;
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;
use crate::model::workspace::{Progress, Usage};
use crate::plan::{Observed, Phase};

/// The runtime.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    /// How often each workspace was stopped.
    stops: Arc<watch::Sender<BTreeMap<WorkspaceId, u64>>>,
    /// Notified, it makes the daemon observe.
    pub(crate) changed: Arc<Notify>,
    /// Notified, it lets one start through, if starts are gated.
    pub(crate) gate: Arc<Notify>,
    /// The same for observations.
    pub(crate) observe_gate: Arc<Notify>,
    /// The same for measurements of disks.
    pub(crate) disk_gate: Arc<Notify>,
}

/// The fake's workspaces, and the failures that a test has set.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is set by a test, independently of the others")]
pub(crate) struct World {
    pub(crate) containers: BTreeMap<WorkspaceId, Observed>,
    /// Each as `verb id`. A start is called once it has its permit.
    pub(crate) calls: Vec<String>,
    /// How starts fail.
    pub(crate) fail: Option<RuntimeError>,
    /// How many calls fail, not counting starts. Bounded: a daemon that tried again without a delay would never let a paused clock advance.
    pub(crate) refusals: u32,
    pub(crate) unreachable: bool,
    /// The lines that a workspace printed, instead of the default line. A log that is followed never ends.
    pub(crate) printed: Option<Vec<String>>,
    /// Whether starts wait for the gate.
    pub(crate) gated: bool,
    /// The disk usage of each workspace, in bytes.
    pub(crate) disk: u64,
    /// Whether measurements of disks wait for their gate.
    pub(crate) disk_gated: bool,
    /// Whether observations wait for their gate.
    pub(crate) observe_gated: bool,
    /// How many observations have started.
    pub(crate) observations: u32,
    /// Whether starts panic.
    pub(crate) panics: bool,
    /// Whether asking for changes panics, which the daemon's loop can't survive.
    pub(crate) changes_panic: bool,
}

impl World {
    fn call(&mut self, verb: &str, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.calls.push(format!("{verb} {id}"));
        let refused = self.refusals > 0;
        self.refusals = self.refusals.saturating_sub(1);
        if refused { Err(RuntimeError::TimedOut("podman is slow".to_owned())) } else { Ok(()) }
    }

    fn phase(&self, id: &WorkspaceId) -> Option<Phase> {
        self.containers.get(id).map(|there| there.phase.clone())
    }

    fn set_phase(&mut self, id: &WorkspaceId, phase: Phase) {
        if let Some(there) = self.containers.get_mut(id) {
            there.phase = phase;
        }
    }
}

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// A workspace that runs, or failed.
    pub(crate) fn put(&self, name: &str, running: bool) {
        self.put_phase(name, if running { runs("") } else { ended() });
    }

    pub(crate) fn put_phase(&self, name: &str, phase: Phase) {
        let observed = Observed { digest: Some("old".into()), phase };
        self.world().containers.insert(name.parse().unwrap(), observed);
        self.changed.notify_one();
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    async fn create(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress),
        turn: Arc<Semaphore>,
    ) -> Result<Endpoint, RuntimeError> {
        let id = &request.spec.workspace;
        if request.spec.image == "slow" {
            progress(Progress::Pulling { percent: None });
            std::future::pending::<()>().await;
        }
        let before = self.world().phase(id);
        let _permit = if before.as_ref().is_some_and(Phase::is_up) {
            None
        } else {
            if turn.available_permits() == 0 {
                progress(Progress::Queued);
            }
            Some(turn.acquire().await.unwrap())
        };
        self.world().calls.push(format!("start {id}"));
        assert!(!self.world().panics, "a bug");
        progress(Progress::Creating);
        progress(Progress::Waiting);
        let gated = self.world().gated;
        if gated {
            self.gate.notified().await;
        }
        let mut world = self.world();
        if let Some(error) = world.fail.clone() {
            return Err(error);
        }
        match world.phase(id) {
            Some(Phase::Running { .. }) => {}
            Some(Phase::Frozen { since }) => {
                world.set_phase(id, Phase::Running { since, warning: None });
            }
            _ => {
                let phase = Phase::Running { since: 9, warning: None };
                world.containers.insert(id.clone(), Observed { digest: Some(request.spec.digest()), phase });
            }
        }
        Ok(Endpoint { socket: request.socket })
    }
}

pub(crate) fn runs(warning: &str) -> Phase {
    Phase::Running { since: 5, warning: (!warning.is_empty()).then(|| warning.into()) }
}

pub(crate) fn ended() -> Phase {
    Phase::Exited { failed: true, reason: Some("exited with code 7".into()) }
}

impl Runtime for Fake {
    async fn observe(&self) -> Result<BTreeMap<WorkspaceId, Observed>, RuntimeError> {
        let (unreachable, seen, gated) = {
            let mut world = self.world();
            world.observations += 1;
            (world.unreachable, world.containers.clone(), world.observe_gated)
        };
        // Podman's response takes time, in which other tasks run.
        if gated {
            self.observe_gate.notified().await;
        } else {
            tokio::task::yield_now().await;
        }
        if unreachable { Err(RuntimeError::Unavailable("podman hangs".to_owned())) } else { Ok(seen) }
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        assert!(!self.world().changes_panic, "on purpose");
        stream::unfold(self.changed.clone(), |changed| async move {
            changed.notified().await;
            Some(((), changed))
        })
        .boxed()
    }

    async fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync,
        turn: Arc<Semaphore>,
    ) -> Result<Endpoint, RuntimeError> {
        let id = request.spec.workspace.clone();
        let mut stops = self.stops.subscribe();
        let before = stops.borrow().get(&id).copied();
        tokio::select! {
            biased;
            _ = stops.wait_for(|stops| stops.get(&id).copied() != before) => {
                Err(RuntimeError::Interrupted("the workspace was stopped while it was starting".to_owned()))
            }
            outcome = self.create(request, progress, turn) => outcome,
        }
    }

    async fn stop(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.stops.send_modify(|stops| *stops.entry(id.clone()).or_default() += 1);
        let mut world = self.world();
        world.call("stop", id)?;
        if world.phase(id).is_some_and(|phase| phase.is_up()) {
            world.set_phase(id, Phase::Exited { failed: false, reason: None });
        }
        Ok(())
    }

    async fn freeze(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let mut world = self.world();
        world.call("freeze", id)?;
        match world.phase(id) {
            Some(Phase::Running { since, .. }) => world.set_phase(id, Phase::Frozen { since }),
            Some(Phase::Frozen { .. }) => {}
            _ => return Err(RuntimeError::NotRunning(format!("can't freeze {id}: it is not running"))),
        }
        Ok(())
    }

    async fn thaw(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let mut world = self.world();
        world.call("thaw", id)?;
        match world.phase(id) {
            Some(Phase::Frozen { since }) => {
                world.set_phase(id, Phase::Running { since, warning: None });
            }
            Some(Phase::Running { .. }) => {}
            _ => return Err(RuntimeError::NotRunning(format!("can't thaw {id}: it is not running"))),
        }
        Ok(())
    }

    async fn remove(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let mut world = self.world();
        world.call("remove", id)?;
        if world.phase(id).is_some_and(|phase| phase.is_up()) {
            return Err(RuntimeError::StillRunning(format!("can't remove {id}: it is running; stop it first")));
        }
        world.containers.remove(id);
        Ok(())
    }

    fn logs(&self, _: &WorkspaceId, _: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        let printed = self.world().printed.clone().unwrap_or_else(|| vec!["its last words".to_owned()]);
        let printed = stream::iter(printed).map(Ok);
        if follow { printed.chain(stream::pending()).boxed() } else { printed.boxed() }
    }

    async fn usage(&self) -> BTreeMap<WorkspaceId, Usage> {
        let mut world = self.world();
        world.calls.push("usage".to_owned());
        let running = world.containers.iter().filter(|(_, there)| there.phase.is_up());
        running.map(|(id, _)| (id.clone(), Usage { memory: 7, ..Usage::default() })).collect()
    }

    async fn disk(&self, manifest: &Manifest) -> DiskUsage {
        let gated = {
            let mut world = self.world();
            world.calls.push("disk".to_owned());
            world.disk_gated
        };
        if gated {
            self.disk_gate.notified().await;
        }
        let bytes = self.world().disk;
        let used = manifest.workspaces.keys().map(|id| (id.clone(), bytes)).collect();
        DiskUsage { used, free: None }
    }

    async fn unenforced(&self) -> Vec<String> {
        Vec::new()
    }
}
