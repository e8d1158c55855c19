//! Workspaces as systemd's units, where those are declared: NixOS, or any host with such units. `csm launch` is what they run.

mod bus;
mod journal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
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

/// How long a start may take: the units' TimeoutStartSec, in which a first one fetches its image, and some more.
const START: Duration = Duration::from_secs(16 * 60);

/// How long a stop may take: the units' TimeoutStopSec and some more.
const STOP: Duration = Duration::from_secs(45);

/// How long to wait for news of a unit before looking anyway.
const RESYNC: Duration = Duration::from_secs(5);

/// Controllers that systemd has to share out.
const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.controllers";

/// How many units are asked about together: systemd answers one question at a time, but need not wait for the next one.
const ASKED_TOGETHER: usize = 32;

/// What is known of units that have not changed since.
#[derive(Default)]
struct UnitCache {
    /// Units as systemd lists them, and what followed from that.
    units: BTreeMap<WorkspaceId, (Row, Observed)>,
    /// Counts the news: what was asked for before the last of them is not kept.
    news: u64,
}

/// Workspaces run by systemd.
#[derive(Clone)]
pub struct SystemdRuntime {
    bus: Bus,
    known: Arc<Mutex<UnitCache>>,
    changes: watch::Receiver<()>,
    slots: Slots,
}

impl SystemdRuntime {
    /// The runtime of this machine's systemd. It connects by itself, as often as it must.
    pub fn new() -> Self {
        let known: Arc<Mutex<UnitCache>> = Arc::default();
        let (tell, changes) = watch::channel(());
        let forget = known.clone();
        let bus = Bus::open(move |news| {
            let mut known = lock(&forget);
            known.news += 1;
            match news {
                UnitChange::Unit(id) => drop(known.units.remove(&id)),
                UnitChange::All => known.units.clear(),
            }
            tell.send_replace(());
        });
        Self { bus, known, changes, slots: Slots::default() }
    }

    /// Resolves when no connection to systemd is made any more, which only a panic brings about.
    pub async fn ended(&self) {
        self.bus.ended().await;
    }

    /// What a unit that systemd listed is now. Details are asked for only when something has changed.
    async fn look(&self, id: WorkspaceId, row: Row) -> Result<(WorkspaceId, Observed), RuntimeError> {
        let news = {
            let known = lock(&self.known);
            match known.units.get(&id) {
                Some((before, observed)) if *before == row => return Ok((id, observed.clone())),
                _ => known.news,
            }
        };
        let observed = self.details(&row).await?;
        let mut known = lock(&self.known);
        if known.news == news {
            known.units.insert(id.clone(), (row, observed.clone()));
        }
        Ok((id, observed))
    }

    /// What a row does not say: only units that are up or have failed have more to say.
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
            State::Ended { failed: false } => Phase::Exited { failed: false, reason: None },
            State::Ended { failed: true } => Phase::Exited { failed: true, reason: Some(self.why_failed(row).await?) },
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

    /// The launcher's own words; without them, systemd's.
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

    /// Freezes a workspace, or thaws it, one after the other: systemd refuses a second one meanwhile.
    async fn set_frozen(&self, id: &WorkspaceId, frozen: bool) -> Result<(), RuntimeError> {
        let slot = self.slots.of(id);
        let _held = slot.lock.lock().await;
        self.bus.set_frozen(&unit_name(id), frozen).await
    }

    /// What is known of each unit that is up. Empty when systemd can't be asked.
    async fn of_each_up<T, F: Future<Output = Option<(WorkspaceId, T)>>>(
        &self,
        ask: impl Fn(Row) -> F,
    ) -> BTreeMap<WorkspaceId, T> {
        let rows = self.bus.list().await.unwrap_or_default();
        let up = stream::iter(rows.into_iter().filter(|row| State::of(row).is_up()));
        up.map(ask).buffer_unordered(ASKED_TOGETHER).filter_map(std::future::ready).collect().await
    }

    /// What the launcher measured, if it has.
    async fn disk_of(&self, row: Row) -> Option<(WorkspaceId, u64)> {
        let Ok(Some(Status::Ready { disk: Some(disk), .. })) = self.status(&row).await else { return None };
        Some((launch::workspace_of(&row.unit)?, disk))
    }

    /// What a unit uses, where systemd knows it.
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

    /// Watches a unit: its state now, and then whenever it may have changed.
    fn follow(&self, id: &WorkspaceId, most: Duration) -> UnitWatcher {
        let mut changes = self.changes.clone();
        changes.mark_changed();
        UnitWatcher { bus: self.bus.clone(), unit: unit_name(id), changes, deadline: Instant::now() + most, most }
    }
}

