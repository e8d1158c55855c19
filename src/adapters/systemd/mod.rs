//! Workspaces as systemd's units, where those are declared: NixOS, or any host with such units. `csm launch` is what they run.

mod bus;
mod journal;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::WatchStream;

use super::disk::disk_free;
use super::podman::engine::unenforced;
use crate::model::label::WorkspaceId;
use crate::model::launch::{self, Status, oom_warning, unit_name};
use crate::model::manifest::Manifest;
use crate::model::workspace::{Progress, Usage};
use crate::plan::{Observed, Phase};
use crate::ports::{DiskUsage, Runtime, RuntimeError, StartRequest};
use bus::{Bus, News, Row, Unit};

/// How long a start may take: the units' TimeoutStartSec, in which a first one fetches its image, and some more.
const START: Duration = Duration::from_secs(16 * 60);

/// How long a stop may take: the units' TimeoutStopSec and some more.
const STOP: Duration = Duration::from_secs(45);

/// How long to wait for news of a unit before looking anyway.
const RESYNC: Duration = Duration::from_secs(5);

/// Controllers that systemd has to share out.
const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.controllers";

/// What is known of units that have not changed since.
#[derive(Default)]
struct Known {
    /// State, sub-state and job as systemd lists them, and what followed from them.
    units: BTreeMap<WorkspaceId, ((String, String, u32), Observed)>,
    /// Counts the news: what was asked for before the last of them is not kept.
    news: u64,
}

/// Workspaces run by systemd.
#[derive(Clone)]
pub struct SystemdRuntime {
    bus: Bus,
    known: Arc<Mutex<Known>>,
    changes: watch::Receiver<()>,
}

impl SystemdRuntime {
    /// The runtime of this machine's systemd. It connects by itself, as often as it must.
    pub fn new() -> Self {
        let known: Arc<Mutex<Known>> = Arc::default();
        let (tell, changes) = watch::channel(());
        let forget = known.clone();
        let bus = Bus::open(move |news| {
            let mut known = lock(&forget);
            known.news += 1;
            match news {
                News::Unit(id) => drop(known.units.remove(&id)),
                News::All => known.units.clear(),
            }
            tell.send_replace(());
        });
        Self { bus, known, changes }
    }

    /// Resolves when no connection to systemd is made any more, which only a panic brings about.
    pub async fn ended(&self) {
        self.bus.ended().await;
    }

    /// What a unit that systemd listed is now. Details are asked for only when something has changed.
    async fn look(&self, id: &WorkspaceId, row: Row) -> Result<Observed, RuntimeError> {
        let key = (row.3, row.4, row.7);
        let news = {
            let known = lock(&self.known);
            match known.units.get(id) {
                Some((before, observed)) if *before == key => return Ok(observed.clone()),
                _ => known.news,
            }
        };
        let observed = match self.bus.unit(&unit_name(id)).await? {
            Some(unit) => State::of(&unit).await?.observed(&unit).await?,
            // It has ended since it was listed, and is forgotten.
            None => Observed { digest: None, phase: Phase::Exited { failed: false, why: None } },
        };
        let mut known = lock(&self.known);
        if known.news == news {
            known.units.insert(id.clone(), (key, observed.clone()));
        }
        Ok(observed)
    }

    /// Looks at a unit now, and then whenever it may have changed.
    fn follow(&self, id: &WorkspaceId, most: Duration) -> Looks {
        let mut changes = self.changes.clone();
        changes.mark_changed();
        Looks { bus: self.bus.clone(), unit: unit_name(id), changes, deadline: Instant::now() + most, most }
    }
}

/// Looks at a unit.
struct Looks {
    bus: Bus,
    unit: String,
    changes: watch::Receiver<()>,
    deadline: Instant,
    most: Duration,
}

impl Looks {
    /// How it is, if systemd has it in memory, after something may have changed.
    async fn next(&mut self) -> Result<Option<(Unit, State)>, RuntimeError> {
        while Instant::now() < self.deadline {
            let _ = timeout(RESYNC, self.changes.changed()).await;
            match self.look().await {
                // The bus comes back; the unit goes on without it.
                Err(error) => tracing::debug!(unit = self.unit, %error, "it can't be seen"),
                found => return found,
            }
        }
        let (unit, late) = (&self.unit, self.most.as_secs());
        Err(RuntimeError::new(format!(
            "{unit} did not get there within {late} s; \"systemctl status {unit}\" tells more"
        )))
    }

