//! When a workspace that nobody uses is frozen and stopped.

use std::time::Duration;

use serde::Serialize;

use super::span::{Delay, Span};
use super::text::ProgramName;

/// When a workspace that nobody uses is frozen and stopped. All times count from its last activity, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Autostop {
    /// When it is frozen.
    pub freeze_after: Delay,
    /// When it is stopped; the time that it is frozen counts too.
    pub stop_after: Delay,
    /// How long an open tab counts as use after its owner last did something.
    pub open_tab: Delay,
    /// How long what runs inside can keep it, after its owner last did something.
    pub max_lease: Span,
    /// When it is stopped even if it is used, counted from its start.
    pub max_runtime: Delay,
    /// When it is restarted to apply a changed configuration even if it is used, counted from the change.
    pub update_deadline: Delay,
    /// How long before a step it is announced, the longest first.
    pub warnings: Vec<Span>,
    /// Names of more programs that are work while they use CPU.
    pub programs: Vec<ProgramName>,
}

impl Default for Autostop {
    fn default() -> Self {
        Self {
            freeze_after: Delay::After(Span::minutes(30)),
            stop_after: Delay::After(Span::minutes(8 * 60)),
            open_tab: Delay::After(Span::minutes(4 * 60)),
            max_lease: Span::minutes(24 * 60),
            max_runtime: Delay::Off,
            update_deadline: Delay::Off,
            warnings: vec![Span::minutes(10), Span::minutes(2)],
            programs: Vec::new(),
        }
    }
}

impl Autostop {
    /// The time without activity after which it is frozen, or stopped if it is never frozen; `None` if neither ever happens.
    pub fn first_delay(&self) -> Option<Duration> {
        self.freeze_after.get().or(self.stop_after.get())
    }
}
