//! One event loop: observe → plan → apply → report.

mod entry;
mod handle;
pub mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::model::container::container_spec;
use crate::model::label::WorkspaceId;
use crate::model::layout::{self, Layout};
use crate::model::manifest::Manifest;
use crate::model::printed;
use crate::model::workspace::{Progress, Usage};
use crate::plan::{Action, Observed, Phase, plan};
use crate::ports::{Clock, History, Runtime, RuntimeError, StartRequest};
use entry::Entry;
use handle::Command;
pub use handle::{Handle, Unknown, Verb, Watching};
use view::Snapshot;

/// At most this many workspaces start at a time; more would only make all of them slow.
const STARTS_AT_ONCE: usize = 4;

/// How often containers are looked at without being told of a change.
const RESYNC: Duration = Duration::from_secs(30);

/// How often usage is measured while somebody looks.
const SAMPLE: Duration = Duration::from_secs(3);

/// How long disks rest between two measurements: each is a walk over all homes.
const DISK_REST: Duration = Duration::from_secs(60);

enum Event {
    Observed(u64, Result<BTreeMap<WorkspaceId, Observed>, RuntimeError>),
    Progress(WorkspaceId, u64, Progress),
    Started(WorkspaceId, u64, Result<(), RuntimeError>),
    /// Frozen, or if not that, thawed.
    Held(WorkspaceId, bool, Result<(), RuntimeError>),
    Stopped(WorkspaceId, Result<(), RuntimeError>),
    Removed(WorkspaceId, Result<(), RuntimeError>),
    Ended(WorkspaceId, Vec<String>),
    Sampled(BTreeMap<WorkspaceId, Usage>),
    Walked {
        disk: BTreeMap<WorkspaceId, u64>,
        free: Option<u64>,
    },
    Notes(Vec<String>),
}

/// Sizes on disk: of a directory, and what is free there.
pub type DiskProbe = fn(&[PathBuf]) -> (Vec<u64>, Option<u64>);

/// The daemon. [`Daemon::run`] is its loop; [`Handle`] is the way in.
pub struct Daemon<R, H> {
    runtime: R,
    history: H,
    clock: Clock,
    disk: DiskProbe,
    layout: Layout,
    manifest: Arc<Manifest>,
    entries: BTreeMap<WorkspaceId, Entry>,
    observed: Option<BTreeMap<WorkspaceId, Observed>>,
    leaving: BTreeSet<WorkspaceId>,
    /// What could not be stopped or removed, declared or not. It is tried again at the next resync, or when somebody asks: at once would be for ever.
    paused: BTreeSet<WorkspaceId>,
    alarms: BTreeMap<&'static str, String>,
    notes: Vec<String>,
    disk_free: Option<u64>,
    watchers: usize,
    starts: Arc<Semaphore>,
    attempts: u64,
    /// Counts what the daemon did to containers: an observation that began before the last such deed tells of the past.
    deeds: u64,
    observing: bool,
    sampling: bool,
    /// When usage was last measured.
    sampled: Option<Instant>,
    walking: bool,
    /// When the last walk over the homes ended.
    walked: Option<Instant>,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedReceiver<Event>,
    report: mpsc::UnboundedSender<Event>,
    publish: watch::Sender<Arc<Snapshot>>,
}

impl<R: Runtime, H: History> Daemon<R, H> {
    /// A daemon for a manifest, and the way to talk to it.
    pub fn new(
        runtime: R,
        history: H,
        clock: Clock,
        disk: DiskProbe,
        layout: Layout,
        manifest: Arc<Manifest>,
    ) -> (Self, Handle) {
        let (commands_in, commands) = mpsc::unbounded_channel();
        let (report, events) = mpsc::unbounded_channel();
        let (publish, snapshot) = watch::channel(Arc::default());
        let mut daemon = Self {
            runtime,
            history,
            clock,
            disk,
            layout,
            manifest,
            entries: BTreeMap::new(),
            observed: None,
            leaving: BTreeSet::new(),
            paused: BTreeSet::new(),
            alarms: BTreeMap::new(),
            notes: Vec::new(),
            disk_free: None,
            watchers: 0,
            starts: Arc::new(Semaphore::new(STARTS_AT_ONCE)),
            attempts: 0,
            deeds: 0,
            observing: false,
            sampling: false,
            sampled: None,
            walking: false,
            walked: None,
            commands,
            events,
            report,
            publish,
        };
        daemon.declare();
        daemon.publish();
        (daemon, Handle { commands: commands_in, snapshot })
    }

