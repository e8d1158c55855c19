//! One workspace as the daemon sees it: what is wanted, what is being done, and why.

use std::time::Duration;

use tokio::task::AbortHandle;

use super::Verb;
use super::view::View;
use crate::model::container::editor_url;
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;
use crate::model::printed;
use crate::model::workspace::{Limits, Progress, State, Timestamp, Usage};
use crate::plan::{Desired, Observed, Phase, Wanted};
use crate::ports::{Remembered, RuntimeError};

const ENDED: &str = "it ended by itself, or was stopped without csm";

/// One workspace.
pub(super) struct Entry {
    wanted: Wanted,
    /// Whether it should start again as soon as it has stopped.
    again: bool,
    state: State,
    reason: String,
    /// The reason for what is wanted, while it is not yet so.
    because: String,
    at: Timestamp,
    failure: String,
    pub(super) log: Vec<String>,
    /// The digest of what the manifest asks for now.
    pub(super) digest: String,
    usage: Option<Usage>,
    cpu: Option<u64>,
    disk: Option<u64>,
    /// The digest of what the last start made.
    pub(super) started_as: String,
    attempt: Option<(u64, AbortHandle)>,
    work: Work,
}

/// What the daemon is at with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Nothing,
    /// It is being started, stopped, frozen or thawed.
    Busy,
    /// It may run on in spite of a failure. What could not be stopped is still to be; what runs and does not answer is left alone
    /// until somebody asks.
    Stuck,
}

impl Entry {
    pub(super) fn new(now: Timestamp, remembered: Option<Remembered>) -> Self {
        let past =
            remembered.unwrap_or_else(|| Remembered { failed: false, reason: "never started".to_owned(), at: now });
        Self {
            wanted: Wanted::AsFound,
            again: false,
            state: if past.failed { State::Failed } else { State::Stopped },
            reason: printed::one_line(&past.reason),
            because: String::new(),
            at: past.at,
            failure: String::new(),
            log: Vec::new(),
            digest: String::new(),
            started_as: String::new(),
            usage: None,
            cpu: None,
            disk: None,
            attempt: None,
            work: Work::Nothing,
        }
    }

    pub(super) fn desired(&self) -> Desired {
        Desired { wanted: self.wanted, busy: self.work == Work::Busy }
    }

    pub(super) fn remember(&self) -> Remembered {
        Remembered { failed: self.state == State::Failed, reason: self.reason.clone(), at: self.at }
    }

    /// Somebody wants something.
    pub(super) fn ask(&mut self, verb: Verb, why: String) {
        let up = self.work == Work::Stuck
            || self.state.is_up()
            || matches!(self.state, State::Starting(_) | State::Stopping);
        match verb {
            Verb::Start if self.wanted == Wanted::Up => return,
            Verb::Start if self.state == State::Stopping => self.again = true,
            // What could not be stopped is taken as it is.
            Verb::Start => (self.wanted, self.again, self.work) = (Wanted::Up, false, Work::Nothing),
            Verb::Freeze if matches!(self.state, State::Running { .. }) => self.wanted = Wanted::Frozen,
            Verb::Freeze => return,
            Verb::Stop => (self.wanted, self.again) = (Wanted::Down, false),
            Verb::Restart if up => (self.wanted, self.again) = (Wanted::Down, true),
            Verb::Restart => (self.wanted, self.again) = (Wanted::Up, false),
        }
        self.because = why;
        if self.wanted == Wanted::Down {
            self.cancel();
        }
    }

    /// Gives up a start that is under way. What it already made is found by the next observation, and stopped before it starts again.
    pub(super) fn cancel(&mut self) {
        if let Some((_, abort)) = self.attempt.take() {
            abort.abort();
            self.work = Work::Nothing;
            self.become_(State::Stopped, self.because.clone(), self.at);
        }
    }

    pub(super) fn starting(&mut self, now: Timestamp, attempt: u64, digest: String, abort: AbortHandle) {
        self.started_as = digest;
        self.attempt = Some((attempt, abort));
        self.work = Work::Busy;
        (self.failure, self.log) = (String::new(), Vec::new());
        self.become_(State::Starting(Progress::Queued), self.because.clone(), now);
    }

