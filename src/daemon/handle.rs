//! The way in to the daemon: what can be asked of it, and its snapshots.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::view::Snapshot;
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;
use crate::plan::{Cause, Verb};

/// A request refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such workspace")]
pub struct Unknown;

pub(super) enum Command {
    Act { id: WorkspaceId, verb: Verb, cause: Cause, reply: oneshot::Sender<Result<(), Unknown>> },
    Manifest(Arc<Manifest>),
    Alarm { about: &'static str, alarm: Option<String> },
    Alive(oneshot::Sender<()>),
    Watch(Measure),
    Unwatch(Measure),
}

/// What is measured for somebody who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Memory and CPU.
    Usage,
    /// The disk as well, which may be a walk over all homes.
    UsageAndDisk,
}

/// How everything else talks to the daemon.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Handle {
    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Follows the snapshots; while it lives, what it asks for is measured.
    pub fn watch(&self, measure: Measure) -> Watching {
        let _ = self.commands.send(Command::Watch(measure));
        Watching { handle: self.clone(), measure }
    }

    /// Follows the snapshots without asking for figures.
    pub fn follow(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Asks for something. `cause` is shown as the reason.
    pub async fn act(&self, id: WorkspaceId, verb: Verb, cause: Cause) -> Result<(), Unknown> {
        let (reply, replied) = oneshot::channel();
        let _ = self.commands.send(Command::Act { id, verb, cause, reply });
        replied.await.unwrap_or(Err(Unknown))
    }

    /// Asks for something without waiting until it is heard.
    pub fn ask(&self, id: WorkspaceId, verb: Verb, cause: Cause) {
        let (reply, _) = oneshot::channel();
        let _ = self.commands.send(Command::Act { id, verb, cause, reply });
    }

    /// Resolves when the runtime has said what runs, or why it can't.
    pub async fn observed(&self) {
        let _ = self.snapshot.clone().wait_for(|snapshot| snapshot.observed).await;
    }

    /// Resolves when the daemon's loop has come around.
    pub async fn alive(&self) {
        let (reply, replied) = oneshot::channel();
        let _ = self.commands.send(Command::Alive(reply));
        if replied.await.is_err() {
            // The loop has ended: no sign of life.
            std::future::pending::<()>().await;
        }
    }

    /// Applies a new manifest.
    pub fn set_manifest(&self, manifest: Arc<Manifest>) {
        let _ = self.commands.send(Command::Manifest(manifest));
    }

    /// Raises an alarm on the dashboard, or takes it back. `about` tells alarms apart.
    pub fn alarm(&self, about: &'static str, alarm: Option<String>) {
        let _ = self.commands.send(Command::Alarm { about, alarm });
    }
}

/// Somebody looks.
pub struct Watching {
    handle: Handle,
    measure: Measure,
}

impl Watching {
    /// The next snapshot.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.handle.snapshot.changed().await.ok()?;
        Some(self.handle.snapshot.borrow_and_update().clone())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.handle.commands.send(Command::Unwatch(self.measure));
    }
}
