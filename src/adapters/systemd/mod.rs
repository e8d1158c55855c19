//! Workspaces as units of systemd, on NixOS or any host that declares such units. Each unit runs `csm launch`.

mod bus;
mod journal;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::WatchStream;

use super::disk::disk_free;
use super::podman::engine::unenforced;
use super::slots::{Slots, interrupted};
use crate::model::endpoint::Endpoint;
use crate::model::label::WorkspaceId;
use crate::model::launch::{self, Status, oom_warning, unit_name};
use crate::model::manifest::Manifest;
use crate::model::workspace::{Progress, Usage};
use crate::plan::{Observed, Phase};
use crate::ports::{DiskUsage, Runtime, RuntimeError, StartRequest};
use bus::{Bus, Row, UnitChange};
use unit::{State, UnitWatcher};

/// How long a start may take: a little longer than the units' TimeoutStartSec, which includes pulling the image.
const START_TIMEOUT: Duration = Duration::from_secs(16 * 60);

/// How long a stop may take: a little longer than the units' TimeoutStopSec.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

/// The cgroup controllers that systemd can use.
const CONTROLLERS_FILE: &str = "/sys/fs/cgroup/cgroup.controllers";

/// How many units are queried together. systemd handles one call at a time, but then has the next one already.
const MAX_CONCURRENT_CALLS: usize = 32;

/// The units' state, as it was observed last. A unit that changes is removed.
#[derive(Default)]
struct UnitCache {
    /// Each unit as systemd listed it, and the observation made from that.
    units: BTreeMap<WorkspaceId, (Row, Observed)>,
    /// How many changes were reported. An observation that began before the last of them is not cached.
    change_count: u64,
}

/// Workspaces run by systemd.
#[derive(Clone)]
pub struct SystemdRuntime {
    bus: Bus,
    cache: Arc<Mutex<UnitCache>>,
    changes: watch::Receiver<()>,
    slots: Slots,
}

impl SystemdRuntime {
    /// The runtime of this host's systemd. It connects in the background, and again whenever the connection is lost.
    pub fn new() -> Self {
        let cache: Arc<Mutex<UnitCache>> = Arc::default();
        let (tx, changes) = watch::channel(());
        let shared = cache.clone();
        let bus = Bus::open(move |change| {
            let mut cache = lock(&shared);
            cache.change_count += 1;
            match change {
                UnitChange::Unit(id) => drop(cache.units.remove(&id)),
                UnitChange::All => cache.units.clear(),
            }
            tx.send_replace(());
        });
        Self { bus, cache, changes, slots: Slots::default() }
    }

    /// Resolves when the task that connects to systemd has exited, which only a panic causes.
    pub async fn ended(&self) {
        self.bus.ended().await;
    }

    /// The observation of a unit that systemd listed. Its details are queried only when it has changed.
    async fn observe_unit(&self, id: WorkspaceId, row: Row) -> Result<(WorkspaceId, Observed), RuntimeError> {
        let change_count = {
            let cache = lock(&self.cache);
            match cache.units.get(&id) {
                Some((before, observed)) if *before == row => return Ok((id, observed.clone())),
                _ => cache.change_count,
            }
        };
        let observed = self.details(&row).await?;
        let mut cache = lock(&self.cache);
        if cache.change_count == change_count {
            cache.units.insert(id.clone(), (row, observed.clone()));
        }
        Ok((id, observed))
    }

    /// Queries what a row does not show. Only units that are up or have failed have more properties to read.
    async fn details(&self, row: &Row) -> Result<Observed, RuntimeError> {
        let mut digest = None;
        let phase = match State::of(row) {
            State::Starting => Phase::Starting,
            State::Active | State::Stopping => {
                let (since, frozen, status) = tokio::try_join!(
                    self.bus.of_unit::<u64>(row, "ActiveEnterTimestamp"),
                    self.is_frozen(row),
                    self.status(row),
                )?;
                let mut killed = 0;
                if let Some(Status::Ready { digest: made_from, killed: so_far, .. }) = status {
                    (digest, killed) = (Some(made_from), so_far);
                }
                let since = since / 1_000_000;
                if frozen { Phase::Frozen { since } } else { Phase::Running { since, warning: oom_warning(killed) } }
            }
            State::Exited { failed: false } => Phase::Exited { failed: false, reason: None },
            State::Exited { failed: true } => Phase::Exited { failed: true, reason: Some(self.why_failed(row).await?) },
        };
        Ok(Observed { digest, phase })
    }

