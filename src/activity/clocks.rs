//! A workspace's clocks: how long it has been idle, and how long nobody has used it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::claim::{Agent, Claim, Claims, Refused};
use super::sample::{Report, Sample};
use super::verdict::{Because, Keeper, Next, Verdict, Waiting};
use crate::model::autostop::Autostop;
use crate::model::printed;
use crate::model::workspace::Timestamp;

/// A sample is valid for this long. Without a newer one, nothing is known of the workspace.
const SAMPLE_VALIDITY: Duration = Duration::from_secs(150);

/// A step for idleness is taken only while the sample is younger than this.
const FRESH: Duration = Duration::from_secs(5);

/// CPU time, input and output are averaged over this time, in milliseconds, so that short bursts of the editor's own work do not count.
const WINDOW: u64 = 120_000;

/// From this average on, unknown programs count as work, in thousandths of a CPU. An editor that nobody uses takes about 10.
const CPU_OF_WORK: u64 = 50;

/// The longest time between two samples, in milliseconds: a sensor reports more often.
const MAX_ELAPSED: u64 = 600_000;

/// The most samples in the window.
const MAX_RECENT: usize = 64;

/// From this use on, a known program counts as work, in thousandths of a CPU.
const CPU_OF_PROGRAM: u64 = 10;

/// From this average on, input and output count as work, in bytes per second.
const IO_OF_WORK: u64 = 1 << 20;

/// Whether a workspace runs, as far as its clocks are concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It does not run.
    #[default]
    Down,
    /// It runs; with the time at which its container was started.
    Running(Timestamp),
    /// It is frozen.
    Frozen(Timestamp),
}

/// What a decision depends on besides the workspace's own activity.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The workspace's settings.
    pub autostop: &'a Autostop,
    /// Whether its configuration has changed since it was started.
    pub update_pending: bool,
}

/// What follows from a workspace's activity.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What keeps it, and what happens next.
    pub verdict: Verdict,
    /// Whether the next step must be announced now.
    pub announce: bool,
    /// Whether the next step must be taken now.
    pub act: bool,
}

/// What is known of a workspace's activity. It survives a restart of csm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    phase: Phase,
    /// The running time since anything kept the workspace.
    idle: Duration,
    /// The time that it has been frozen.
    frozen: Duration,
    /// The time since its configuration has changed, while it runs or is frozen.
    pending: Duration,
    /// The running time since its start.
    up: Duration,
    /// The running time since its owner did something.
    untouched: Duration,
    /// The running time since its owner did something or had a tab open that counts as use.
    unattended: Duration,
    sample: Sample,
    sample_age: Duration,
    /// The latest samples: elapsed time and CPU time in milliseconds, and bytes. Together they cover the window.
    recent: VecDeque<(u64, u64, u64)>,
    claims: Claims,
    /// The span before the next step at which it was last announced.
    announced: Option<u64>,
}

impl Activity {
    /// Sets the phase. A workspace that was started or thawed begins with new clocks.
    pub fn set_phase(&mut self, phase: Phase) {
        match (self.phase, phase) {
            // The start's time may be known more exactly later.
            (Phase::Down, Phase::Down)
            | (Phase::Running(_), Phase::Running(_))
            | (Phase::Frozen(_), Phase::Frozen(_)) => {}
            (Phase::Running(_), Phase::Frozen(_)) => (self.frozen, self.announced) = (Duration::ZERO, None),
            (Phase::Frozen(_), Phase::Running(_)) => {
                (self.idle, self.frozen, self.announced) = (Duration::ZERO, Duration::ZERO, None);
                (self.sample, self.sample_age) = (Sample::default(), Duration::ZERO);
            }
            _ => *self = Self::default(),
        }
        self.phase = phase;
    }

    /// Sets the phase that is found after a restart of csm. The clocks go on if the same container still runs.
    pub fn resume(&mut self, phase: Phase) {
        let since = |phase: Phase| match phase {
            Phase::Down => None,
            Phase::Running(since) | Phase::Frozen(since) => Some(since),
        };
        if since(self.phase) != since(phase) {
            *self = Self::default();
        }
        self.set_phase(phase);
    }

