//! Starts, stops and freezes one workspace's container. One operation runs at a time, but a stop interrupts starts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::libpod::{CALL_TIMEOUT, CREATE_TIMEOUT, Condition, Container};
use super::{PodmanRuntime, create, pull};
use crate::adapters::prepare::{clear, prepare};
use crate::adapters::ready;
use crate::adapters::slots::{Slot, interrupted};
use crate::model::container::container_name;
use crate::model::endpoint::Endpoint;
use crate::model::label::WorkspaceId;
use crate::model::workspace::Progress;
use crate::ports::{Runtime as _, RuntimeError, StartRequest};

/// How often csm tries to stop a container. Something else may act on it meanwhile, so that one refusal is not final.
const MAX_STOP_ATTEMPTS: u32 = 4;

/// The delay before csm asks Podman again after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How a creation finished.
enum Creation {
    /// The container was running already, or was frozen.
    Found,
    /// It was created and started. The permit is held until code-server answers.
    Created(OwnedSemaphorePermit),
}

/// Whether a start is still wanted.
struct Wanted {
    stops: watch::Receiver<()>,
    /// Its receiver is gone when the start was dropped.
    outcome: oneshot::Sender<Result<Creation, RuntimeError>>,
}

impl Wanted {
    /// Does this, unless the start was dropped or interrupted meanwhile. Its future can then be dropped at any await.
    async fn unless_given_up<T>(
        &mut self,
        work: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        tokio::select! {
            biased;
            _ = self.stops.changed() => Err(interrupted()),
            () = self.outcome.closed() => Err(interrupted()),
            outcome = work => outcome,
        }
    }

    fn check(&self) -> Result<(), RuntimeError> {
        let given_up = self.outcome.is_closed() || self.stops.has_changed().unwrap_or(true);
        if given_up { Err(interrupted()) } else { Ok(()) }
    }
}

fn failed(reason: String) -> RuntimeError {
    RuntimeError::Failed { reason, log: Vec::new() }
}

