//! Serialises the operations on each workspace: one runs at a time, but a stop interrupts starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::model::label::WorkspaceId;
use crate::ports::RuntimeError;

/// A slot for each workspace.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<BTreeMap<WorkspaceId, Arc<Slot>>>>);

impl Slots {
    /// A workspace's slot, which is created if there is none.
    pub(super) fn of(&self, id: &WorkspaceId) -> Arc<Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone()
    }
}

/// The operations on one workspace.
#[derive(Default)]
pub(super) struct Slot {
    /// Each operation holds this lock; operations get it in the order of their requests.
    pub(super) lock: AsyncMutex<()>,
    stops: watch::Sender<()>,
}

impl Slot {
    /// Interrupts the starts that were requested before this call.
    pub(super) fn interrupt(&self) {
        self.stops.send_replace(());
    }

    /// A receiver that reports every stop of this workspace from now on.
    pub(super) fn stops(&self) -> watch::Receiver<()> {
        self.stops.subscribe()
    }
}

/// The error of a start that a stop interrupted.
pub(super) fn interrupted() -> RuntimeError {
    RuntimeError::Interrupted("the workspace was stopped while it was starting".to_owned())
}