    async fn is_frozen(&self, row: &Row) -> Result<bool, RuntimeError> {
        let state: String = self.bus.of_unit(row, "FreezerState").await?;
        Ok(matches!(state.as_str(), "freezing" | "frozen"))
    }

    async fn status(&self, row: &Row) -> Result<Option<Status>, RuntimeError> {
        let text: String = self.bus.of_service(row, "StatusText").await?;
        Ok(Status::read(&text))
    }

    /// The launcher's reason, or systemd's when the launcher gave none.
    async fn why_failed(&self, row: &Row) -> Result<String, RuntimeError> {
        if let Some(Status::Failed(why)) = self.status(row).await? {
            return Ok(why);
        }
        let result: String = self.bus.of_service(row, "Result").await?;
        let code: i32 = self.bus.of_service(row, "ExecMainStatus").await?;
        Ok(launch::describe_result(&result, code))
    }

    /// Thaws a unit that is frozen: a frozen process gets no signal and does not respond.
    async fn thaw_if_frozen(&self, row: &Row) -> Result<(), RuntimeError> {
        if State::of(row).is_up() && self.is_frozen(row).await? {
            match self.bus.set_frozen(&row.unit, false).await {
                Err(RuntimeError::NotRunning(_)) => {}
                thawed => return thawed,
            }
        }
        Ok(())
    }

    /// Freezes or thaws a workspace. One such operation runs at a time: systemd refuses a second one meanwhile.
    async fn set_frozen(&self, id: &WorkspaceId, frozen: bool) -> Result<(), RuntimeError> {
        let slot = self.slots.of(id);
        let _guard = slot.lock.lock().await;
        self.bus.set_frozen(&unit_name(id), frozen).await
    }

    /// What `ask` returns for each unit that is up. Empty when systemd can't be asked.
    async fn for_each_up<T, F: Future<Output = Option<(WorkspaceId, T)>>>(
        &self,
        ask: impl Fn(Row) -> F,
    ) -> BTreeMap<WorkspaceId, T> {
        let rows = self.bus.list().await.unwrap_or_default();
        let up = stream::iter(rows.into_iter().filter(|row| State::of(row).is_up()));
        up.map(ask).buffer_unordered(MAX_CONCURRENT_CALLS).filter_map(std::future::ready).collect().await
    }

    /// The disk usage that the launcher measured, if it has.
    async fn disk_of(&self, row: Row) -> Option<(WorkspaceId, u64)> {
        let Ok(Some(Status::Ready { disk: Some(disk), .. })) = self.status(&row).await else { return None };
        Some((launch::workspace_of(&row.unit)?, disk))
    }

    /// What a unit uses, if systemd has the figures.
    async fn usage_of(&self, row: Row) -> Option<(WorkspaceId, Usage)> {
        let id = launch::workspace_of(&row.unit)?;
        let figures = tokio::try_join!(
            self.bus.of_service::<u64>(&row, "MemoryCurrent"),
            self.bus.of_service::<u64>(&row, "CPUUsageNSec"),
            self.bus.of_service::<u64>(&row, "TasksCurrent"),
        );
        let (memory, cpu, tasks) = figures.ok()?;
        // systemd uses the largest number for a figure that it does not have.
        let is_known = memory < u64::MAX && cpu < u64::MAX;
        let tasks = u32::try_from(tasks).unwrap_or(0);
        is_known.then_some((id, Usage { memory, cpu_millis: cpu / 1_000_000, tasks }))
    }

    /// Watches a workspace's unit for this long.
    fn watch(&self, id: &WorkspaceId, limit: Duration) -> UnitWatcher {
        UnitWatcher::new(self.bus.clone(), unit_name(id), self.changes.clone(), limit)
    }
}

impl Default for SystemdRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for SystemdRuntime {
    async fn observe(&self) -> Result<BTreeMap<WorkspaceId, Observed>, RuntimeError> {
        let rows = self.bus.list().await?.into_iter().filter_map(|row| {
            let id = launch::workspace_of(&row.unit)?;
            // A unit that systemd still has loaded, of a user who was removed, and that does not run.
            let is_stale = row.load_state == "not-found" && matches!(State::of(&row), State::Exited { .. });
            (!is_stale).then_some((id, row))
        });
        let observations = stream::iter(rows).map(|(id, row)| self.observe_unit(id, row));
        observations.buffer_unordered(MAX_CONCURRENT_CALLS).try_collect().await
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::from_changes(self.changes.clone()).boxed()
    }