/// Watches a unit.
struct UnitWatcher {
    bus: Bus,
    unit: String,
    changes: watch::Receiver<()>,
    deadline: Instant,
    most: Duration,
}

impl UnitWatcher {
    /// How it is, if systemd has it in memory, after something may have changed.
    async fn next(&mut self) -> Result<Option<Row>, RuntimeError> {
        while Instant::now() < self.deadline {
            let _ = timeout(RESYNC, self.changes.changed()).await;
            match self.bus.unit(&self.unit).await {
                // The bus comes back; the unit goes on without it.
                Err(error) => tracing::debug!(unit = self.unit, %error, "it can't be seen"),
                found => return found,
            }
        }
        let (unit, late) = (&self.unit, self.most.as_secs());
        Err(RuntimeError::TimedOut(format!(
            "timed out after {late} s waiting for {unit}; see \"systemctl status {unit}\""
        )))
    }
}

impl Default for SystemdRuntime {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a unit is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Active,
    Stopping,
    Ended { failed: bool },
}

impl State {
    fn of(row: &Row) -> Self {
        match row.active_state.as_str() {
            "activating" => Self::Starting,
            "deactivating" => Self::Stopping,
            "inactive" | "failed" if row.job != 0 => Self::Starting,
            "inactive" => Self::Ended { failed: false },
            "failed" => Self::Ended { failed: true },
            // active, reloading, refreshing, maintenance
            _ => Self::Active,
        }
    }

    /// Whether processes of it run.
    fn is_up(self) -> bool {
        matches!(self, Self::Active | Self::Stopping)
    }
}

impl Runtime for SystemdRuntime {
    async fn observe(&self) -> Result<BTreeMap<WorkspaceId, Observed>, RuntimeError> {
        let rows = self.bus.list().await?.into_iter().filter_map(|row| {
            let id = launch::workspace_of(&row.unit)?;
            // What is left in memory of people who were removed: nothing to stop, nothing to say.
            let is_gone = row.load_state == "not-found" && matches!(State::of(&row), State::Ended { .. });
            (!is_gone).then_some((id, row))
        });
        let looks = stream::iter(rows).map(|(id, row)| self.look(id, row));
        looks.buffer_unordered(ASKED_TOGETHER).try_collect().await
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
            // A stop that comes now is queued after the start.
            let _held = slot.lock.lock().await;
            if stops.has_changed().unwrap_or(true) {
                return Err(interrupted());
            }
            self.bus.start(&name).await?;
        }
        let mut watcher = self.follow(id, START);
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
                State::Ended { failed: true } => break self.why_failed(&row).await?,
                State::Ended { failed: false } => return Err(interrupted()),
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
            let _held = slot.lock.lock().await;
            if let Some(row) = self.bus.unit(&name).await? {
                self.thaw_if_frozen(&row).await?;
            }
            self.bus.stop(&name).await?;
        }
        let mut watcher = self.follow(id, STOP);
        while let Some(row) = watcher.next().await? {
            if matches!(State::of(&row), State::Ended { .. }) {
                break;
            }
            // Something may have frozen it meanwhile.
            self.thaw_if_frozen(&row).await?;
        }
        Ok(())
    }

    /// Nothing is left but files: systemd forgets a unit that is gone.
    async fn remove(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        match self.bus.unit(&unit_name(id)).await?.map(|row| State::of(&row)) {
            None | Some(State::Ended { .. }) => Ok(()),
            Some(_) => Err(RuntimeError::StillRunning(format!("can't remove {id}: it runs; stop it first"))),
        }
    }

    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        let (runtime, unit) = (self.clone(), unit_name(id));
        let begun = async move {
            // Without what came before its last start, where systemd still knows which that was.
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
        futures_util::stream::once(begun).flatten().boxed()
    }

    /// What each launcher measured: this account can't read the homes.
    async fn disk(&self, manifest: &Manifest) -> DiskUsage {
        let used = self.of_each_up(|row| self.disk_of(row)).await;
        DiskUsage { used, free: disk_free(manifest.workspace_base.path()) }
    }

    async fn usage(&self) -> BTreeMap<WorkspaceId, Usage> {
        self.of_each_up(|row| self.usage_of(row)).await
    }

    async fn unenforced(&self) -> Vec<String> {
        let controllers = fs::read_to_string(CONTROLLERS).unwrap_or_default();
        unenforced(|controller| controllers.split_ascii_whitespace().any(|known| known == controller))
    }
}

fn lock(known: &Mutex<UnitCache>) -> MutexGuard<'_, UnitCache> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