    pub(super) fn progress(&mut self, attempt: u64, progress: Progress) {
        if self.is_attempt(attempt) {
            self.state = State::Starting(progress);
        }
    }

    /// A start came to its end. False when it had been given up before.
    pub(super) fn started(&mut self, attempt: u64, now: Timestamp, outcome: Result<(), RuntimeError>) -> bool {
        if !self.is_attempt(attempt) {
            return false;
        }
        self.attempt = None;
        self.work = Work::Nothing;
        match outcome {
            Ok(()) => self.become_(State::Running { since: now }, self.reason.clone(), now),
            Err(error) => {
                if error.runs_on {
                    (self.wanted, self.work) = (Wanted::AsFound, Work::Stuck);
                    // If it ends later, that is why.
                    ENDED.clone_into(&mut self.because);
                } else {
                    // What is left of it goes down, too.
                    self.wanted = Wanted::Down;
                }
                self.fail("starting failed", error, now);
            }
        }
        true
    }

    pub(super) fn holding(&mut self) {
        self.work = Work::Busy;
    }

    /// Freezing or thawing came to its end; what came of it is seen by the next observation.
    pub(super) fn held(&mut self, outcome: Result<(), RuntimeError>) {
        // Stopping it may have begun meanwhile.
        if self.state.is_up() {
            self.work = Work::Nothing;
        }
        if let Err(error) = outcome {
            self.failure = error.message;
            // It stays as it is until somebody asks again.
            self.wanted = match (self.wanted, &self.state) {
                (Wanted::Frozen, State::Running { .. }) => Wanted::Up,
                (Wanted::Up, State::Frozen { .. }) => Wanted::Frozen,
                (wanted, _) => wanted,
            };
        }
    }

    pub(super) fn stopping(&mut self, now: Timestamp) {
        if std::mem::replace(&mut self.work, Work::Busy) == Work::Stuck {
            self.failure.clear();
        }
        self.become_(State::Stopping, self.because.clone(), now);
    }

    pub(super) fn stopped(&mut self, now: Timestamp, outcome: Result<(), RuntimeError>) {
        self.work = Work::Nothing;
        match outcome {
            Ok(()) => self.is_down(now, self.reason.clone()),
            Err(error) => {
                // What is wanted stays so: to want it running would start it again as soon as Podman, late, has stopped it.
                self.work = Work::Stuck;
                self.fail("stopping failed", error, now);
            }
        }
    }

    /// Notes the end of what could not be stopped in time. True when that is seen now.
    pub(super) fn stopped_late(&mut self, now: Timestamp, there: Option<&Observed>) -> bool {
        let ended = there.is_none_or(|there| !there.phase.is_up());
        let late = self.work == Work::Stuck && ended;
        if late {
            self.work = Work::Nothing;
            self.failure.clear();
            self.is_down(now, self.because.clone());
        }
        late
    }