    /// Lets time pass in the current phase.
    pub fn advance(&mut self, time: Duration, context: Context<'_>) {
        let autostop = context.autostop;
        let is_pending = context.update_pending && self.phase != Phase::Down;
        self.pending = if is_pending { self.pending + time } else { Duration::ZERO };
        match self.phase {
            Phase::Down => {}
            Phase::Frozen(_) => self.frozen += time,
            Phase::Running(_) => {
                self.up += time;
                self.untouched += time;
                self.sample_age += time;
                self.claims.advance(time);
                let keepers = self.keepers(autostop);
                let attended = keepers.contains(&Keeper::Tab);
                self.unattended = if attended { Duration::ZERO } else { self.unattended + time };
                self.idle = if keepers.is_empty() { self.idle + time } else { Duration::ZERO };
            }
        }
    }

    /// The owner did something: opened the workspace, typed in a terminal, or asked that it is kept.
    pub fn touch(&mut self) {
        (self.idle, self.untouched, self.unattended) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    }

    /// Accepts what a sensor reports. Returns the claims that are refused, with the reasons.
    pub fn report(&mut self, report: Report, autostop: &Autostop) -> Vec<Refused> {
        if let Some(sample) = report.sample {
            self.take_sample(sample);
        }
        let accept = |claim: Claim| self.claims.accept(claim, autostop.max_lease.get()).err();
        report.claims.into_iter().filter_map(accept).collect()
    }

    /// Keeps the workspace for some time, because its owner or an admin asked for it.
    pub fn keep(&mut self, time: Duration, reason: &str, autostop: &Autostop) -> Result<(), Refused> {
        let claim = Claim::Lease { id: "keep".to_owned(), reason: Some(reason.to_owned()), seconds: time.as_secs() };
        self.claims.accept(claim, autostop.max_lease.get())?;
        self.touch();
        Ok(())
    }

    fn take_sample(&mut self, sample: Sample) {
        let line =
            |text: Option<String>| text.map(|text| printed::to_one_line(&text.chars().take(40).collect::<String>()));
        let mut sample =
            Sample { input: line(sample.input), output: line(sample.output), busiest: line(sample.busiest), ..sample };
        sample.elapsed = sample.elapsed.min(MAX_ELAPSED);
        sample.programs.truncate(8);
        for program in &mut sample.programs {
            program.name = line(Some(std::mem::take(&mut program.name))).unwrap_or_default();
        }
        if sample.input.is_some() {
            self.touch();
        }
        self.recent.push_back((sample.elapsed, sample.cpu, sample.io));
        let mut covered: u64 = self.recent.iter().map(|(elapsed, ..)| *elapsed).fold(0, u64::saturating_add);
        while let Some((elapsed, ..)) = self.recent.front()
            && (covered - elapsed >= WINDOW || self.recent.len() > MAX_RECENT)
        {
            covered -= elapsed;
            self.recent.pop_front();
        }
        for id in &sample.gone {
            self.claims.agents.remove(id);
        }
        (self.sample, self.sample_age) = (sample, Duration::ZERO);
    }

    /// What keeps the workspace now.
    fn keepers(&self, autostop: &Autostop) -> Vec<Keeper> {
        let mut keepers = Vec::new();
        let known = self.sample_age <= SAMPLE_VALIDITY;
        if known && self.sample.connections > 0 && autostop.open_tab.get().is_none_or(|limit| self.untouched < limit) {
            keepers.push(Keeper::Tab);
        }
        // What comes from inside extends the workspace's life only for so long.
        if keepers.is_empty() && self.unattended >= autostop.max_lease.get() {
            return keepers;
        }
        let agents = self.claims.agents.values().filter(|agent| agent.works());
        keepers.extend(agents.map(|agent| Keeper::Agent { name: agent.name.clone(), seconds: agent.since.as_secs() }));
        let leases = self.claims.leases.values();
        keepers.extend(leases.map(|lease| Keeper::Lease { reason: lease.reason.clone(), left: lease.left.as_secs() }));
        if !known {
            keepers.push(Keeper::NoReport);
            return keepers;
        }
        let cpu = |millis: u64| millis.saturating_mul(1000) / self.sample.elapsed.max(1);
        let programs = self.sample.programs.iter().map(|program| (program, cpu(program.cpu)));
        let before = keepers.len();
        keepers.extend(
            programs
                .filter(|(_, cpu)| *cpu >= CPU_OF_PROGRAM)
                .map(|(program, cpu)| Keeper::Program { name: program.name.clone(), cpu }),
        );
        let average = |amount: fn(&(u64, u64, u64)) -> u64| {
            self.recent.iter().map(amount).fold(0, u64::saturating_add).saturating_mul(1000) / WINDOW
        };
        let (average_cpu, average_io) = (average(|(_, cpu, _)| *cpu), average(|(.., io)| *io));
        if keepers.len() == before && average_cpu >= CPU_OF_WORK {
            keepers.push(Keeper::Cpu { program: self.sample.busiest.clone(), cpu: average_cpu });
        }
        if average_io >= IO_OF_WORK {
            keepers.push(Keeper::Io { bytes: average_io });
        }
        keepers.extend(self.sample.output.clone().map(|program| Keeper::Output { program }));
        keepers
    }

