//! A workspace's state machine: each stage contains its data, and each event leads from one stage to another.

mod happened;

use super::{Cause, Observed, Phase, Verb};
use crate::model::event::Kind;
use crate::model::workspace::{Progress, State, Timestamp};
use happened::{Before, happened};

/// Identifies a step that the runtime does. Results of any step except the current one are ignored.
pub type JobId = u64;

/// What the runtime must do next. A stage that waits for a step contains its [`JobId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Create and start the container, replacing one that has exited, and wait until code-server responds. If the container already runs,
    /// only wait.
    Start,
    /// Freeze all processes.
    Freeze,
    /// Thaw all processes.
    Thaw,
    /// Stop the container; interrupt a start that is in progress.
    Stop,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened, and the fix.
    pub message: String,
    /// The last lines of the workspace's log.
    pub log: Vec<String>,
    /// Whether the workspace runs in spite of the failure, and must be left running.
    pub still_runs: bool,
}

/// A container that runs or is frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// When it started.
    pub since: Timestamp,
    /// The digest of the specification that it was created from, if the runtime knows it.
    pub digest: Option<String>,
    /// A problem that did not stop it.
    pub warning: Option<String>,
}

/// A stage of a workspace's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The runtime has not yet reported what runs.
    Unknown {
        /// Whether an earlier run of csm recorded it as failed.
        failed: bool,
        /// What was requested in the meantime, and why.
        requested: Option<(Verb, Cause)>,
    },
    /// No process runs.
    Stopped,
    /// No process runs, although no stop was requested.
    Failed {
        /// What happened, and the fix; unknown when it exited.
        message: Option<String>,
        /// The last lines of its log.
        log: Vec<String>,
    },
    /// It is being started.
    Starting {
        /// The start's id.
        job: JobId,
        /// The current step of the start.
        progress: Progress,
        /// The digest of the specification that its container is created from.
        digest: String,
    },
    /// code-server responds.
    Running(Container),
    /// It is being frozen.
    Freezing {
        /// The id of the step that freezes it.
        job: JobId,
        /// The container that is frozen.
        container: Container,
        /// Why it is frozen.
        cause: Cause,
        /// Why it must be thawed after that; `None` if it stays frozen.
        thaw: Option<Cause>,
    },
    /// All its processes are frozen.
    Frozen(Container),
    /// It is being thawed.
    Thawing {
        /// The id of the step that thaws it.
        job: JobId,
        /// The container that is thawed.
        container: Container,
        /// Why it is thawed.
        cause: Cause,
    },
    /// It is being stopped.
    Stopping {
        /// The id of the step that stops it.
        job: JobId,
        /// Why it must start again after that; `None` if it stays stopped.
        restart: Option<Cause>,
    },
    /// Stopping it failed, and it may still run. csm retries the stop.
    StopFailed {
        /// Why the stop failed.
        message: String,
        /// Why it must stop.
        cause: Cause,
        /// Why it must start again after that; `None` if it stays stopped.
        restart: Option<Cause>,
    },
    /// It runs, but code-server does not respond. csm did not start it, and stops it only on request.
    Unresponsive {
        /// What happened, and the fix.
        message: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
}

/// What happens to a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was requested.
    Requested(Verb, Cause),
    /// A start has reached its next step.
    Progress(JobId, Progress),
    /// A step has finished.
    Finished(JobId, Result<(), Failure>),
    /// The runtime was observed; `None` if it does not know the workspace.
    Observed(Option<Observed>),
    /// It is time to retry a failed stop.
    Retry,
    /// The last lines of the log were read after an exit.
    LogRead(Vec<String>),
}

/// What the daemon must do after an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// The step that the runtime must do. The new stage contains its id.
    pub step: Option<(JobId, Step)>,
    /// Whether to record the new stage for the next run of csm.
    pub record: bool,
    /// Whether to read the last lines of the log.
    pub read_log: bool,
    /// What has happened to the workspace, and why.
    pub happened: Option<(Kind, Cause)>,
}

/// A workspace's stage, why it is in it, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    stage: Stage,
    cause: Cause,
    changed_at: Timestamp,
    last_job: JobId,
}

impl Lifecycle {
    /// Creates it from what an earlier run of csm recorded, before the runtime is observed.
    pub fn new(failed: bool, cause: Cause, changed_at: Timestamp) -> Self {
        Self { stage: Stage::Unknown { failed, requested: None }, cause, changed_at, last_job: 0 }
    }

    /// The current stage.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Why the workspace is in this stage.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// When the stage last changed.
    pub fn changed_at(&self) -> Timestamp {
        self.changed_at
    }

