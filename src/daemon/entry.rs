//! One workspace as the daemon sees it: what is wanted, what is being done, and why.

use std::time::Duration;

use tokio::task::AbortHandle;

use super::Verb;
use super::view::View;
use crate::model::container::editor_url;
use crate::model::label::WorkspaceId;
use crate::model::manifest::{Limits, Manifest};
use crate::model::workspace::{Progress, State, Timestamp, Usage};
use crate::plan::{Desired, Observed};
use crate::ports::{Remembered, RuntimeError};

/// One workspace.
pub(super) struct Entry {
    /// Whether it should run.
    run: bool,
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
    /// It is being started or stopped.
    Busy,
    /// The last stop failed: it may run on, and is to be stopped all the same.
    Stuck,
}

impl Entry {
    pub(super) fn new(now: Timestamp, remembered: Option<Remembered>) -> Self {
        let past =
            remembered.unwrap_or_else(|| Remembered { failed: false, reason: "never started".to_owned(), at: now });
        Self {
            run: false,
            again: false,
            state: if past.failed { State::Failed } else { State::Stopped },
            reason: past.reason,
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
        Desired { run: self.run, busy: self.work == Work::Busy }
    }

    pub(super) fn remember(&self) -> Remembered {
        Remembered { failed: self.state == State::Failed, reason: self.reason.clone(), at: self.at }
    }

    /// Somebody wants something.
    pub(super) fn ask(&mut self, verb: Verb, why: String) {
        let up = self.work == Work::Stuck
            || matches!(self.state, State::Running { .. } | State::Starting(_) | State::Stopping);
        match verb {
            Verb::Start if self.run => return,
            Verb::Start if self.state == State::Stopping => self.again = true,
            // What could not be stopped is taken as it is.
            Verb::Start => (self.run, self.again, self.work) = (true, false, Work::Nothing),
            Verb::Stop => (self.run, self.again) = (false, false),
            Verb::Restart => (self.run, self.again) = (!up, up),
        }
        self.because = why;
        if !self.run {
            self.cancel();
        }
    }

    /// Gives up a start that is under way. What it already made is found by the next observation.
    pub(super) fn cancel(&mut self) {
        if let Some((_, abort)) = self.attempt.take() {
            abort.abort();
            self.work = Work::Nothing;
            self.become_(State::Stopped, self.because.clone(), self.at);
            self.resume();
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
                self.run = false;
                self.fail("starting failed", error, now);
            }
        }
        true
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
        let ended = there.is_none_or(|there| there.running_since.is_none());
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
        match (&self.state, there.and_then(|there| there.running_since)) {
            (State::Running { .. }, Some(since)) => {
                self.state = State::Running { since };
                false
            }
            (_, Some(since)) if first || self.run => {
                self.run = true;
                self.failure.clear();
                self.become_(State::Running { since }, "it was running already".to_owned(), now);
                false
            }
            (State::Running { .. }, None) => {
                self.run = false;
                let code = there.and_then(|there| there.exit_code).unwrap_or(0);
                let state = if code == 0 { State::Stopped } else { State::Failed };
                self.become_(state, format!("it ended by itself with exit code {code}"), now);
                true
            }
            _ => false,
        }
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
        let runs = matches!(self.state, State::Running { .. });
        View {
            id: id.clone(),
            state: self.state.clone(),
            reason: self.reason.clone(),
            at: self.at,
            failure: self.failure.clone(),
            log: self.log.clone(),
            limits,
            usage: self.usage.filter(|_| runs),
            cpu: self.cpu.filter(|_| runs),
            disk: self.disk,
            update_pending: runs && digest.is_some_and(|digest| digest != self.digest),
            settled: match self.work {
                Work::Nothing => !self.again && self.run == runs,
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
            self.run = true;
        }
    }
}
