//! A workspace's clocks in the daemon, and what was last decided from them.

use std::time::Duration;

use tokio::time::Instant;

use crate::activity::{Activity, Because, Context, Decision, Next, Phase, Verdict};
use crate::model::workspace::human_seconds;
use crate::plan::Stage;

/// The most time that passes for a clock between two calls. More has passed only if csm itself was suspended, and then what happened in
/// the workspace meanwhile is unknown.
const MAX_ADVANCE: Duration = Duration::from_secs(60);

/// A workspace's activity in the daemon.
pub(super) struct Tracker {
    pub(super) activity: Activity,
    /// Whether the runtime has been observed since csm started.
    is_resumed: bool,
    /// When its clocks were last advanced.
    advanced: Instant,
    pub(super) verdict: Verdict,
    /// What must be shown in the workspace's terminals.
    pub(super) announcement: Option<String>,
    /// Whether it differs from what is stored.
    pub(super) unstored: bool,
}

impl Tracker {
    pub(super) fn new(stored: Option<Activity>) -> Self {
        Self {
            activity: stored.unwrap_or_default(),
            is_resumed: false,
            advanced: Instant::now(),
            verdict: Verdict::default(),
            announcement: None,
            unstored: false,
        }
    }

    /// Advances the clocks to now, in the phase until now, then sets the phase that belongs to the stage.
    pub(super) fn advance(&mut self, stage: &Stage, context: Context<'_>) {
        let elapsed = self.advanced.elapsed().min(MAX_ADVANCE);
        self.advanced = Instant::now();
        // Until the runtime is observed, what was stored stays as it is.
        let Some(phase) = phase(stage) else { return };
        if std::mem::replace(&mut self.is_resumed, true) {
            self.activity.advance(elapsed, context);
            self.activity.set_phase(phase);
        } else {
            self.activity.resume(phase);
        }
        self.unstored |= phase != Phase::Down;
    }

    /// Decides what follows, and keeps the verdict for the pages.
    pub(super) fn decide(&mut self, context: Context<'_>) -> Decision {
        let decision = self.activity.decide(context);
        self.verdict = decision.verdict.clone();
        if let Some(next) = decision.verdict.next.filter(|_| decision.announce) {
            self.announcement = Some(announcement(next));
        }
        decision
    }
}

fn announcement(next: Next) -> String {
    let how = match next.because {
        Because::UpdateDeadline => "its configuration has changed, and update.deadline is over",
        Because::MaxRuntime => "it has run for autostop.maxRuntime",
        Because::Idle | Because::Update => "nothing works in it; type something, or run \"keep 2h\"",
    };
    format!("this workspace {} in {}: {how}", next.verb(), human_seconds(next.seconds))
}

fn phase(stage: &Stage) -> Option<Phase> {
    match stage {
        Stage::Unknown { .. } => None,
        Stage::Running(container) | Stage::Freezing { container, .. } => Some(Phase::Running(container.since)),
        Stage::Frozen(container) | Stage::Thawing { container, .. } => Some(Phase::Frozen(container.since)),
        _ => Some(Phase::Down),
    }
}