    /// The state that users see.
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Unknown { failed: false, .. } | Stage::Stopped => State::Stopped,
            Stage::Starting { progress, .. } => State::Starting(progress.clone()),
            Stage::Running(container) | Stage::Freezing { container, .. } => State::Running { since: container.since },
            Stage::Frozen(container) | Stage::Thawing { container, .. } => State::Frozen { since: container.since },
            Stage::Stopping { .. } => State::Stopping,
            Stage::Unknown { failed: true, .. }
            | Stage::Failed { .. }
            | Stage::StopFailed { .. }
            | Stage::Unresponsive { .. } => State::Failed,
        }
    }

    /// True if no step is in progress and no request waits for one.
    pub fn is_settled(&self) -> bool {
        match &self.stage {
            Stage::Unknown { requested, .. } => requested.is_none(),
            Stage::Starting { .. } | Stage::Freezing { .. } | Stage::Thawing { .. } | Stage::Stopping { .. } => false,
            Stage::Stopped
            | Stage::Failed { .. }
            | Stage::Running(_)
            | Stage::Frozen(_)
            | Stage::StopFailed { .. }
            | Stage::Unresponsive { .. } => true,
        }
    }

    /// True if any of its processes may run, even if its state is failed.
    pub fn may_run(&self) -> bool {
        !matches!(self.stage, Stage::Stopped | Stage::Failed { .. } | Stage::Unknown { requested: None, .. })
    }

    /// The container that runs or is frozen.
    pub fn container(&self) -> Option<&Container> {
        match &self.stage {
            Stage::Running(container)
            | Stage::Freezing { container, .. }
            | Stage::Frozen(container)
            | Stage::Thawing { container, .. } => Some(container),
            _ => None,
        }
    }

    /// Handles an event. `digest` is the digest of the specification from which a start would create the container now.
    pub fn handle(&mut self, event: Event, digest: &str, now: Timestamp) -> Effects {
        let previous_job = self.last_job;
        // Each arm takes the stage by value, and returns it if the stage does not change.
        let stage = std::mem::replace(&mut self.stage, Stage::Stopped);
        let mut effects = Effects::default();
        let before = Before::new(&stage, &self.cause);
        let was_known = !matches!(stage, Stage::Unknown { .. });
        let (was_up, kind) = (stage.is_up(), std::mem::discriminant(&stage));
        let is_observation = matches!(event, Event::Observed(_));
        self.stage = match event {
            Event::Requested(verb, cause) => self.on_request(stage, verb, cause, digest),
            Event::Progress(job, progress) => match stage {
                Stage::Starting { job: current, digest, .. } if current == job => {
                    Stage::Starting { job, progress, digest }
                }
                other => other,
            },
            Event::Finished(job, outcome) => match stage.job() {
                Some(current) if current == job => self.on_finish(stage, outcome, digest, now),
                _ => stage,
            },
            Event::Observed(observed) => self.on_observation(stage, observed, digest),
            Event::Retry => match stage {
                Stage::StopFailed { cause, restart, .. } => self.stop(cause, restart),
                other => other,
            },
            Event::LogRead(log) => match stage {
                Stage::Failed { message, log: before } if before.is_empty() => Stage::Failed { message, log },
                other => other,
            },
        };
        let changed = kind != std::mem::discriminant(&self.stage);
        if changed || self.last_job != previous_job {
            self.changed_at = now;
        }
        if self.last_job != previous_job {
            effects.step = self.stage.step().map(|step| (self.last_job, step));
        }
        let is_recorded = matches!(self.stage, Stage::Running(_) | Stage::Stopped | Stage::Failed { .. });
        effects.record = changed && was_known && is_recorded;
        effects.read_log = is_observation && was_up && matches!(self.stage, Stage::Failed { .. });
        effects.happened = happened(before, &self.stage, &self.cause);
        effects
    }

    #[expect(
        clippy::match_same_arms,
        reason = "arms with the same result are separate, to say why the stage does not change"
    )]
    fn on_request(&mut self, stage: Stage, verb: Verb, cause: Cause, digest: &str) -> Stage {
        match (verb, stage) {
            // The workspace is already in the requested state, or about to reach it.
            (
                Verb::Start,
                stage @ (Stage::Unknown { requested: Some((Verb::Start | Verb::Restart, _)), .. }
                | Stage::Starting { .. }
                | Stage::Running(_)
                | Stage::Thawing { .. }),
            )
            | (Verb::Stop, stage @ (Stage::Stopped | Stage::Failed { .. })) => stage,

            // Only a running workspace can be frozen.
            (Verb::Freeze, Stage::Running(container)) => {
                Stage::Freezing { job: self.next_job(), container, cause, thaw: None }
            }
            (Verb::Freeze, stage) => stage,

            // The request waits until the runtime has reported what runs.
            (verb, Stage::Unknown { failed, .. }) => Stage::Unknown { failed, requested: Some((verb, cause)) },

            (Verb::Start, Stage::Freezing { job, container, cause: frozen, .. }) => {
                Stage::Freezing { job, container, cause: frozen, thaw: Some(cause) }
            }
            (Verb::Start, Stage::Frozen(container)) => self.thaw(container, cause),
            // If the container still runs, `Step::Start` only waits for it.
            (Verb::Start, Stage::StopFailed { .. } | Stage::Unresponsive { .. })
            | (Verb::Start | Verb::Restart, Stage::Stopped | Stage::Failed { .. }) => self.start(cause, digest),

            (Verb::Start | Verb::Restart, Stage::Stopping { job, .. }) => Stage::Stopping { job, restart: Some(cause) },
            (Verb::Stop, Stage::Stopping { job, .. }) => {
                self.cause = cause;
                Stage::Stopping { job, restart: None }
            }
            (
                verb @ (Verb::Stop | Verb::Restart),
                Stage::Starting { .. }
                | Stage::Running(_)
                | Stage::Freezing { .. }
                | Stage::Frozen(_)
                | Stage::Thawing { .. }
                | Stage::StopFailed { .. }
                | Stage::Unresponsive { .. },
            ) => {
                let restart = (verb == Verb::Restart).then(|| cause.clone());
                self.stop(cause, restart)
            }
        }
    }

    fn on_finish(&mut self, stage: Stage, outcome: Result<(), Failure>, digest: &str, now: Timestamp) -> Stage {
        match (stage, outcome) {
            (Stage::Starting { digest, .. }, Ok(())) => {
                Stage::Running(Container { since: now, digest: Some(digest), warning: None })
            }
            (Stage::Starting { .. }, Err(failure)) => {
                self.cause = Cause::StartFailed;
                if failure.still_runs {
                    Stage::Unresponsive { message: failure.message, log: failure.log }
                } else {
                    Stage::Failed { message: Some(failure.message), log: failure.log }
                }
            }
            (Stage::Freezing { container, cause, thaw, .. }, Ok(())) => {
                self.cause = cause;
                match thaw {
                    Some(cause) => self.thaw(container, cause),
                    None => Stage::Frozen(container),
                }
            }
            (Stage::Freezing { container, .. }, Err(failure)) => Stage::Running(container.with_warning(failure)),
            (Stage::Thawing { container, cause, .. }, Ok(())) => {
                self.cause = cause;
                Stage::Running(Container { warning: None, ..container })
            }
            (Stage::Thawing { container, .. }, Err(failure)) => Stage::Frozen(container.with_warning(failure)),
            (Stage::Stopping { restart: Some(cause), .. }, Ok(())) => self.start(cause, digest),
            (Stage::Stopping { restart: None, .. }, Ok(())) => Stage::Stopped,
            (Stage::Stopping { restart, .. }, Err(failure)) => {
                let cause = std::mem::replace(&mut self.cause, Cause::StopFailed);
                Stage::StopFailed { message: failure.message, cause, restart }
            }
            // These stages wait for no step, so `handle` never calls this function for them.
            (
                stage @ (Stage::Unknown { .. }
                | Stage::Stopped
                | Stage::Failed { .. }
                | Stage::Running(_)
                | Stage::Frozen(_)
                | Stage::StopFailed { .. }
                | Stage::Unresponsive { .. }),
                _,
            ) => stage,
        }
    }

    fn on_observation(&mut self, stage: Stage, observed: Option<Observed>, digest: &str) -> Stage {
        match stage {
            Stage::Unknown { failed, requested } => self.on_first_observation(failed, requested, observed, digest),
            // The result of the step decides, when it has finished.
            stage @ (Stage::Starting { .. }
            | Stage::Freezing { .. }
            | Stage::Thawing { .. }
            | Stage::Stopping { .. }) => stage,
            Stage::StopFailed { message, cause, restart } => match (classify(observed), restart) {
                (Ok(_), restart) => Stage::StopFailed { message, cause, restart },
                (Err(_), Some(restart)) => self.start(restart, digest),
                (Err(_), None) => {
                    self.cause = cause;
                    Stage::Stopped
                }
            },
            Stage::Unresponsive { message, log } => match classify(observed) {
                Ok(Up::Starting) => Stage::Unresponsive { message, log },
                Ok(up) => self.adopt(up, Cause::StartedOutside, digest),
                Err(exit) => self.exited(exit),
            },
            stage @ (Stage::Stopped | Stage::Failed { .. }) => match classify(observed) {
                Ok(up) => self.adopt(up, Cause::StartedOutside, digest),
                Err(_) => stage,
            },
            Stage::Running(container) => match classify(observed) {
                Ok(Up::Running(now)) => {
                    let warning = now.warning.or(container.warning);
                    Stage::Running(Container { digest: now.digest.or(container.digest), warning, ..now })
                }
                Ok(up) => self.adopt(up, Cause::StartedOutside, digest),
                Err(exit) => self.exited(exit),
            },
            Stage::Frozen(container) => match classify(observed) {
                Ok(Up::Frozen(now)) => {
                    let (digest, warning) = (now.digest.or(container.digest), container.warning);
                    Stage::Frozen(Container { digest, warning, ..now })
                }
                Ok(Up::Running(container)) => {
                    self.cause = Cause::ThawedOutside;
                    Stage::Running(container)
                }
                // It was started again.
                Ok(up @ Up::Starting) => self.adopt(up, Cause::StartedOutside, digest),
                Err(exit) => self.exited(exit),
            },
        }
    }

    /// Adopts what runs, then handles what was requested before the first observation.
    fn on_first_observation(
        &mut self,
        failed: bool,
        requested: Option<(Verb, Cause)>,
        observed: Option<Observed>,
        digest: &str,
    ) -> Stage {
        let stage = match classify(observed) {
            Ok(up) => {
                let cause = match up {
                    Up::Starting => Cause::AlreadyStarting,
                    Up::Running(_) | Up::Frozen(_) => Cause::AlreadyRunning,
                };
                match up {
                    Up::Frozen(container) => {
                        self.cause = Cause::AlreadyFrozen;
                        Stage::Frozen(container)
                    }
                    up => self.adopt(up, cause, digest),
                }
            }
            Err(_) if failed => Stage::Failed { message: None, log: Vec::new() },
            Err(_) => Stage::Stopped,
        };
        match requested {
            Some((verb, cause)) => self.on_request(stage, verb, cause, digest),
            None => stage,
        }
    }

    /// Adopts a workspace that this csm did not start, freeze or thaw.
    fn adopt(&mut self, up: Up, started: Cause, digest: &str) -> Stage {
        match up {
            Up::Starting => self.start(started, digest),
            Up::Running(container) => {
                self.cause = started;
                Stage::Running(container)
            }
            Up::Frozen(container) => {
                self.cause = Cause::FrozenOutside;
                Stage::Frozen(container)
            }
        }
    }

    fn exited(&mut self, exit: Exit) -> Stage {
        self.cause = exit.reason.map_or(Cause::ExitedOrStoppedOutside, Cause::Exited);
        if exit.failed { Stage::Failed { message: None, log: Vec::new() } } else { Stage::Stopped }
    }

    fn start(&mut self, cause: Cause, digest: &str) -> Stage {
        self.cause = cause;
        Stage::Starting { job: self.next_job(), progress: Progress::Queued, digest: digest.to_owned() }
    }

    fn thaw(&mut self, container: Container, cause: Cause) -> Stage {
        Stage::Thawing { job: self.next_job(), container, cause }
    }

    fn stop(&mut self, cause: Cause, restart: Option<Cause>) -> Stage {
        self.cause = cause;
        Stage::Stopping { job: self.next_job(), restart }
    }

    fn next_job(&mut self) -> JobId {
        self.last_job += 1;
        self.last_job
    }
}

