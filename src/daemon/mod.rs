//! One event loop: observe → plan → apply → report.

mod activity;
mod entry;
pub mod figures;
mod handle;
mod recorder;
mod tracker;
pub mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::model::container::container_spec;
use crate::model::event::{Fact, Kind};
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::printed;
use crate::model::workspace::{Progress, Usage, Workspace};
use crate::plan::{self, Cause, Effects, Failure, JobId, Observed, Step, Verb};
use crate::ports::{Clock, DiskUsage, History, LastOutcome, Runtime, RuntimeError, StartRequest};
use activity::TICK_INTERVAL;
use entry::Entry;
use handle::Command;
pub use handle::{Handle, Measure, UnknownWorkspace, Watcher};
use recorder::Recorder;
use tracker::Tracker;
use view::Snapshot;

/// How many workspaces are created at the same time; more would slow down all of them. Pulls are not counted.
const CONCURRENT_STARTS: usize = 4;

/// How often the runtime is observed and failed steps are retried, even if no change is reported.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// How often usage is measured while there are watchers.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(3);

/// The minimum time between two measurements of disk space: each may need to read all directories of all homes.
const DISK_INTERVAL: Duration = Duration::from_secs(60);

enum Event {
    /// The result of an observation, and the generation in which it started.
    Observed(u64, Result<BTreeMap<WorkspaceId, Observed>, RuntimeError>),
    Progress(WorkspaceId, JobId, Progress),
    Finished(WorkspaceId, JobId, Step, Result<(), RuntimeError>),
    /// A workspace that is not declared was stopped (true) or removed, or that failed.
    Removed(WorkspaceId, bool, Result<(), RuntimeError>),
    LogRead(WorkspaceId, Vec<String>),
    Sampled(BTreeMap<WorkspaceId, Usage>),
    DiskMeasured(DiskUsage),
    Notes(Vec<String>),
}

/// Whether an observation is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Observation {
    None,
    InProgress,
    /// In progress, but a change was reported since it started, which it may not include.
    Outdated,
}

/// Schedules a repeated measurement: at most one is in progress.
#[derive(Default)]
struct Measurement {
    in_progress: bool,
    finished: Option<Instant>,
}

impl Measurement {
    /// Marks a measurement as started, and returns true, unless one is in progress or finished less than `interval` ago.
    fn start(&mut self, interval: Duration) -> bool {
        let recent = self.finished.is_some_and(|at| at.elapsed() < interval);
        !recent && !std::mem::replace(&mut self.in_progress, true)
    }

    /// Marks the measurement as finished. Returns the time since the previous one finished.
    fn finish(&mut self) -> Option<Duration> {
        self.in_progress = false;
        self.finished.replace(Instant::now()).map(|previous| previous.elapsed())
    }
}

/// The daemon. [`Daemon::run`] is its loop; [`Handle`] sends it commands.
pub struct Daemon<R, H> {
    runtime: R,
    history: H,
    clock: Clock,
    layout: Layout,
    manifest: Arc<Manifest>,
    entries: BTreeMap<WorkspaceId, Entry>,
    /// Workspaces that are not declared and are being stopped or removed.
    removing: BTreeSet<WorkspaceId>,
    /// Those of them for which that failed. The next resync tries again: an immediate retry could loop forever.
    retry_later: BTreeSet<WorkspaceId>,
    alarms: BTreeMap<&'static str, String>,
    notes: Vec<String>,
    disk_free: Option<u64>,
    watchers: usize,
    disk_watchers: usize,
    recorder: Recorder,
    creations: Arc<Semaphore>,
    /// When the workspaces' activity was last stored.
    activity_stored: Instant,
    /// The number of times that a step has started or finished.
    generation: u64,
    /// Whether an observation has succeeded.
    observed: bool,
    observation: Observation,
    usage: Measurement,
    disk: Measurement,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedReceiver<Event>,
    events_tx: mpsc::UnboundedSender<Event>,
    snapshot_tx: watch::Sender<Arc<Snapshot>>,
}

