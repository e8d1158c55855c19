//! What has happened to a workspace when its stage changes: the event for people, the store and the journal.

use super::Stage;
use crate::model::event::{Kind, Line};
use crate::plan::{Cause, Verb};

/// The stage before a change, as far as what happened depends on it.
pub(super) enum Before {
    /// What ran was not known, so that nothing new has happened.
    Unknown,
    Down,
    Starting,
    Running,
    /// With the cause of the step that is in progress.
    Freezing(Cause),
    Frozen,
    /// The same.
    Thawing(Cause),
    /// With the cause of the stop.
    Stopping(Cause),
    StopFailed,
    Unresponsive,
}

impl Before {
    pub(super) fn new(stage: &Stage, cause: &Cause) -> Self {
        match stage {
            Stage::Unknown { .. } => Self::Unknown,
            Stage::Stopped | Stage::Failed { .. } => Self::Down,
            Stage::Starting { .. } => Self::Starting,
            Stage::Running(_) => Self::Running,
            Stage::Freezing { cause, .. } => Self::Freezing(cause.clone()),
            Stage::Frozen(_) => Self::Frozen,
            Stage::Thawing { cause, .. } => Self::Thawing(cause.clone()),
            Stage::Stopping { .. } => Self::Stopping(cause.clone()),
            Stage::StopFailed { .. } => Self::StopFailed,
            Stage::Unresponsive { .. } => Self::Unresponsive,
        }
    }
}

/// What has happened, and why. `stage` and `cause` are those after the change. `None` if the stage did not change, or only a step began.
pub(super) fn happened(before: Before, stage: &Stage, cause: &Cause) -> Option<(Kind, Cause)> {
    let failed = |failure: &dyn std::fmt::Display| Kind::Failed { failure: Line::new(failure) };
    let is_restart = matches!(cause, Cause::Requested(Verb::Restart, _) | Cause::UpdateDeadline);
    let because = |kind| Some((kind, cause.clone()));
    match (before, stage) {
        (Before::Unknown, _)
        | (Before::Running, Stage::Running(_))
        | (Before::Frozen, Stage::Frozen(_))
        | (Before::Down, Stage::Stopped | Stage::Failed { .. })
        | (Before::StopFailed, Stage::StopFailed { .. })
        | (Before::Unresponsive, Stage::Unresponsive { .. }) => None,
        (Before::Freezing(why), Stage::Running(container)) | (Before::Thawing(why), Stage::Frozen(container)) => {
            container.warning.as_ref().map(|warning| (failed(warning), why))
        }
        (Before::Frozen | Before::Thawing(_), Stage::Running(_)) => because(Kind::Thawed),
        (_, Stage::Running(_)) if is_restart => because(Kind::Restarted),
        (_, Stage::Running(_)) => because(Kind::Started),
        (_, Stage::Frozen(_)) | (Before::Freezing(_), Stage::Thawing { .. }) => because(Kind::Frozen),
        (_, Stage::Stopped) => because(Kind::Stopped),
        // A restart is one event, when the editor responds.
        (Before::Stopping(why), Stage::Starting { .. }) if !is_restart => Some((Kind::Stopped, why)),
        (_, Stage::Failed { message, .. }) => {
            because(message.as_ref().map_or_else(|| failed(cause), |text| failed(text)))
        }
        (_, Stage::StopFailed { message, cause, .. }) => Some((failed(message), cause.clone())),
        (_, Stage::Unresponsive { message, .. }) => because(failed(message)),
        (
            _,
            Stage::Unknown { .. }
            | Stage::Starting { .. }
            | Stage::Freezing { .. }
            | Stage::Thawing { .. }
            | Stage::Stopping { .. },
        ) => None,
    }
}
