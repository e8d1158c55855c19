//! A workspace's data in the daemon: its lifecycle and its usage.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::figures::Figures;
use super::tracker::Tracker;
use super::view::View;
use crate::activity::{Context, Decision};
use crate::model::container::editor_url;
use crate::model::event::Kind;
use crate::model::manifest::Manifest;
use crate::model::workspace::{Timestamp, Usage, Workspace};
use crate::plan::{Cause, Lifecycle, Stage};
use crate::ports::LastOutcome;

/// A declared workspace.
pub(super) struct Entry {
    /// The workspace as the current manifest declares it.
    pub(super) declared: Arc<Workspace>,
    pub(super) lifecycle: Lifecycle,
    /// The digest of the container that the current manifest specifies.
    pub(super) digest: String,
    /// The daemon's generation when the workspace's last step started or finished. An observation of an earlier generation is outdated.
    pub(super) generation: u64,
    /// Aborts the start that is in progress.
    pub(super) start: Option<AbortHandle>,
    pub(super) tracker: Tracker,
    /// What it has used over the last day.
    pub(super) figures: Figures,
    /// The last event of its lifecycle.
    pub(super) last_event: Option<Kind>,
    /// Whether it was recorded that an update is pending.
    pub(super) update_recorded: bool,
    usage: Option<Usage>,
    cpu: Option<u64>,
    disk: Option<u64>,
}

impl Entry {
    pub(super) fn new(declared: Arc<Workspace>, now: Timestamp, last: Option<LastOutcome>) -> Self {
        let lifecycle = match last {
            Some(last) => Lifecycle::new(last.failed, Cause::Recorded(last.reason), last.at),
            None => Lifecycle::new(false, Cause::NeverStarted, now),
        };
        Self {
            declared,
            lifecycle,
            digest: String::new(),
            generation: 0,
            start: None,
            tracker: Tracker::new(None),
            figures: Figures::default(),
            last_event: None,
            update_recorded: false,
            usage: None,
            cpu: None,
            disk: None,
        }
    }

    pub(super) fn outcome(&self) -> LastOutcome {
        LastOutcome {
            failed: matches!(self.lifecycle.stage(), Stage::Failed { .. }),
            reason: self.lifecycle.cause().to_string(),
            at: self.lifecycle.changed_at(),
        }
    }

    pub(super) fn cancel_start(&mut self) {
        if let Some(start) = self.start.take() {
            start.abort();
        }
    }

    /// Advances the clocks to now.
    pub(super) fn advance_activity(&mut self) {
        let context = Context { autostop: &self.declared.autostop, update_pending: self.is_update_pending() };
        self.tracker.advance(self.lifecycle.stage(), context);
    }

    /// Decides what follows from the activity.
    pub(super) fn decide(&mut self) -> Decision {
        let context = Context { autostop: &self.declared.autostop, update_pending: self.is_update_pending() };
        let mut decision = self.tracker.decide(context);
        decision.act &= self.lifecycle.is_settled();
        decision
    }

    /// Whether the running container differs from what the manifest specifies.
    pub(super) fn is_update_pending(&self) -> bool {
        let created_from = self.lifecycle.container().and_then(|container| container.digest.as_ref());
        created_from.is_some_and(|digest| *digest != self.digest)
    }

    /// Sets the usage, and computes the CPU use since the previous measurement, `interval` ago.
    pub(super) fn set_usage(&mut self, usage: Option<Usage>, interval: Duration) {
        self.cpu = match (self.usage, usage) {
            (Some(previous), Some(current)) => {
                let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
                Some(current.cpu_millis.saturating_sub(previous.cpu_millis) * 1000 / millis)
            }
            _ => None,
        };
        self.usage = usage;
    }

    /// `None` keeps the last measurement.
    pub(super) fn set_disk(&mut self, disk: Option<u64>) {
        self.disk = disk.or(self.disk);
    }

    /// Clears the usage, which is outdated once it is no longer measured.
    pub(super) fn clear_usage(&mut self) {
        (self.usage, self.cpu) = (None, None);
    }

    pub(super) fn view(&self, manifest: &Manifest) -> View {
        let (failure, log) = match self.lifecycle.stage() {
            Stage::Failed { message, log } => (message.clone(), log.clone()),
            Stage::Unresponsive { message, log } => (Some(message.clone()), log.clone()),
            Stage::StopFailed { message, .. } => (Some(message.clone()), Vec::new()),
            _ => (self.lifecycle.container().and_then(|container| container.warning.clone()), Vec::new()),
        };
        let container = self.lifecycle.container();
        View {
            id: self.declared.id.clone(),
            state: self.lifecycle.state(),
            reason: self.lifecycle.cause().to_string(),
            at: self.lifecycle.changed_at(),
            failure,
            log,
            limits: self.declared.limits,
            usage: self.usage.filter(|_| container.is_some()),
            cpu: self.cpu.filter(|_| container.is_some()),
            disk: self.disk,
            update_pending: self.is_update_pending(),
            activity: container.map(|_| self.tracker.verdict.clone()),
            settled: self.lifecycle.is_settled(),
            may_run: self.lifecycle.may_run(),
            url: editor_url(manifest, &self.declared.id),
        }
    }
}
