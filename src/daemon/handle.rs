//! The way in to the daemon: what can be asked of it, and its pictures.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::view::Snapshot;
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;

/// What people ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Let it run; one that is frozen goes on.
    Start,
    /// Hold it, if it runs.
    Freeze,
    /// Let it not run.
    Stop,
    /// Stop it, and start it as the manifest now says.
    Restart,
}

/// A request refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such workspace")]
pub struct Unknown;

pub(super) enum Command {
    Act { id: WorkspaceId, verb: Verb, why: String, answer: oneshot::Sender<Result<(), Unknown>> },
    Manifest(Arc<Manifest>),
    Alarm { about: &'static str, alarm: Option<String> },
    Alive(oneshot::Sender<()>),
    Watch,
    Unwatch,
}

/// How everything else talks to the daemon.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Handle {
    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Follows the pictures; while it lives, usage is measured.
    pub fn watch(&self) -> Watching {
        let _ = self.commands.send(Command::Watch);
        Watching { handle: self.clone() }
    }

    /// Follows the pictures without asking for usage.
    pub fn follow(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Asks for something. `why` is shown as the reason.
    pub async fn act(&self, id: WorkspaceId, verb: Verb, why: String) -> Result<(), Unknown> {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Act { id, verb, why, answer });
        answered.await.unwrap_or(Err(Unknown))
    }

    /// Asks for something without waiting until it is heard.
    pub fn ask(&self, id: WorkspaceId, verb: Verb, why: String) {
        let (answer, _) = oneshot::channel();
        let _ = self.commands.send(Command::Act { id, verb, why, answer });
    }

    /// Resolves when the runtime has told what runs, or why it can't.
    pub async fn observed(&self) {
        let _ = self.snapshot.clone().wait_for(|snapshot| snapshot.observed).await;
    }

    /// Resolves when the daemon's loop has come around.
    pub async fn alive(&self) {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Alive(answer));
        if answered.await.is_err() {
            // The loop has ended: no sign of life.
            std::future::pending::<()>().await;
        }
    }

    /// Puts a new manifest into force.
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
}

impl Watching {
    /// The next picture.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.handle.snapshot.changed().await.ok()?;
        Some(self.handle.snapshot.borrow_and_update().clone())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.handle.commands.send(Command::Unwatch);
    }
}