    async fn look(&self) -> Result<Option<(Unit, State)>, RuntimeError> {
        let Some(unit) = self.bus.unit(&self.unit).await? else { return Ok(None) };
        let state = State::of(&unit).await?;
        Ok(Some((unit, state)))
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
    async fn of(unit: &Unit) -> Result<Self, RuntimeError> {
        let active: String = unit.unit("ActiveState").await?;
        let job: (u32, zbus::OwnedObjectPath) = unit.unit("Job").await?;
        Ok(match active.as_str() {
            "activating" => Self::Starting,
            "deactivating" => Self::Stopping,
            "inactive" | "failed" if job.0 != 0 => Self::Starting,
            "inactive" => Self::Ended { failed: false },
            "failed" => Self::Ended { failed: true },
            // active, reloading, refreshing, maintenance
            _ => Self::Active,
        })
    }

    async fn observed(self, unit: &Unit) -> Result<Observed, RuntimeError> {
        let mut digest = None;
        let phase = match self {
            Self::Starting => Phase::Starting,
            Self::Active | Self::Stopping => {
                let since: u64 = unit.unit("ActiveEnterTimestamp").await?;
                let mut killed = 0;
                if let Some(Status::Ready { digest: made_from, killed: so_far, .. }) = status(unit).await? {
                    (digest, killed) = (Some(made_from), so_far);
                }
                let since = since / 1_000_000;
                if is_frozen(unit).await? {
                    Phase::Frozen { since }
                } else {
                    Phase::Running { since, trouble: oom_warning(killed) }
                }
            }
            Self::Ended { failed: false } => Phase::Exited { failed: false, why: None },
            Self::Ended { failed: true } => Phase::Exited { failed: true, why: Some(why_failed(unit).await?) },
        };
        Ok(Observed { digest, phase })
    }
}

async fn is_frozen(unit: &Unit) -> Result<bool, RuntimeError> {
    let state: String = unit.unit("FreezerState").await?;
    Ok(state == "frozen")
}

async fn status(unit: &Unit) -> Result<Option<Status>, RuntimeError> {
    let text: String = unit.service("StatusText").await?;
    Ok(Status::read(&text))
}

/// The launcher's own words; without them, systemd's.
async fn why_failed(unit: &Unit) -> Result<String, RuntimeError> {
    if let Some(Status::Failed(why)) = status(unit).await? {
        return Ok(why);
    }
    let result: String = unit.service("Result").await?;
    let code: i32 = unit.service("ExecMainStatus").await?;
    Ok(launch::without_words(&result, code))
}

impl Runtime for SystemdRuntime {
    async fn observe(&self) -> Result<BTreeMap<WorkspaceId, Observed>, RuntimeError> {
        let mut observed = BTreeMap::new();
        for row in self.bus.list().await? {
            let Some(id) = launch::workspace_of(&row.0) else { continue };
            // What is left in memory of people who were removed: nothing to stop, nothing to say.
            if row.2 == "not-found" && matches!(row.3.as_str(), "inactive" | "failed") {
                continue;
            }
            let seen = self.look(&id, row).await?;
            observed.insert(id, seen);
        }
        Ok(observed)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::from_changes(self.changes.clone()).boxed()
    }

    async fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync + 'static,
        _: Arc<Semaphore>,
    ) -> Result<(), RuntimeError> {
        let id = &request.spec.workspace;
        progress(Progress::Creating);
        self.bus.start(&unit_name(id)).await?;
        let mut looks = self.follow(id, START);
        let message = loop {
            match looks.next().await? {
                Some((_, State::Active)) => return Ok(()),
                Some((_, State::Stopping)) => {}
                Some((unit, State::Starting)) => {
                    if let Ok(Some(Status::Starting(step))) = status(&unit).await {
                        progress(step);
                    }
                }
                Some((unit, State::Ended { failed: true })) => break why_failed(&unit).await?,
                Some((_, State::Ended { failed: false })) | None => break "it was stopped while it started".to_owned(),
            }
        };
        Err(RuntimeError::new(message).with_log(self.last_lines(id).await))
    }

    async fn freeze(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.bus.hold(&unit_name(id), true).await
    }

    async fn thaw(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.bus.hold(&unit_name(id), false).await
    }

    async fn stop(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        // What is held hears no signal.
        if let Some(unit) = self.bus.unit(&unit_name(id)).await?
            && is_frozen(&unit).await?
        {
            self.thaw(id).await?;
        }
        self.bus.stop(&unit_name(id)).await?;
        let mut looks = self.follow(id, STOP);
        while !matches!(looks.next().await?, None | Some((_, State::Ended { .. }))) {}
        Ok(())
    }

    /// Nothing is left but files: systemd forgets a unit that is gone.
    async fn remove(&self, _: &WorkspaceId) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        let (runtime, unit) = (self.clone(), unit_name(id));
        let begun = async move {
            // Without what came before its last start, where systemd still knows which that was.
            let invocation: Vec<u8> = match runtime.bus.unit(&unit).await {
                Ok(Some(found)) => found.unit("InvocationID").await.unwrap_or_default(),
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
        let mut used = BTreeMap::new();
        for id in manifest.workspaces.keys() {
            let Ok(Some(unit)) = self.bus.unit(&unit_name(id)).await else { continue };
            if let Ok(Some(Status::Ready { disk: Some(disk), .. })) = status(&unit).await {
                used.insert(id.clone(), disk);
            }
        }
        DiskUsage { used, free: disk_free(manifest.workspace_base.path()) }
    }

    async fn usage(&self) -> BTreeMap<WorkspaceId, Usage> {
        let mut usage = BTreeMap::new();
        let Ok(observed) = self.observe().await else { return usage };
        for (id, _) in observed.into_iter().filter(|(_, there)| there.phase.is_up()) {
            let Ok(Some(unit)) = self.bus.unit(&unit_name(&id)).await else { continue };
            let figures = (
                unit.service::<u64>("MemoryCurrent").await,
                unit.service::<u64>("CPUUsageNSec").await,
                unit.service::<u64>("TasksCurrent").await,
            );
            // The largest number stands for one that systemd has not.
            if let (Ok(memory), Ok(cpu), Ok(tasks)) = figures
                && memory < u64::MAX
                && cpu < u64::MAX
            {
                let tasks = u32::try_from(tasks).unwrap_or(0);
                usage.insert(id, Usage { memory, cpu_millis: cpu / 1_000_000, tasks });
            }
        }
        usage
    }

    async fn unenforced(&self) -> Vec<String> {
        let controllers = fs::read_to_string(CONTROLLERS).unwrap_or_default();
        unenforced(|controller| controllers.split_ascii_whitespace().any(|known| known == controller))
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