impl<R: Runtime, H: History> Daemon<R, H> {
    /// Creates a daemon for a manifest, and the handle for it.
    pub fn new(runtime: R, history: H, clock: Clock, layout: Layout, manifest: Arc<Manifest>) -> (Self, Handle) {
        let (commands_tx, commands) = mpsc::unbounded_channel();
        let (events_tx, events) = mpsc::unbounded_channel();
        let (snapshot_tx, snapshot) = watch::channel(Arc::default());
        let last = history.load();
        let recorder = Recorder::new(history.last_event());
        let event_followers = recorder.followers();
        let mut daemon = Self {
            runtime,
            history,
            clock,
            layout,
            manifest,
            entries: BTreeMap::new(),
            removing: BTreeSet::new(),
            retry_later: BTreeSet::new(),
            alarms: BTreeMap::new(),
            notes: Vec::new(),
            disk_free: None,
            watchers: 0,
            disk_watchers: 0,
            recorder,
            creations: Arc::new(Semaphore::new(CONCURRENT_STARTS)),
            activity_stored: Instant::now(),
            generation: 0,
            observed: false,
            observation: Observation::None,
            usage: Measurement::default(),
            disk: Measurement::default(),
            commands,
            events,
            events_tx,
            snapshot_tx,
        };
        daemon.declare(last);
        for (id, activity) in daemon.history.load_activity() {
            if let Some(entry) = daemon.entries.get_mut(&id) {
                entry.tracker = Tracker::new(Some(activity));
            }
        }
        daemon.publish();
        (daemon, Handle { commands: commands_tx, snapshot, events: event_followers })
    }