impl PodmanRuntime {
    /// See [`crate::ports::Runtime::start`]. The creation is a task of its own, because Podman continues when a call to it is dropped:
    /// until Podman has finished, no other operation on the workspace begins.
    pub(super) async fn start_one(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress),
        turn: Arc<Semaphore>,
    ) -> Result<Endpoint, RuntimeError> {
        let slot = self.slots.of(&request.spec.workspace);
        let mut stops = slot.stops();
        let (outcome, mut created) = oneshot::channel();
        let (report, mut steps) = mpsc::unbounded_channel();
        let mut wanted = Wanted { stops: stops.clone(), outcome };
        let (runtime, creation) = (self.clone(), request.clone());
        tokio::spawn(async move {
            let report = move |step| drop(report.send(step));
            let created = runtime.create(&slot, &creation, &mut wanted, report, turn).await;
            let _ = wanted.outcome.send(created);
        });
        let created = loop {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => progress(step),
                created = &mut created => break created,
            }
        };
        while let Ok(step) = steps.try_recv() {
            progress(step);
        }
        let created = created.map_err(|_| {
            failed("can't create the container: the task that does it panicked; see csm's log".to_owned())
        })??;
        progress(Progress::Waiting);
        let permit = match created {
            Creation::Found => {
                tracing::info!(workspace = %request.spec.workspace, "the container runs already; waiting for code-server");
                None
            }
            Creation::Created(permit) => Some(permit),
        };
        tokio::select! {
            biased;
            _ = stops.changed() => Err(interrupted()),
            ready = self.await_ready(&request, permit.is_none()) => ready.map(|()| Endpoint { socket: request.socket.clone() }),
        }
    }

    async fn create(
        &self,
        slot: &Slot,
        request: &StartRequest,
        wanted: &mut Wanted,
        report: impl Fn(Progress) + Send + Sync,
        turn: Arc<Semaphore>,
    ) -> Result<Creation, RuntimeError> {
        let _guard = wanted.unless_given_up(async { Ok(slot.lock.lock().await) }).await?;
        let spec = &request.spec;
        if self.resumes(&spec.name).await? {
            return Ok(Creation::Found);
        }
        let (prepared, secrets) = (request.clone(), self.layout.secrets(&spec.workspace));
        let prepared = tokio::task::spawn_blocking(move || prepare(&prepared, &secrets, None)).await;
        prepared.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        if !self.has_image(&spec.image).await? {
            report(Progress::Pulling { percent: None });
            let pulling = |percent| report(Progress::Pulling { percent });
            wanted.unless_given_up(pull::pull(self.libpod.socket(), &spec.image, pulling)).await?;
        }
        let permit = if let Ok(permit) = turn.clone().try_acquire_owned() {
            permit
        } else {
            report(Progress::Queued);
            let permit = async { turn.acquire_owned().await.map_err(|_| interrupted()) };
            wanted.unless_given_up(permit).await?
        };
        report(Progress::Creating);
        let body = create::body(spec, self.engine().await?).map_err(failed)?;
        // Removes the container of an earlier run. Something else may have started it meanwhile.
        self.halt(&spec.name).await?;
        self.libpod.remove(&spec.name).await?;
        wanted.check()?;
        self.libpod.create(body.to_string()).await?;
        wanted.check()?;
        self.libpod.start(&spec.name).await?;
        Ok(Creation::Created(permit))
    }

    /// Whether the container runs, after unpausing it if it was paused.
    async fn resumes(&self, name: &str) -> Result<bool, RuntimeError> {
        match self.libpod.container(name).await?.map(|container| container.condition) {
            Some(Condition::Running) => Ok(true),
            Some(Condition::Paused) => self.libpod.unpause(name).await.map(|()| true),
            _ => Ok(false),
        }
    }

    /// Waits until code-server responds or the container exits. When neither happens in time, a container that was `found` running is
    /// not stopped: the programs in it may matter more to its owner than the editor.
    async fn await_ready(&self, request: &StartRequest, found: bool) -> Result<(), RuntimeError> {
        let name = &request.spec.name;
        let reason = tokio::select! {
            () = ready::published(request) => return Ok(()),
            code = self.exit_code(name) => match code {
                Some(code) => format!("exited immediately with code {code}; see the log"),
                None => "exited immediately; see the log".to_owned(),
            },
            () = tokio::time::sleep(ready::READY_TIMEOUT) => {
                if found {
                    let reason = "the workspace runs, but code-server does not respond on its socket; restart the workspace";
                    return Err(RuntimeError::StillRunning(reason.to_owned()));
                }
                format!("code-server did not respond within {} s; see the log", ready::READY_TIMEOUT.as_secs())
            }
        };
        let log = self.last_lines(&request.spec.workspace).await;
        let slot = self.slots.of(&request.spec.workspace);
        let _guard = slot.lock.lock().await;
        if let Err(error) = self.halt(name).await {
            tracing::warn!(container = name, %error, "can't stop the container that did not start");
        }
        Err(RuntimeError::Failed { reason, log })
    }

    /// Waits until the container has exited. Its exit code is unknown when it was removed.
    async fn exit_code(&self, name: &str) -> Option<i64> {
        loop {
            let waited = self.libpod.wait(name).await;
            match self.libpod.container(name).await {
                Ok(None) => return None,
                Ok(Some(Container { condition: Condition::Exited, exit_code })) => return Some(exit_code),
                // For example, Podman's service was restarted.
                _ => tracing::debug!(container = name, ?waited, "can't wait until the container exits; trying again"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// See [`crate::ports::Runtime::stop`].
    pub(super) async fn stop_one(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let slot = self.slots.of(id);
        slot.interrupt();
        // Waits for a creation to finish: Podman would create the container anyway.
        let locked = tokio::time::timeout(CREATE_TIMEOUT + CALL_TIMEOUT, slot.lock.lock()).await;
        let _guard = locked.map_err(|_| busy("stop", id))?;
        self.halt(&container_name(id)).await?;
        // A workspace that does not run needs no secrets; the next start copies them again.
        if let Err(error) = clear(&self.layout.secrets(id)) {
            tracing::warn!(workspace = %id, %error, "can't remove the copies of its secrets");
        }
        Ok(())
    }

    /// See [`crate::ports::Runtime::freeze`] and [`crate::ports::Runtime::thaw`].
    pub(super) async fn set_frozen(&self, id: &WorkspaceId, frozen: bool) -> Result<(), RuntimeError> {
        let (verb, name) = (if frozen { "freeze" } else { "thaw" }, container_name(id));
        let slot = self.slots.of(id);
        let _guard = tokio::time::timeout(CALL_TIMEOUT, slot.lock.lock()).await.map_err(|_| busy(verb, id))?;
        match self.libpod.container(&name).await?.map(|container| container.condition) {
            Some(Condition::Running) if frozen => self.libpod.pause(&name).await,
            Some(Condition::Paused) if !frozen => self.libpod.unpause(&name).await,
            Some(Condition::Running | Condition::Paused) => Ok(()),
            _ => Err(RuntimeError::NotRunning(format!("can't {verb} {id}: it is not running; start it first"))),
        }
    }

    /// See [`crate::ports::Runtime::remove`].
    pub(super) async fn remove_one(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let name = container_name(id);
        let slot = self.slots.of(id);
        let _guard = tokio::time::timeout(CALL_TIMEOUT, slot.lock.lock()).await.map_err(|_| busy("remove", id))?;
        match self.libpod.container(&name).await?.map(|container| container.condition) {
            None => Ok(()),
            Some(Condition::Created | Condition::Exited) => self.libpod.remove(&name).await,
            Some(_) => Err(RuntimeError::StillRunning(format!("can't remove {id}: it is running; stop it first"))),
        }
    }

    /// Stops the container if it runs. Podman does not stop a paused container, so it is unpaused first.
    async fn halt(&self, name: &str) -> Result<(), RuntimeError> {
        let mut last = Ok(());
        for _ in 0..MAX_STOP_ATTEMPTS {
            last = match self.libpod.container(name).await?.map(|container| container.condition) {
                None | Some(Condition::Created | Condition::Exited) => return Ok(()),
                Some(Condition::Paused) => self.libpod.unpause(name).await,
                Some(Condition::Running | Condition::Stopping) => self.libpod.stop(name).await,
            };
            if let Err(RuntimeError::Unavailable(_) | RuntimeError::TimedOut(_)) = last {
                return last;
            }
        }
        last.and(Err(RuntimeError::Refused(format!(
            "can't stop {name}: something starts it again each time; find out what with \"podman events\""
        ))))
    }
}

fn busy(verb: &str, id: &WorkspaceId) -> RuntimeError {
    RuntimeError::TimedOut(format!(
        "can't {verb} {id}: it is still being started or stopped; try again when that is done"
    ))
}