impl Stage {
    fn job(&self) -> Option<JobId> {
        match self {
            Self::Starting { job, .. }
            | Self::Freezing { job, .. }
            | Self::Thawing { job, .. }
            | Self::Stopping { job, .. } => Some(*job),
            _ => None,
        }
    }

    fn step(&self) -> Option<Step> {
        match self {
            Self::Starting { .. } => Some(Step::Start),
            Self::Freezing { .. } => Some(Step::Freeze),
            Self::Thawing { .. } => Some(Step::Thaw),
            Self::Stopping { .. } => Some(Step::Stop),
            _ => None,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Frozen(_) | Self::Unresponsive { .. })
    }
}

impl Container {
    fn with_warning(self, failure: Failure) -> Self {
        Self { warning: Some(failure.message), ..self }
    }
}

/// A workspace that is starting, runs or is frozen.
enum Up {
    Starting,
    Running(Container),
    Frozen(Container),
}

/// How a workspace exited.
struct Exit {
    failed: bool,
    reason: Option<String>,
}

/// Whether a workspace is up. One that the runtime does not know has exited for an unknown reason.
fn classify(observed: Option<Observed>) -> Result<Up, Exit> {
    let Some(Observed { digest, phase }) = observed else { return Err(Exit { failed: false, reason: None }) };
    match phase {
        Phase::Starting => Ok(Up::Starting),
        Phase::Running { since, warning } => Ok(Up::Running(Container { since, digest, warning })),
        Phase::Frozen { since } => Ok(Up::Frozen(Container { since, digest, warning: None })),
        Phase::Exited { failed, reason } => Err(Exit { failed, reason }),
    }
}

#[cfg(test)]
mod tests;