    async fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync,
        turn: Arc<Semaphore>,
    ) -> Result<Endpoint, RuntimeError> {
        let (id, name) = (&request.spec.workspace, unit_name(&request.spec.workspace));
        let endpoint = Endpoint { socket: request.socket.clone() };
        let slot = self.slots.of(id);
        let mut stops = slot.stops();
        if let Some(row) = self.bus.unit(&name).await?
            && State::of(&row) == State::Active
        {
            self.thaw_if_frozen(&row).await?;
            return Ok(endpoint);
        }
        let mut permit = turn.clone().try_acquire_owned().ok();
        if permit.is_none() {
            progress(Progress::Queued);
            permit = tokio::select! {
                biased;
                _ = stops.changed() => return Err(interrupted()),
                permit = turn.clone().acquire_owned() => permit.ok(),
            };
        }
        progress(Progress::Creating);
        {
            // A stop that is requested from here on is queued after the start.
            let _guard = slot.lock.lock().await;
            if stops.has_changed().unwrap_or(true) {
                return Err(interrupted());
            }
            self.bus.start(&name).await?;
        }
        let mut watcher = self.watch(id, START_TIMEOUT);
        let reason = loop {
            let Some(row) = watcher.next().await? else { return Err(interrupted()) };
            match State::of(&row) {
                State::Active => return Ok(endpoint),
                State::Stopping => {}
                State::Starting => {
                    if let Ok(Some(Status::Starting(step))) = self.status(&row).await {
                        // A unit that pulls does not delay other starts, and csm can't hold it back after the pull.
                        permit = match step {
                            Progress::Pulling { .. } => None,
                            _ => permit.or_else(|| turn.clone().try_acquire_owned().ok()),
                        };
                        progress(step);
                    }
                }
                State::Exited { failed: true } => break self.why_failed(&row).await?,
                State::Exited { failed: false } => return Err(interrupted()),
            }
        };
        Err(RuntimeError::Failed { reason, log: self.last_lines(id).await })
    }

    async fn freeze(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.set_frozen(id, true).await
    }

    async fn thaw(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.set_frozen(id, false).await
    }

    async fn stop(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let (slot, name) = (self.slots.of(id), unit_name(id));
        slot.interrupt();
        {
            let _guard = slot.lock.lock().await;
            if let Some(row) = self.bus.unit(&name).await? {
                self.thaw_if_frozen(&row).await?;
            }
            self.bus.stop(&name).await?;
        }
        let mut watcher = self.watch(id, STOP_TIMEOUT);
        while let Some(row) = watcher.next().await? {
            if matches!(State::of(&row), State::Exited { .. }) {
                break;
            }
            // Something else may have frozen it meanwhile.
            self.thaw_if_frozen(&row).await?;
        }
        Ok(())
    }

    /// Checks that the unit does not run. There is nothing to remove: systemd unloads a unit that has exited.
    async fn remove(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        match self.bus.unit(&unit_name(id)).await?.map(|row| State::of(&row)) {
            None | Some(State::Exited { .. }) => Ok(()),
            Some(_) => Err(RuntimeError::StillRunning(format!("can't remove {id}: it is running; stop it first"))),
        }
    }

    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        let (runtime, unit) = (self.clone(), unit_name(id));
        let opened = async move {
            // Only lines since its last start, if systemd still has the id of that.
            let invocation: Vec<u8> = match runtime.bus.unit(&unit).await {
                Ok(Some(row)) => runtime.bus.of_unit(&row, "InvocationID").await.unwrap_or_default(),
                _ => Vec::new(),
            };
            let matches = if invocation.is_empty() {
                format!("_SYSTEMD_UNIT={unit}")
            } else {
                invocation.iter().fold("_SYSTEMD_INVOCATION_ID=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
            };
            journal::lines(matches, lines, follow)
        };
        futures_util::stream::once(opened).flatten().boxed()
    }

    /// The figures that each launcher measured: the daemon's account can't read the homes.
    async fn disk(&self, manifest: &Manifest) -> DiskUsage {
        let used = self.for_each_up(|row| self.disk_of(row)).await;
        DiskUsage { used, free: disk_free(manifest.workspace_base.path()) }
    }

    async fn usage(&self) -> BTreeMap<WorkspaceId, Usage> {
        self.for_each_up(|row| self.usage_of(row)).await
    }

    async fn unenforced(&self) -> Vec<String> {
        let controllers = fs::read_to_string(CONTROLLERS_FILE).unwrap_or_default();
        unenforced(|controller| controllers.split_ascii_whitespace().any(|known| known == controller))
    }
}

fn lock(cache: &Mutex<UnitCache>) -> MutexGuard<'_, UnitCache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
