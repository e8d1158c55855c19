//! One workspace's state machine: each stage carries its data, and each event leads from one stage to the next.

use super::{Cause, Observed, Phase, Verb};
use crate::model::workspace::{Progress, State, Timestamp};

/// Tells one piece of work from another: what comes of an earlier one than the current is ignored.
pub type JobId = u64;

/// What the runtime is to do next. A stage that waits for one carries its [`JobId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Create and start the container, in place of one that has exited; wait for one that runs.
    Start,
    /// Freeze it.
    Freeze,
    /// Thaw it.
    Thaw,
    /// Stop it; a start that is under way is interrupted.
    Stop,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened, and the fix.
    pub message: String,
    /// The last lines of the workspace's log.
    pub log: Vec<String>,
    /// Whether the workspace runs nevertheless, and is to be left alone.
    pub still_runs: bool,
}

/// A container that runs or is frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// When it started.
    pub since: Timestamp,
    /// The digest of the specification that it was made from, if its runtime knows.
    pub digest: Option<String>,
    /// What went wrong and did not end it.
    pub trouble: Option<String>,
}

/// Where a workspace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The runtime has not yet said what runs.
    Unknown {
        /// Whether it had failed when csm last knew.
        failed: bool,
        /// What was asked for meanwhile, and why.
        asked: Option<(Verb, Cause)>,
    },
    /// Nothing of it runs.
    Stopped,
    /// Nothing of it runs, and that was not asked for.
    Failed {
        /// What happened, and the fix; unknown when it exited.
        message: Option<String>,
        /// The last lines of its log.
        log: Vec<String>,
    },
    /// A start is under way.
    Starting {
        /// The start.
        job: JobId,
        /// How far it is.
        progress: Progress,
        /// What its container is made from.
        digest: String,
    },
    /// code-server responds.
    Running(Container),
    /// It is being frozen.
    Freezing {
        /// The freezing.
        job: JobId,
        /// What is frozen.
        container: Container,
        /// Why.
        cause: Cause,
        /// Whether it is to be thawed again, and why.
        thaw: Option<Cause>,
    },
    /// The kernel's freezer holds all its processes.
    Frozen(Container),
    /// It is being thawed.
    Thawing {
        /// The thawing.
        job: JobId,
        /// What is thawed.
        container: Container,
        /// Why.
        cause: Cause,
    },
    /// It is being stopped.
    Stopping {
        /// The stop.
        job: JobId,
        /// Whether it is to start again, and why.
        restart: Option<Cause>,
    },
    /// It could not be stopped, and may still run. It is tried again.
    StopFailed {
        /// Why not.
        message: String,
        /// Why it is to stop.
        cause: Cause,
        /// Whether it is to start again, and why.
        restart: Option<Cause>,
    },
    /// It runs, but code-server does not respond. csm stops nothing that it did not start itself, unless asked.
    Unresponsive {
        /// What to do.
        message: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
}

/// What happens to a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for something.
    Asked(Verb, Cause),
    /// A start got further.
    Progress(JobId, Progress),
    /// A step has ended.
    Finished(JobId, Result<(), Failure>),
    /// The runtime was observed; `None` when it knows no such workspace.
    Observed(Option<Observed>),
    /// It is time to try again what failed.
    Retry,
    /// The last lines of a log were read after an exit.
    LogRead(Vec<String>),
}

/// What follows from an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// What the runtime is to do. The stage that resulted carries the job's id.
    pub step: Option<(JobId, Step)>,
    /// Whether what resulted is to be recorded for the next run of csm.
    pub record: bool,
    /// Whether to read the last lines of the log.
    pub read_log: bool,
}

/// A workspace's stage, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    stage: Stage,
    cause: Cause,
    at: Timestamp,
    jobs: JobId,
}

impl Lifecycle {
    /// A workspace of which nothing is known but what an earlier run of csm recorded.
    pub fn new(failed: bool, cause: Cause, at: Timestamp) -> Self {
        Self { stage: Stage::Unknown { failed, asked: None }, cause, at, jobs: 0 }
    }

    /// Where it is.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Why it is there.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Since when.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Its state as people see it.
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

