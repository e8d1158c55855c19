//! What keeps a workspace, and what happens next: for pages, the command line, the API, and the workspace itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::claim::AgentState;
use crate::model::text::join_words;
use crate::model::workspace::human_seconds;

/// Something that keeps a workspace from being frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Keeper {
    /// A browser tab is open, and its owner did something not long ago.
    Tab,
    /// An agent works.
    Agent {
        /// Its name.
        name: String,
        /// For how many seconds it has worked.
        seconds: u64,
    },
    /// A lease.
    Lease {
        /// Its reason.
        reason: String,
        /// The seconds that are left of it.
        left: u64,
    },
    /// A known program, such as a compiler, uses CPU.
    Program {
        /// Its name.
        name: String,
        /// Thousandths of a CPU.
        cpu: u64,
    },
    /// Other programs use CPU.
    Cpu {
        /// The program that uses the most.
        program: Option<String>,
        /// Thousandths of a CPU.
        cpu: u64,
    },
    /// Programs read and write much.
    Io {
        /// Bytes per second.
        bytes: u64,
    },
    /// A terminal shows something new.
    Output {
        /// The program in its foreground.
        program: String,
    },
    /// The sensor has not reported, so that nothing is known.
    NoReport,
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |cpu: &u64| cpu / 10;
        match self {
            Self::Tab => f.write_str("a browser tab is open"),
            Self::Agent { name, seconds } => write!(f, "{name} is working ({})", human_seconds(*seconds)),
            Self::Lease { reason, left } => write!(f, "{reason} (lease for another {})", human_seconds(*left)),
            Self::Program { name, cpu } => write!(f, "{name} uses {} % CPU", percent(cpu)),
            Self::Cpu { program: Some(program), cpu } => {
                write!(f, "programs use {} % CPU, {program} the most", percent(cpu))
            }
            Self::Cpu { program: None, cpu } => write!(f, "programs use {} % CPU", percent(cpu)),
            Self::Io { bytes } => {
                write!(f, "programs read and write {} per second", crate::model::size::human_bytes(*bytes))
            }
            Self::Output { program } => write!(f, "{program} prints to a terminal"),
            Self::NoReport => f.write_str("its activity is unknown"),
        }
    }
}

/// Why the next step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// Nobody uses the workspace, and nothing works in it.
    Idle,
    /// Nobody uses it, and its configuration has changed: it is stopped instead of frozen, so that the next start applies the change.
    Update,
    /// It has run for `autostop.maxRuntime`.
    MaxRuntime,
    /// Its configuration changed `update.deadline` ago: it is restarted.
    UpdateDeadline,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    /// Whether the workspace is stopped instead of frozen.
    pub stops: bool,
    /// The seconds until then, if nothing changes.
    pub seconds: u64,
    /// Why.
    pub because: Because,
}

impl Next {
    /// What happens to the workspace: `freezes`, `stops` or `restarts`.
    pub fn verb(&self) -> &'static str {
        match (self.because, self.stops) {
            (Because::UpdateDeadline, _) => "restarts",
            (_, true) => "stops",
            (_, false) => "freezes",
        }
    }
}

/// An agent that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// What it waits for: `question` or `permission`.
    pub state: AgentState,
    /// For how many seconds it has waited.
    pub seconds: u64,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.state == AgentState::Permission { "permission" } else { "an answer" };
        write!(f, "{} has been waiting for {what} for {}", self.name, human_seconds(self.seconds))
    }
}

/// Whether a workspace is kept, why, and what happens next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// What keeps it; empty if it is idle.
    pub kept_by: Vec<Keeper>,
    /// The agents that wait for a person.
    pub waiting: Vec<Waiting>,
    /// The seconds since its last activity.
    pub idle: u64,
    /// The seconds after which what runs inside keeps it no longer, if its owner does nothing.
    pub kept_for: Option<u64>,
    /// The next step; `None` if nothing is going to happen.
    pub next: Option<Next>,
}

impl Verdict {
    /// What happens next, as a sentence for people: `freezes in 18 min`.
    pub fn next_step(&self) -> Option<String> {
        let next = self.next?;
        let why = match next.because {
            Because::Idle => "",
            Because::Update | Because::UpdateDeadline => " to apply the changed configuration",
            Because::MaxRuntime => " because of autostop.maxRuntime",
        };
        Some(format!("{} in {}{why}", next.verb(), human_seconds(next.seconds)))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.kept_by.is_empty() {
            parts.push(format!("idle for {}", human_seconds(self.idle)));
        } else {
            parts.push(format!("kept: {}", join_words(&self.kept_by)));
        }
        parts.extend(self.waiting.iter().map(ToString::to_string));
        if let Some(next) = self.next_step() {
            parts.push(next);
        }
        f.write_str(&parts.join("; "))
    }
}