    /// Decides what follows. A workspace that runs is frozen or stopped for idleness only after a sample that is not old.
    pub fn decide(&mut self, context: Context<'_>) -> Decision {
        let autostop = context.autostop;
        let kept_by = match self.phase {
            Phase::Running(_) => self.keepers(autostop),
            Phase::Frozen(_) | Phase::Down => Vec::new(),
        };
        let next = self.next(&kept_by, context);
        let attended = kept_by.is_empty() || kept_by.contains(&Keeper::Tab);
        let waiting = self.claims.agents.values().filter(|agent| agent.waits());
        let verdict = Verdict {
            waiting: waiting
                .map(|Agent { name, state, since, .. }| Waiting {
                    name: name.clone(),
                    state: *state,
                    seconds: since.as_secs(),
                })
                .collect(),
            idle: (self.idle + self.frozen).as_secs(),
            kept_for: (!attended && autostop.first_delay().is_some())
                .then(|| autostop.max_lease.get().saturating_sub(self.unattended).as_secs()),
            kept_by,
            next,
        };
        let announce = next.is_some_and(|next| self.is_announced_now(next, autostop));
        // What an old sample says may not be true any more, so that the step waits for the next one, unless none comes.
        let is_current = self.sample_age < FRESH || self.sample_age > SAMPLE_VALIDITY;
        let may_act = |next: Next| {
            matches!(next.because, Because::MaxRuntime | Because::UpdateDeadline)
                || is_current
                || matches!(self.phase, Phase::Frozen(_))
        };
        Decision { announce, act: next.is_some_and(|next| next.seconds == 0 && may_act(next)), verdict }
    }

    fn next(&self, kept_by: &[Keeper], context: Context<'_>) -> Option<Next> {
        let autostop = context.autostop;
        let stop = autostop.stop_after.get().map(|after| Next {
            stops: true,
            seconds: seconds_left(after, self.idle + self.frozen),
            because: Because::Idle,
        });
        match self.phase {
            Phase::Down => None,
            Phase::Frozen(_) => stop,
            Phase::Running(_) => {
                let runtime = autostop.max_runtime.get().map(|after| Next {
                    stops: true,
                    seconds: seconds_left(after, self.up),
                    because: Because::MaxRuntime,
                });
                let deadline = autostop.update_deadline.get().filter(|_| context.update_pending).map(|after| Next {
                    stops: true,
                    seconds: seconds_left(after, self.pending),
                    because: Because::UpdateDeadline,
                });
                let freeze = autostop.freeze_after.get().map(|after| {
                    let because = if context.update_pending { Because::Update } else { Because::Idle };
                    Next { stops: context.update_pending, seconds: seconds_left(after, self.idle), because }
                });
                let idle = if kept_by.is_empty() { freeze.or(stop) } else { None };
                [runtime, deadline, idle].into_iter().flatten().min_by_key(|next| next.seconds)
            }
        }
    }

    /// Whether the next step must be announced now: each span of `autostop.warnings` leads to one announcement.
    fn is_announced_now(&mut self, next: Next, autostop: &Autostop) -> bool {
        let whole = match next.because {
            Because::MaxRuntime => autostop.max_runtime.get(),
            Because::UpdateDeadline => autostop.update_deadline.get(),
            Because::Idle | Because::Update if matches!(self.phase, Phase::Running(_)) => autostop.first_delay(),
            // Nobody can see the announcement in a frozen workspace.
            Because::Idle | Because::Update => return false,
        };
        let spans =
            autostop.warnings.iter().map(|span| span.get()).filter(|span| whole.is_none_or(|whole| *span < whole));
        let reached = spans.map(|span| span.as_secs()).filter(|span| next.seconds <= *span).min();
        let announce = reached.is_some_and(|span| self.announced.is_none_or(|announced| span < announced));
        self.announced = reached;
        announce && next.seconds > 0
    }
}

fn seconds_left(after: Duration, elapsed: Duration) -> u64 {
    // Rounded up, so that 0 means that the time is over.
    let left = after.saturating_sub(elapsed);
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}
