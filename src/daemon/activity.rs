//! Keeps each workspace's clocks, and freezes or stops the workspaces that nobody uses.

use std::time::Duration;

use tokio::time::Instant;

use super::entry::Entry;
use super::recorder::because;
use super::{Daemon, UnknownWorkspace};
use crate::activity::{Because, Next, Refused, Report, ReportResponse};
use crate::model::label::WorkspaceId;
use crate::plan::{self, Cause, Verb};
use crate::ports::{History, Runtime};

/// How often the clocks of all workspaces are advanced.
pub(super) const TICK_INTERVAL: Duration = Duration::from_secs(15);

/// How often the clocks are stored. A csm that is killed loses at most this time of each clock.
const STORE_INTERVAL: Duration = Duration::from_secs(60);

/// When a sensor sends its next report: soon, if the next step is near.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
const REPORT_INTERVAL_NEAR: Duration = Duration::from_secs(10);
const NEAR: u64 = 180;

impl<R: Runtime, H: History> Daemon<R, H> {
    /// Advances the clocks of all workspaces that are up, and takes the steps that are due. No clock of another workspace runs.
    pub(super) fn tick(&mut self) {
        let is_up = |entry: &Entry| entry.lifecycle.container().is_some();
        let up: Vec<WorkspaceId> =
            self.entries.iter().filter(|(_, entry)| is_up(entry)).map(|(id, _)| id.clone()).collect();
        for id in &up {
            self.update_activity(id);
        }
        if self.activity_stored.elapsed() >= STORE_INTERVAL {
            self.activity_stored = Instant::now();
            let all: Vec<WorkspaceId> = self.entries.keys().cloned().collect();
            self.store_activity(&all);
        }
        self.prune_events();
    }

    fn store_activity(&mut self, ids: &[WorkspaceId]) {
        let mut changed = Vec::new();
        for id in ids {
            if let Some(entry) = self.entries.get_mut(id)
                && std::mem::take(&mut entry.tracker.unstored)
            {
                changed.push((id.clone(), entry.tracker.activity.clone()));
            }
        }
        if !changed.is_empty() {
            self.history.record_activity(changed);
        }
    }

    /// Advances a workspace's clocks, decides, and takes the step that is due.
    pub(super) fn update_activity(&mut self, id: &WorkspaceId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.advance_activity();
        let decision = entry.decide();
        self.record_announcement(id, &decision);
        let Some(next) = decision.verdict.next else { return };
        if decision.act {
            let (verb, cause) = request(next, decision.verdict.idle);
            tracing::debug!(workspace = %id, verdict = %decision.verdict, ?verb, "nobody uses the workspace");
            self.handle_lifecycle_event(id, plan::Event::Requested(verb, cause));
        }
    }

    /// Sets the phase of a workspace's clocks after its stage has changed.
    pub(super) fn follow_phase(&mut self, id: &WorkspaceId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.advance_activity();
            let decision = entry.decide();
            self.record_announcement(id, &decision);
        }
    }

    /// Accepts a sensor's report.
    pub(super) fn handle_report(
        &mut self,
        id: &WorkspaceId,
        report: Report,
    ) -> Result<ReportResponse, UnknownWorkspace> {
        let entry = self.entries.get_mut(id).ok_or(UnknownWorkspace)?;
        entry.advance_activity();
        if let Some(sample) = &report.sample {
            entry.figures.add(sample, (self.clock)());
        }
        let before = entry.tracker.verdict.clone();
        let has_claims = !report.claims.is_empty();
        let autostop = &entry.declared.autostop;
        let refused: Vec<String> =
            entry.tracker.activity.report(report, autostop).into_iter().map(|refused| refused.0).collect();
        self.update_activity(id);
        if has_claims {
            self.record_claims(id, &before, &refused);
            // A claim must survive csm, however soon that is killed.
            self.store_activity(std::slice::from_ref(id));
        }
        let entry = self.entries.get_mut(id).ok_or(UnknownWorkspace)?;
        let tracker = &mut entry.tracker;
        let is_near = tracker.verdict.next.is_some_and(|next| next.seconds <= NEAR);
        let interval = if is_near { REPORT_INTERVAL_NEAR } else { REPORT_INTERVAL };
        Ok(ReportResponse {
            verdict: tracker.verdict.clone(),
            announcement: tracker.announcement.take(),
            refused,
            next_report: interval.as_secs(),
        })
    }

    /// Notes that the workspace's owner has done something.
    pub(super) fn touch(&mut self, id: &WorkspaceId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.advance_activity();
            entry.tracker.activity.touch();
            self.update_activity(id);
        }
    }

    /// Keeps a workspace for some time, because someone asked for it.
    pub(super) fn keep(&mut self, id: &WorkspaceId, time: Duration, reason: &str) -> Result<(), Refused> {
        let Some(entry) = self.entries.get_mut(id) else { return Ok(()) };
        entry.advance_activity();
        entry.tracker.activity.keep(time, reason, &entry.declared.autostop)?;
        self.update_activity(id);
        self.store_activity(std::slice::from_ref(id));
        Ok(())
    }
}

/// The request that takes the step.
fn request(next: Next, idle: u64) -> (Verb, Cause) {
    let verb = match (next.because, next.stops) {
        (Because::UpdateDeadline, _) => Verb::Restart,
        (_, true) => Verb::Stop,
        (_, false) => Verb::Freeze,
    };
    (verb, because(next.because, idle))
}