    /// Whether nothing is being done to it, and nothing is about to be.
    pub fn is_settled(&self) -> bool {
        match &self.stage {
            Stage::Unknown { asked, .. } => asked.is_none(),
            Stage::Starting { .. } | Stage::Freezing { .. } | Stage::Thawing { .. } | Stage::Stopping { .. } => false,
            Stage::Stopped
            | Stage::Failed { .. }
            | Stage::Running(_)
            | Stage::Frozen(_)
            | Stage::StopFailed { .. }
            | Stage::Unresponsive { .. } => true,
        }
    }

    /// Whether something of it may run, whatever its state says.
    pub fn may_run(&self) -> bool {
        !matches!(self.stage, Stage::Stopped | Stage::Failed { .. } | Stage::Unknown { asked: None, .. })
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

    /// Takes an event. `digest` is that of the specification that a start now would be made from.
    pub fn on(&mut self, event: Event, digest: &str, now: Timestamp) -> Effects {
        let before = self.jobs;
        // Only what leaves a stage takes its data; each arm that stays puts it back.
        let stage = std::mem::replace(&mut self.stage, Stage::Stopped);
        let mut effects = Effects::default();
        let was_known = !matches!(stage, Stage::Unknown { .. });
        let (was_up, kind) = (stage.is_up(), std::mem::discriminant(&stage));
        let observed = matches!(event, Event::Observed(_));
        self.stage = match event {
            Event::Asked(verb, cause) => self.asked(stage, verb, cause, digest),
            Event::Progress(job, progress) => match stage {
                Stage::Starting { job: current, digest, .. } if current == job => {
                    Stage::Starting { job, progress, digest }
                }
                other => other,
            },
            Event::Finished(job, outcome) => match stage.job() {
                Some(current) if current == job => self.finished(stage, outcome, digest, now),
                _ => stage,
            },
            Event::Observed(there) => self.observed(stage, there, digest),
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
        if changed || self.jobs != before {
            self.at = now;
        }
        if self.jobs != before {
            effects.step = self.stage.step().map(|step| (self.jobs, step));
        }
        let settled_anew = matches!(self.stage, Stage::Running(_) | Stage::Stopped | Stage::Failed { .. });
        effects.record = changed && was_known && settled_anew;
        effects.read_log = observed && was_up && matches!(self.stage, Stage::Failed { .. });
        effects
    }

    #[expect(clippy::match_same_arms, reason = "an order of its own: arms say why nothing changes")]
    fn asked(&mut self, stage: Stage, verb: Verb, cause: Cause, digest: &str) -> Stage {
        match (verb, stage) {
            // It is so already, or about to be.
            (
                Verb::Start,
                stage @ (Stage::Unknown { asked: Some((Verb::Start | Verb::Restart, _)), .. }
                | Stage::Starting { .. }
                | Stage::Running(_)
                | Stage::Thawing { .. }),
            )
            | (Verb::Stop, stage @ (Stage::Stopped | Stage::Failed { .. })) => stage,

            // Only what runs can be frozen.
            (Verb::Freeze, Stage::Running(container)) => {
                Stage::Freezing { job: self.next_job(), container, cause, thaw: None }
            }
            (Verb::Freeze, stage) => stage,

            // Before it is known what runs, nothing is done.
            (verb, Stage::Unknown { failed, .. }) => Stage::Unknown { failed, asked: Some((verb, cause)) },

            (Verb::Start, Stage::Freezing { job, container, cause: frozen, .. }) => {
                Stage::Freezing { job, container, cause: frozen, thaw: Some(cause) }
            }
            (Verb::Start, Stage::Frozen(container)) => self.thaw(container, cause),
            // One that still runs is only waited for.
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

    fn finished(&mut self, stage: Stage, outcome: Result<(), Failure>, digest: &str, now: Timestamp) -> Stage {
        match (stage, outcome) {
            (Stage::Starting { digest, .. }, Ok(())) => {
                Stage::Running(Container { since: now, digest: Some(digest), trouble: None })
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
            (Stage::Freezing { container, .. }, Err(failure)) => Stage::Running(container.with(failure)),
            (Stage::Thawing { container, cause, .. }, Ok(())) => {
                self.cause = cause;
                Stage::Running(Container { trouble: None, ..container })
            }
            (Stage::Thawing { container, .. }, Err(failure)) => Stage::Frozen(container.with(failure)),
            (Stage::Stopping { restart: Some(cause), .. }, Ok(())) => self.start(cause, digest),
            (Stage::Stopping { restart: None, .. }, Ok(())) => Stage::Stopped,
            (Stage::Stopping { restart, .. }, Err(failure)) => {
                let cause = std::mem::replace(&mut self.cause, Cause::StopFailed);
                Stage::StopFailed { message: failure.message, cause, restart }
            }
            // These wait for nothing; `on` calls this only for what does.
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

    fn observed(&mut self, stage: Stage, there: Option<Observed>, digest: &str) -> Stage {
        match stage {
            Stage::Unknown { failed, asked } => self.first_seen(failed, asked, there, digest),
            // What comes of these is known when they have finished.
            stage @ (Stage::Starting { .. }
            | Stage::Freezing { .. }
            | Stage::Thawing { .. }
            | Stage::Stopping { .. }) => stage,
            Stage::StopFailed { message, cause, restart } => match (up(there), restart) {
                (Ok(_), restart) => Stage::StopFailed { message, cause, restart },
                (Err(_), Some(restart)) => self.start(restart, digest),
                (Err(_), None) => {
                    self.cause = cause;
                    Stage::Stopped
                }
            },
            Stage::Unresponsive { message, log } => match up(there) {
                Ok(Up::Starting) => Stage::Unresponsive { message, log },
                Ok(up) => self.taken_over(up, Cause::StartedOutside, digest),
                Err(exit) => self.exited(exit),
            },
            stage @ (Stage::Stopped | Stage::Failed { .. }) => match up(there) {
                Ok(up) => self.taken_over(up, Cause::StartedOutside, digest),
                Err(_) => stage,
            },
            Stage::Running(container) => match up(there) {
                Ok(Up::Running(now)) => {
                    let trouble = now.trouble.or(container.trouble);
                    Stage::Running(Container { digest: now.digest.or(container.digest), trouble, ..now })
                }
                Ok(up) => self.taken_over(up, Cause::StartedOutside, digest),
                Err(exit) => self.exited(exit),
            },
            Stage::Frozen(container) => match up(there) {
                Ok(Up::Frozen(now)) => {
                    let (digest, trouble) = (now.digest.or(container.digest), container.trouble);
                    Stage::Frozen(Container { digest, trouble, ..now })
                }
                Ok(up) => self.taken_over(up, Cause::ThawedOutside, digest),
                Err(exit) => self.exited(exit),
            },
        }
    }

    /// The first observation: what runs is taken over, then what was asked for is done.
    fn first_seen(
        &mut self,
        failed: bool,
        asked: Option<(Verb, Cause)>,
        there: Option<Observed>,
        digest: &str,
    ) -> Stage {
        let stage = match up(there) {
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
                    up => self.taken_over(up, cause, digest),
                }
            }
            Err(_) if failed => Stage::Failed { message: None, log: Vec::new() },
            Err(_) => Stage::Stopped,
        };
        match asked {
            Some((verb, cause)) => self.asked(stage, verb, cause, digest),
            None => stage,
        }
    }

    /// It runs without this csm having started it.
    fn taken_over(&mut self, up: Up, started: Cause, digest: &str) -> Stage {
        match up {
            Up::Starting => {
                let cause = if started == Cause::ThawedOutside { Cause::StartedOutside } else { started };
                self.start(cause, digest)
            }
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
        self.cause = exit.why.map_or(Cause::ExitedOrStoppedOutside, Cause::Exited);
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
        self.jobs += 1;
        self.jobs
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
    fn with(self, failure: Failure) -> Self {
        Self { trouble: Some(failure.message), ..self }
    }
}

/// What is up of a workspace.
enum Up {
    Starting,
    Running(Container),
    Frozen(Container),
}

/// How it is down.
struct Exit {
    failed: bool,
    why: Option<String>,
}

fn up(there: Option<Observed>) -> Result<Up, Exit> {
    let Some(Observed { digest, phase }) = there else { return Err(Exit { failed: false, why: None }) };
    match phase {
        Phase::Starting => Ok(Up::Starting),
        Phase::Running { since, trouble } => Ok(Up::Running(Container { since, digest, trouble })),
        Phase::Frozen { since } => Ok(Up::Frozen(Container { since, digest, trouble: None })),
        Phase::Exited { failed, why } => Err(Exit { failed, why }),
    }
}

#[cfg(test)]
mod tests;