    /// Runs until `shutdown` resolves. Workspaces keep running.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut changes = self.runtime.changes();
        let mut resync = tokio::time::interval(RESYNC_INTERVAL);
        let mut sample = tokio::time::interval(SAMPLE_INTERVAL);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let runtime = self.runtime.clone();
        self.spawn(async move { runtime.unenforced().await }, |notes| Event::Notes(notes.unwrap_or_default()));
        let mut tick = tokio::time::interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(command) = self.commands.recv() => {
                    let watched = self.watchers > 0;
                    self.handle_command(command);
                    if self.watchers > 0 && !watched {
                        // The first watcher needs a measurement now.
                        sample.reset_immediately();
                    }
                }
                Some(event) = self.events.recv() => self.handle_event(event),
                Some(()) = changes.next() => self.observe(),
                _ = resync.tick() => self.resync(),
                _ = tick.tick() => self.tick(),
                _ = sample.tick(), if self.watchers > 0 => self.sample(),
            }
            self.publish();
            self.recorder.flush(&self.history);
        }
    }

    /// Runs work in a separate task, and reports its result as an event. A panic is reported too, so that no stage waits for it forever.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        event: impl FnOnce(Result<T, RuntimeError>) -> Event + Send + 'static,
    ) -> AbortHandle {
        let events = self.events_tx.clone();
        let work = tokio::spawn(work);
        let abort = work.abort_handle();
        tokio::spawn(async move {
            let outcome = work.await.map_err(|error| {
                if error.is_cancelled() {
                    return RuntimeError::Interrupted("csm cancelled the start".to_owned());
                }
                RuntimeError::Failed { reason: format!("csm: internal error: {error}"), log: Vec::new() }
            });
            let _ = events.send(event(outcome));
        });
        abort
    }

    fn observe(&mut self) {
        if self.observation != Observation::None {
            self.observation = Observation::Outdated;
            return;
        }
        self.observation = Observation::InProgress;
        let (runtime, generation) = (self.runtime.clone(), self.generation);
        self.spawn(async move { runtime.observe().await }, move |outcome| {
            Event::Observed(generation, outcome.flatten())
        });
    }

    fn resync(&mut self) {
        self.retry_later.clear();
        let ids: Vec<WorkspaceId> = self.entries.keys().cloned().collect();
        for id in ids {
            self.handle_lifecycle_event(&id, plan::Event::Retry);
        }
        self.observe();
    }

    fn sample(&mut self) {
        if self.disk_watchers > 0 {
            self.measure_disk();
        }
        if !self.usage.start(Duration::ZERO) {
            return;
        }
        let runtime = self.runtime.clone();
        self.spawn(async move { runtime.usage().await }, |usage| Event::Sampled(usage.unwrap_or_default()));
    }

    /// Measures disk space separately, because it takes longer than measuring usage.
    fn measure_disk(&mut self) {
        if !self.disk.start(DISK_INTERVAL) {
            return;
        }
        let (runtime, manifest) = (self.runtime.clone(), self.manifest.clone());
        self.spawn(async move { runtime.disk(&manifest).await }, |disk| Event::DiskMeasured(disk.unwrap_or_default()));
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Request { id, verb, cause, reply } => {
                let known = self.entries.contains_key(&id);
                let _ = reply.send(if known { Ok(()) } else { Err(UnknownWorkspace) });
                if known {
                    if matches!(verb, Verb::Start | Verb::Restart) {
                        self.touch(&id);
                    }
                    self.handle_lifecycle_event(&id, plan::Event::Requested(verb, cause));
                }
            }
            Command::Report { id, report, reply } => drop(reply.send(self.handle_report(&id, report))),
            Command::Touch(id) => self.touch(&id),
            Command::Record(fact) => self.record(fact),
            Command::Figures { id, reply } => {
                let now = (self.clock)();
                let figures = self.entries.get(&id).map(|entry| entry.figures.last_day(now));
                drop(reply.send(figures.unwrap_or_default()));
            }
            Command::Keep { id, time, reason, reply } => drop(reply.send(self.keep(&id, time, &reason))),
            Command::Manifest(manifest) => {
                self.manifest = manifest;
                self.declare(BTreeMap::new());
                self.observe();
            }
            Command::Alarm { about, alarm } => match alarm {
                Some(alarm) => drop(self.alarms.insert(about, printed::to_one_line(&alarm))),
                None => drop(self.alarms.remove(about)),
            },
            Command::Ping(reply) => drop(reply.send(())),
            Command::Watch(measure) => {
                self.watchers += 1;
                self.disk_watchers += usize::from(measure == Measure::UsageAndDisk);
            }
            Command::Unwatch(measure) => {
                self.watchers -= 1;
                self.disk_watchers -= usize::from(measure == Measure::UsageAndDisk);
                if self.watchers == 0 {
                    self.entries.values_mut().for_each(Entry::clear_usage);
                }
            }
        }
    }

    /// Updates the entries from the manifest: adds newly declared workspaces, and removes those that are no longer declared.
    fn declare(&mut self, mut last: BTreeMap<WorkspaceId, LastOutcome>) {
        let now = (self.clock)();
        let mut before = std::mem::take(&mut self.entries);
        for (id, workspace) in &self.manifest.workspaces {
            let digest = container_spec(&self.manifest, workspace, &self.layout).digest();
            let mut entry = before.remove(id).unwrap_or_else(|| {
                let mut entry = Entry::new(workspace.clone(), now, last.remove(id));
                if workspace.auto_start {
                    // The lifecycle does nothing before the first observation.
                    entry.lifecycle.handle(plan::Event::Requested(Verb::Start, Cause::AutoStart), &digest, now);
                }
                entry
            });
            entry.declared = workspace.clone();
            entry.digest = digest;
            self.entries.insert(id.clone(), entry);
        }
        // The next observation finds and stops what the aborted starts have already created.
        for mut removed in before.into_values() {
            removed.cancel_start();
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Observed(generation, outcome) => {
                let outdated = std::mem::replace(&mut self.observation, Observation::None) == Observation::Outdated;
                match outcome {
                    Ok(observed) => {
                        self.alarms.remove("runtime");
                        self.apply_observation(generation, observed);
                    }
                    Err(error) => drop(self.alarms.insert("runtime", error.to_string())),
                }
                if outdated {
                    self.observe();
                }
            }
            Event::Progress(id, job, progress) => {
                self.handle_lifecycle_event(&id, plan::Event::Progress(job, progress));
            }
            Event::Finished(id, job, step, outcome) => {
                self.generation += 1;
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.generation = self.generation;
                }
                match &outcome {
                    // A later request took its place.
                    Ok(()) | Err(RuntimeError::Interrupted(_)) => {}
                    // The lifecycle says what has happened; this is which step it was.
                    Err(error) => tracing::debug!(workspace = %id, ?step, %error, "a step failed"),
                }
                self.handle_lifecycle_event(&id, plan::Event::Finished(job, outcome.map_err(Failure::from)));
                self.observe();
            }
            Event::Removed(id, was_up, outcome) => {
                self.removing.remove(&id);
                match outcome {
                    Ok(()) if was_up => {
                        self.record(Fact::of_workspace(id, Kind::Stopped).because("it is no longer declared"));
                    }
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(workspace = %id, %error, "can't stop or remove a workspace that is not declared");
                        self.retry_later.insert(id);
                    }
                }
                self.observe();
            }
            Event::LogRead(id, log) => self.handle_lifecycle_event(&id, plan::Event::LogRead(log)),
            Event::Sampled(usage) => self.apply_usage(&usage),
            Event::DiskMeasured(disk) => {
                self.disk.finish();
                self.disk_free = disk.free;
                for (id, entry) in &mut self.entries {
                    entry.set_disk(disk.used.get(id).copied());
                }
            }
            Event::Notes(notes) => self.notes = notes,
        }
    }

    fn apply_usage(&mut self, usage: &BTreeMap<WorkspaceId, Usage>) {
        let interval = self.usage.finish().unwrap_or(SAMPLE_INTERVAL);
        if self.watchers > 0 {
            for (id, entry) in &mut self.entries {
                entry.set_usage(usage.get(id).copied(), interval);
            }
        }
    }

    /// Passes to each workspace what was observed of it, unless one of its steps has started or finished since the observation started.
    fn apply_observation(&mut self, generation: u64, mut observed: BTreeMap<WorkspaceId, Observed>) {
        self.observed = true;
        let ids: Vec<WorkspaceId> = self.entries.keys().cloned().collect();
        for id in ids {
            let seen = observed.remove(&id);
            if self.entries.get(&id).is_some_and(|entry| entry.generation <= generation) {
                self.handle_lifecycle_event(&id, plan::Event::Observed(seen));
            }
        }
        for (id, undeclared) in observed {
            self.remove(id, undeclared.phase.is_up());
        }
    }

    /// Stops a workspace that is not declared, or removes what is left of it.
    fn remove(&mut self, id: WorkspaceId, is_up: bool) {
        if self.retry_later.contains(&id) || !self.removing.insert(id.clone()) {
            return;
        }
        let (runtime, workspace) = (self.runtime.clone(), id.clone());
        let work = async move { if is_up { runtime.stop(&workspace).await } else { runtime.remove(&workspace).await } };
        self.spawn(work, move |outcome| Event::Removed(id, is_up, outcome.flatten()));
    }

    /// Passes an event to a workspace's lifecycle, and carries out the effects.
    fn handle_lifecycle_event(&mut self, id: &WorkspaceId, event: plan::Event) {
        let now = (self.clock)();
        let Some(entry) = self.entries.get_mut(id) else { return };
        let declared = entry.declared.clone();
        let effects = entry.lifecycle.handle(event, &entry.digest, now);
        let Effects { step, record, read_log, .. } = effects;
        if record {
            self.history.record(id, &entry.outcome());
        }
        self.record_step(id, &effects);
        if read_log {
            let (runtime, workspace, id) = (self.runtime.clone(), id.clone(), id.clone());
            self.spawn(async move { runtime.last_lines(&workspace).await }, |log| {
                Event::LogRead(id, log.unwrap_or_default())
            });
        }
        if let Some((job, step)) = step {
            self.start_step(&declared, job, step);
        }
        self.follow_phase(id);
    }

    fn start_step(&mut self, declared: &Workspace, job: JobId, step: Step) {
        self.generation += 1;
        let id = &declared.id;
        let (runtime, workspace) = (self.runtime.clone(), id.clone());
        let work: futures_util::future::BoxFuture<'static, Result<(), RuntimeError>> = match step {
            Step::Start => {
                let request = StartRequest::new(&self.manifest, declared, &self.layout);
                let (creations, events) = (self.creations.clone(), self.events_tx.clone());
                let progress = move |progress| drop(events.send(Event::Progress(workspace.clone(), job, progress)));
                Box::pin(async move { runtime.start(request, progress, creations).await.map(drop) })
            }
            Step::Freeze => Box::pin(async move { runtime.freeze(&workspace).await }),
            Step::Thaw => Box::pin(async move { runtime.thaw(&workspace).await }),
            Step::Stop => Box::pin(async move { runtime.stop(&workspace).await }),
        };
        let finished = id.clone();
        let abort = self.spawn(work, move |outcome| Event::Finished(finished, job, step, outcome.flatten()));
        if let Some(entry) = self.entries.get_mut(id) {
            entry.generation = self.generation;
            entry.cancel_start();
            entry.start = (step == Step::Start).then_some(abort);
        }
    }

    fn publish(&self) {
        let mut next = Snapshot {
            observed: self.observed || self.alarms.contains_key("runtime"),
            workspaces: BTreeMap::new(),
            alarms: self.alarms.values().cloned().collect(),
            notes: self.notes.clone(),
            disk_free: self.disk_free,
        };
        self.snapshot_tx.send_if_modified(|current| {
            for (id, entry) in &self.entries {
                let view = entry.view(&self.manifest);
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
