//! The daemon's interface for the other tasks: its commands and its snapshots.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::figures::Figure;
use super::view::Snapshot;
use crate::activity::{Refused, Report, ReportResponse};
use crate::model::event::{Event, Fact};
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;
use crate::plan::{Cause, Verb};

/// The manifest declares no such workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such workspace")]
pub struct UnknownWorkspace;

pub(super) enum Command {
    Request { id: WorkspaceId, verb: Verb, cause: Cause, reply: oneshot::Sender<Result<(), UnknownWorkspace>> },
    Report { id: WorkspaceId, report: Report, reply: oneshot::Sender<Result<ReportResponse, UnknownWorkspace>> },
    Touch(WorkspaceId),
    Record(Fact),
    Figures { id: WorkspaceId, reply: oneshot::Sender<Vec<Figure>> },
    Keep { id: WorkspaceId, time: Duration, reason: String, reply: oneshot::Sender<Result<(), Refused>> },
    Manifest(Arc<Manifest>),
    Alarm { about: &'static str, alarm: Option<String> },
    Ping(oneshot::Sender<()>),
    Watch(Measure),
    Unwatch(Measure),
}

/// What is measured for a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Memory and CPU.
    Usage,
    /// Disk space as well, which may need to read all directories of all homes.
    UsageAndDisk,
}

/// Sends commands to the daemon and reads its snapshots.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
}

impl Handle {
    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Follows the snapshots. Until the returned value is dropped, the daemon measures what it asks for.
    pub fn watch(&self, measure: Measure) -> Watcher {
        let _ = self.commands.send(Command::Watch(measure));
        Watcher { handle: self.clone(), measure }
    }

    /// Follows the snapshots without measuring anything.
    pub fn follow(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Requests something for a workspace, and waits until the daemon has received it. `cause` is shown as the reason.
    pub async fn request(&self, id: WorkspaceId, verb: Verb, cause: Cause) -> Result<(), UnknownWorkspace> {
        let (reply, rx) = oneshot::channel();
        let _ = self.commands.send(Command::Request { id, verb, cause, reply });
        rx.await.unwrap_or(Err(UnknownWorkspace))
    }

    /// Requests something for a workspace, without waiting.
    pub fn enqueue(&self, id: WorkspaceId, verb: Verb, cause: Cause) {
        let (reply, _) = oneshot::channel();
        let _ = self.commands.send(Command::Request { id, verb, cause, reply });
    }

    /// Passes on what a workspace's sensor reports.
    pub async fn report(&self, id: WorkspaceId, report: Report) -> Result<ReportResponse, UnknownWorkspace> {
        let (reply, rx) = oneshot::channel();
        let _ = self.commands.send(Command::Report { id, report, reply });
        rx.await.unwrap_or(Err(UnknownWorkspace))
    }

    /// Notes that a workspace's owner has done something.
    pub fn touch(&self, id: WorkspaceId) {
        let _ = self.commands.send(Command::Touch(id));
    }

    /// Records what happened.
    pub fn record(&self, fact: Fact) {
        let _ = self.commands.send(Command::Record(fact));
    }

    /// Follows the events that are recorded from now on. A receiver that is too slow gets an error.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// What a workspace has used over the last day.
    pub async fn figures(&self, id: WorkspaceId) -> Vec<Figure> {
        let (reply, rx) = oneshot::channel();
        let _ = self.commands.send(Command::Figures { id, reply });
        rx.await.unwrap_or_default()
    }

    /// Keeps a workspace for some time. `reason` is shown.
    pub async fn keep(&self, id: WorkspaceId, time: Duration, reason: String) -> Result<(), Refused> {
        let (reply, rx) = oneshot::channel();
        let _ = self.commands.send(Command::Keep { id, time, reason, reply });
        rx.await.unwrap_or(Ok(()))
    }

    /// Resolves when the first observation has succeeded or failed.
    pub async fn first_observation(&self) {
        let _ = self.snapshot.clone().wait_for(|snapshot| snapshot.observed).await;
    }

    /// Resolves when the daemon's loop has handled this command, which proves that the loop runs.
    pub async fn ping(&self) {
        let (reply, rx) = oneshot::channel();
        let _ = self.commands.send(Command::Ping(reply));
        if rx.await.is_err() {
            // The loop has ended, so there will be no reply.
            std::future::pending::<()>().await;
        }
    }

    /// Applies a new manifest.
    pub fn set_manifest(&self, manifest: Arc<Manifest>) {
        let _ = self.commands.send(Command::Manifest(manifest));
    }

    /// Raises an alarm on the dashboard, or clears it with `None`. Each `about` has at most one alarm.
    pub fn alarm(&self, about: &'static str, alarm: Option<String>) {
        let _ = self.commands.send(Command::Alarm { about, alarm });
    }
}

/// Makes the daemon measure usage until it is dropped.
pub struct Watcher {
    handle: Handle,
    measure: Measure,
}

impl Watcher {
    /// Waits for the next snapshot. `None` if the daemon's loop has ended.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.handle.snapshot.changed().await.ok()?;
        Some(self.handle.snapshot.borrow_and_update().clone())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.handle.commands.send(Command::Unwatch(self.measure));
    }
}