    /// Holds it against what is there. True when it ended by itself.
    pub(super) fn reconcile(&mut self, now: Timestamp, first: bool, there: Option<&Observed>) -> bool {
        if self.work == Work::Busy {
            return false;
        }
        let ours = self.wanted != Wanted::Down;
        match (&self.state, there.map(|there| &there.phase)) {
            (State::Running { .. }, Some(Phase::Running { since, trouble })) => {
                self.state = State::Running { since: *since };
                if !trouble.is_empty() {
                    self.failure.clone_from(trouble);
                }
                false
            }
            (State::Frozen { .. }, Some(Phase::Frozen { .. })) => false,
            (State::Running { .. }, Some(Phase::Frozen { since })) => {
                let asked = self.wanted == Wanted::Frozen;
                let how = if asked { self.because.clone() } else { "it was frozen without csm".to_owned() };
                self.wanted = Wanted::Frozen;
                self.become_(State::Frozen { since: *since }, how, now);
                false
            }
            (State::Frozen { .. }, Some(Phase::Running { since, .. })) => {
                let asked = self.wanted == Wanted::Up;
                let how = if asked { self.because.clone() } else { "it was thawed without csm".to_owned() };
                self.wanted = Wanted::Up;
                self.become_(State::Running { since: *since }, how, now);
                false
            }
            (_, Some(Phase::Frozen { since })) if first || ours => {
                self.wanted = Wanted::Frozen;
                self.become_(State::Frozen { since: *since }, "it was frozen already".to_owned(), now);
                false
            }
            (_, Some(Phase::Running { since, trouble })) if first || ours => {
                let how = if first { "it was running already" } else { "it was started without csm" };
                (self.wanted, self.work) = (Wanted::Up, Work::Nothing);
                self.failure.clone_from(trouble);
                self.become_(State::Running { since: *since }, how.to_owned(), now);
                false
            }
            (_, None | Some(Phase::Ended { .. })) if self.again && self.work == Work::Nothing => {
                // Nothing is left of the start that was given up for a new one.
                self.resume();
                false
            }
            (_, Some(Phase::Starting)) if (first || ours) && self.work != Work::Stuck => {
                // Starting what is being started is waiting for it.
                self.wanted = Wanted::Up;
                "it was being started already".clone_into(&mut self.because);
                false
            }
            (state, None) if state.is_up() => {
                self.ended(now, State::Stopped, ENDED);
                true
            }
            (state, Some(Phase::Ended { failed, why })) if state.is_up() => {
                self.ended(now, if *failed { State::Failed } else { State::Stopped }, why);
                true
            }
            (State::Failed, None | Some(Phase::Ended { .. })) if !ours => {
                self.wanted = Wanted::AsFound;
                false
            }
            _ => false,
        }
    }

    fn ended(&mut self, now: Timestamp, state: State, why: &str) {
        self.wanted = Wanted::AsFound;
        // It may be what a launcher says.
        self.become_(state, printed::one_line(why), now);
    }

    pub(super) fn sampled(&mut self, usage: Option<Usage>, over: Duration) {
        self.cpu = match (self.usage, usage) {
            (Some(before), Some(now)) => {
                let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
                Some(now.cpu_millis.saturating_sub(before.cpu_millis) * 1000 / millis)
            }
            _ => None,
        };
        self.usage = usage;
    }

    pub(super) fn walked(&mut self, disk: Option<u64>) {
        self.disk = disk.or(self.disk);
    }

    /// Nobody looks any more: figures would only grow old.
    pub(super) fn forget_usage(&mut self) {
        (self.usage, self.cpu) = (None, None);
    }

    pub(super) fn view(&self, id: &WorkspaceId, limits: Limits, manifest: &Manifest, digest: Option<&str>) -> View {
        let up = self.state.is_up();
        View {
            id: id.clone(),
            state: self.state.clone(),
            reason: self.reason.clone(),
            at: self.at,
            failure: self.failure.clone(),
            log: self.log.clone(),
            limits,
            usage: self.usage.filter(|_| up),
            cpu: self.cpu.filter(|_| up),
            disk: self.disk,
            update_pending: up && digest.is_some_and(|digest| digest != self.digest),
            settled: match self.work {
                Work::Nothing if self.again => false,
                Work::Nothing => match self.wanted {
                    Wanted::Up => matches!(self.state, State::Running { .. }),
                    Wanted::Frozen => matches!(self.state, State::Frozen { .. }),
                    Wanted::Down | Wanted::AsFound => !up,
                },
                Work::Busy => false,
                Work::Stuck => true,
            },
            stuck: self.work == Work::Stuck,
            url: editor_url(manifest, id),
        }
    }

    fn is_attempt(&self, attempt: u64) -> bool {
        self.attempt.as_ref().is_some_and(|(current, _)| *current == attempt)
    }

    fn become_(&mut self, state: State, reason: String, at: Timestamp) {
        (self.state, self.reason, self.at) = (state, reason, at);
    }

    fn is_down(&mut self, now: Timestamp, reason: String) {
        self.wanted = Wanted::AsFound;
        self.become_(State::Stopped, reason, now);
        self.resume();
    }

    fn fail(&mut self, what: &str, error: RuntimeError, now: Timestamp) {
        self.failure = error.message;
        self.log = error.log;
        self.become_(State::Failed, what.to_owned(), now);
    }

    /// Starts again what was stopped for that.
    fn resume(&mut self) {
        if std::mem::take(&mut self.again) {
            self.wanted = Wanted::Up;
        }
    }
}