    /// Runs until `shutdown` resolves. Workspaces keep running.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut changes = self.runtime.changes();
        let mut resync = tokio::time::interval(RESYNC);
        let mut sample = tokio::time::interval(SAMPLE);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let runtime = self.runtime.clone();
        self.spawn(async move { Event::Notes(runtime.unenforced().await) });
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(command) = self.commands.recv() => {
                    let watched = self.watchers > 0;
                    self.command(command);
                    if self.watchers > 0 && !watched {
                        // Whoever begins to look wants figures now.
                        sample.reset_immediately();
                    }
                }
                Some(event) = self.events.recv() => self.event(event),
                Some(()) = changes.next() => self.observe(),
                _ = resync.tick() => {
                    self.paused.clear();
                    self.observe();
                }
                _ = sample.tick(), if self.watchers > 0 => self.sample(),
            }
            self.apply();
            self.publish();
        }
    }

    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) -> tokio::task::AbortHandle {
        let report = self.report.clone();
        tokio::spawn(async move {
            let _ = report.send(work.await);
        })
        .abort_handle()
    }

    fn observe(&mut self) {
        if std::mem::replace(&mut self.observing, true) {
            return;
        }
        let (runtime, deeds) = (self.runtime.clone(), self.deeds);
        self.spawn(async move { Event::Observed(deeds, runtime.observe().await) });
    }

    fn sample(&mut self) {
        self.walk();
        if std::mem::replace(&mut self.sampling, true) {
            return;
        }
        let runtime = self.runtime.clone();
        self.spawn(async move { Event::Sampled(runtime.usage().await) });
    }

    /// Measures the disk, unless that is being done or was done just now. Usage does not wait for it.
    fn walk(&mut self) {
        let rests = self.walked.is_some_and(|ended| ended.elapsed() < DISK_REST);
        if rests || std::mem::replace(&mut self.walking, true) {
            return;
        }
        let probe = self.disk;
        let base = &self.manifest.workspace_base;
        let ids: Vec<WorkspaceId> = self.entries.keys().cloned().collect();
        let directories: Vec<PathBuf> = ids.iter().map(|id| layout::owner_directory(base, &id.owner)).collect();
        self.spawn(async move {
            let (sizes, free) =
                tokio::task::spawn_blocking(move || probe(&directories)).await.unwrap_or((Vec::new(), None));
            Event::Walked { disk: ids.into_iter().zip(sizes).collect(), free }
        });
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Act { id, verb, why, answer } => {
                self.paused.remove(&id);
                let outcome = self.entries.get_mut(&id).ok_or(Unknown);
                let _ = answer.send(outcome.map(|entry| entry.ask(verb, why)));
                // A start that is given up may have got as far as a container.
                self.deeds += 1;
                self.observe();
            }
            Command::Manifest(manifest) => {
                self.manifest = manifest;
                self.declare();
            }
            Command::Alarm { about, alarm } => match alarm {
                Some(alarm) => drop(self.alarms.insert(about, printed::one_line(&alarm))),
                None => drop(self.alarms.remove(about)),
            },
            Command::Alive(answer) => drop(answer.send(())),
            Command::Watch => self.watchers += 1,
            Command::Unwatch => {
                self.watchers -= 1;
                if self.watchers == 0 {
                    self.entries.values_mut().for_each(Entry::forget_usage);
                }
            }
        }
    }

    /// Brings the entries to the manifest: new people appear, people who left go.
    fn declare(&mut self) {
        let now = (self.clock)();
        let first = self.observed.is_none() && self.entries.is_empty();
        let mut remembered = if first { self.history.recall() } else { BTreeMap::new() };
        let mut before = std::mem::take(&mut self.entries);
        for (id, workspace) in &self.manifest.workspaces {
            let digest = container_spec(&self.manifest, workspace, &self.layout).digest();
            let mut entry = before.remove(id).unwrap_or_else(|| {
                let mut entry = Entry::new(now, remembered.remove(id));
                if workspace.auto_start {
                    entry.ask(Verb::Start, "autoStart is set".to_owned());
                }
                entry
            });
            entry.digest = digest;
            self.entries.insert(id.clone(), entry);
        }
        for (_, mut gone) in before {
            gone.cancel();
        }
    }

    fn event(&mut self, event: Event) {
        let now = (self.clock)();
        match event {
            Event::Observed(deeds, outcome) => {
                self.observing = false;
                match outcome {
                    Ok(_) if deeds != self.deeds => self.observe(),
                    Ok(observed) => {
                        self.alarms.remove("runtime");
                        self.reconcile(&observed);
                        self.observed = Some(observed);
                    }
                    Err(error) => drop(self.alarms.insert("runtime", error.message)),
                }
            }
            Event::Progress(id, attempt, progress) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.progress(attempt, progress);
                }
            }
            Event::Started(id, attempt, outcome) => {
                self.deeds += 1;
                if let Some(entry) = self.entries.get_mut(&id) {
                    if let Err(error) = &outcome {
                        tracing::warn!(workspace = %id, error = %error, "start failed");
                    }
                    let runs = outcome.is_ok();
                    if entry.started(attempt, now, outcome) {
                        self.history.note(&id, &entry.remember());
                        if let Some(observed) = self.observed.as_mut().filter(|_| runs) {
                            let digest = entry.started_as.clone();
                            let phase = Phase::Running { since: now, trouble: String::new() };
                            observed.insert(id, Observed { digest, phase });
                        }
                    }
                }
                self.observe();
            }
            Event::Held(id, frozen, outcome) => {
                self.deeds += 1;
                if let Err(error) = &outcome {
                    tracing::warn!(workspace = %id, error = %error, "freezing or thawing failed");
                } else if let Some(there) = self.observed.as_mut().and_then(|observed| observed.get_mut(&id)) {
                    there.phase = match there.phase {
                        Phase::Running { since, .. } if frozen => Phase::Frozen { since },
                        Phase::Frozen { since } if !frozen => Phase::Running { since, trouble: String::new() },
                        ref other => other.clone(),
                    };
                }
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.held(outcome);
                }
                self.observe();
            }
            Event::Stopped(id, outcome) => {
                self.leaving.remove(&id);
                self.deeds += 1;
                if let Err(error) = &outcome {
                    tracing::warn!(workspace = %id, error = %error, "stop failed");
                }
                let ended = outcome.is_ok();
                if !ended {
                    self.paused.insert(id.clone());
                }
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.stopped(now, outcome);
                    self.history.note(&id, &entry.remember());
                }
                if let Some(there) = self.observed.as_mut().filter(|_| ended).and_then(|observed| observed.get_mut(&id))
                {
                    there.phase = Phase::Ended { failed: false, why: String::new() };
                }
                self.observe();
            }
            Event::Removed(id, outcome) => {
                self.leaving.remove(&id);
                self.deeds += 1;
                match outcome {
                    Ok(()) => drop(self.observed.as_mut().and_then(|observed| observed.remove(&id))),
                    Err(error) => {
                        tracing::warn!(workspace = %id, error = %error, "removal failed");
                        self.paused.insert(id);
                    }
                }
            }
            Event::Ended(id, log) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.log = log;
                }
            }
            Event::Sampled(usage) => self.sampled(&usage),
            Event::Walked { disk, free } => {
                (self.walking, self.walked) = (false, Some(Instant::now()));
                self.disk_free = free;
                for (id, entry) in &mut self.entries {
                    entry.walked(disk.get(id).copied());
                }
            }
            Event::Notes(notes) => self.notes = notes,
        }
    }

    fn sampled(&mut self, usage: &BTreeMap<WorkspaceId, Usage>) {
        self.sampling = false;
        let over = self.sampled.replace(Instant::now()).map_or(SAMPLE, |before| before.elapsed());
        if self.watchers > 0 {
            for (id, entry) in &mut self.entries {
                entry.sampled(usage.get(id).copied(), over);
            }
        }
    }

    /// Notes what changed by itself: what runs already is taken over, what ended by itself is said.
    fn reconcile(&mut self, observed: &BTreeMap<WorkspaceId, Observed>) {
        let now = (self.clock)();
        let first = self.observed.is_none();
        let mut ended = Vec::new();
        for (id, entry) in &mut self.entries {
            if entry.stopped_late(now, observed.get(id)) {
                self.history.note(id, &entry.remember());
            } else if entry.reconcile(now, first, observed.get(id)) {
                self.history.note(id, &entry.remember());
                ended.push(id.clone());
            }
        }
        for id in ended {
            let runtime = self.runtime.clone();
            self.spawn(async move {
                let log = runtime.last_lines(&id).await;
                Event::Ended(id, log)
            });
        }
    }

    fn apply(&mut self) {
        let Some(observed) = &self.observed else { return };
        let desired = self.entries.iter().map(|(id, entry)| (id.clone(), entry.desired())).collect();
        for action in plan(&desired, observed) {
            match action {
                Action::Start(id) => self.start(&id),
                Action::Freeze(id) => self.hold(id, true),
                Action::Thaw(id) => self.hold(id, false),
                Action::Stop(id) | Action::Remove(id) if self.paused.contains(&id) => {}
                Action::Stop(id) => self.stop(id),
                Action::Remove(id) => self.remove(id),
            }
        }
    }

    fn start(&mut self, id: &WorkspaceId) {
        let Some(workspace) = self.manifest.workspaces.get(id) else { return };
        let request = StartRequest::new(&self.manifest, workspace, &self.layout);
        let digest = request.spec.digest();
        self.attempts += 1;
        let attempt = self.attempts;
        let (runtime, starts, report) = (self.runtime.clone(), self.starts.clone(), self.report.clone());
        let workspace = id.clone();
        let abort = self.spawn(async move {
            let _turn = starts.acquire().await;
            let told = workspace.clone();
            let progress = move |step| drop(report.send(Event::Progress(told.clone(), attempt, step)));
            let outcome = runtime.start(request, progress).await;
            Event::Started(workspace, attempt, outcome)
        });
        if let Some(entry) = self.entries.get_mut(id) {
            entry.starting((self.clock)(), attempt, digest, abort);
        }
    }

    fn stop(&mut self, id: WorkspaceId) {
        match self.entries.get_mut(&id) {
            Some(entry) => entry.stopping((self.clock)()),
            None if self.leaving.insert(id.clone()) => {
                tracing::info!(workspace = %id, "stopping: it is no longer declared");
            }
            None => return,
        }
        let runtime = self.runtime.clone();
        self.spawn(async move {
            let outcome = runtime.stop(&id).await;
            Event::Stopped(id, outcome)
        });
    }

    fn hold(&mut self, id: WorkspaceId, freeze: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.holding();
        }
        let runtime = self.runtime.clone();
        self.spawn(async move {
            let outcome = if freeze { runtime.freeze(&id).await } else { runtime.thaw(&id).await };
            Event::Held(id, freeze, outcome)
        });
    }

    fn remove(&mut self, id: WorkspaceId) {
        if self.leaving.insert(id.clone()) {
            let runtime = self.runtime.clone();
            self.spawn(async move {
                let outcome = runtime.remove(&id).await;
                Event::Removed(id, outcome)
            });
        }
    }

    fn publish(&self) {
        let mut next = Snapshot {
            observed: self.observed.is_some() || self.alarms.contains_key("runtime"),
            workspaces: BTreeMap::new(),
            alarms: self.alarms.values().cloned().collect(),
            notes: self.notes.clone(),
            disk_free: self.disk_free,
        };
        self.publish.send_if_modified(|current| {
            for (id, entry) in &self.entries {
                let Some(workspace) = self.manifest.workspaces.get(id) else { continue };
                let digest = self.observed.as_ref().and_then(|all| all.get(id)).map(|there| there.digest.as_str());
                let view = entry.view(id, workspace.limits, &self.manifest, digest);
                let view = match current.workspaces.get(id) {
                    Some(same) if **same == view => same.clone(),
                    _ => Arc::new(view),
                };
                next.workspaces.insert(id.clone(), view);
            }
            let changed = **current != next;
            if changed {
                *current = Arc::new(std::mem::take(&mut next));
            }
            changed
        });
    }
}
