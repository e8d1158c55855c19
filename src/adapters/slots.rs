//! What is being done to each workspace: one thing at a time, while a stop interrupts starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::model::label::WorkspaceId;
use crate::ports::RuntimeError;

/// A slot for each workspace.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<BTreeMap<WorkspaceId, Arc<Slot>>>>);

impl Slots {
    pub(super) fn of(&self, id: &WorkspaceId) -> Arc<Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone()
    }
}

/// What is being done to one workspace.
#[derive(Default)]
pub(super) struct Slot {
    /// Held by whoever changes it. First come, first served.
    pub(super) lock: AsyncMutex<()>,
    stops: watch::Sender<()>,
}

impl Slot {
    /// Interrupts the starts that were asked for so far.
    pub(super) fn interrupt(&self) {
        self.stops.send_replace(());
    }

    /// Changes when this workspace is stopped from now on.
    pub(super) fn stops(&self) -> watch::Receiver<()> {
        self.stops.subscribe()
    }
}

/// A start that a stop interrupted.
pub(super) fn interrupted() -> RuntimeError {
    RuntimeError::Interrupted("it was stopped while it started".to_owned())
}
