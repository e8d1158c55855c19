//! Why a workspace is in its state, as users see it.

use std::fmt;

pub use crate::model::event::Actor;
use crate::model::name::Name;
use crate::model::printed;
use crate::model::workspace::human_seconds;

/// What users and admins can request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start the workspace, or thaw it if it is frozen.
    Start,
    /// Freeze the workspace if it runs.
    Freeze,
    /// Stop the workspace.
    Stop,
    /// Stop the workspace, and start it with its current configuration.
    Restart,
}

impl Verb {
    fn past(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Freeze => "frozen",
            Self::Stop => "stopped",
            Self::Restart => "restarted",
        }
    }
}

/// Why a workspace is in its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// csm has not started it yet.
    NeverStarted,
    /// The cause that an earlier run of csm recorded.
    Recorded(String),
    /// The manifest sets `autoStart`.
    AutoStart,
    /// The owner opened the workspace's address.
    Opened(Name),
    /// A user or the command line requested it.
    Requested(Verb, Actor),
    /// `csm up` stops its workspaces before it exits.
    ShutDown,
    /// It was running when csm started.
    AlreadyRunning,
    /// It was frozen when csm started.
    AlreadyFrozen,
    /// It was starting when csm started.
    AlreadyStarting,
    /// Something other than csm started it.
    StartedOutside,
    /// Something other than csm froze it.
    FrozenOutside,
    /// Something other than csm thawed it.
    ThawedOutside,
    /// It no longer runs, and its runtime reports no reason.
    ExitedOrStoppedOutside,
    /// It exited, for the reason that its runtime reports.
    Exited(String),
    /// Nothing had kept it for this many seconds.
    Idle(u64),
    /// Nothing had kept it for this many seconds, and its next start applies a changed configuration.
    IdleUpdate(u64),
    /// It had run for `autostop.maxRuntime`.
    MaxRuntime,
    /// Its configuration had changed `update.deadline` before.
    UpdateDeadline,
    /// A start failed.
    StartFailed,
    /// A stop failed.
    StopFailed,
}

impl Cause {
    /// Who requested it; `None` if csm or something outside csm did it.
    pub fn actor(&self) -> Option<Actor> {
        match self {
            Self::Opened(owner) => Some(Actor::User(owner.clone())),
            Self::Requested(_, actor) => Some(actor.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverStarted => f.write_str("never started"),
            // A launcher, and so its workspace, may have written these texts.
            Self::Recorded(text) | Self::Exited(text) => f.write_str(&printed::to_one_line(text)),
            Self::AutoStart => f.write_str("autoStart is set"),
            Self::Opened(owner) => write!(f, "opened by {owner}"),
            Self::Requested(verb, actor) => write!(f, "{} by {actor}", verb.past()),
            Self::ShutDown => f.write_str("csm up was stopped"),
            Self::AlreadyRunning => f.write_str("already running when csm started"),
            Self::AlreadyFrozen => f.write_str("already frozen when csm started"),
            Self::AlreadyStarting => f.write_str("already starting when csm started"),
            Self::StartedOutside => f.write_str("started outside csm"),
            Self::FrozenOutside => f.write_str("frozen outside csm"),
            Self::ThawedOutside => f.write_str("thawed outside csm"),
            Self::ExitedOrStoppedOutside => f.write_str("exited, or was stopped outside csm"),
            Self::Idle(seconds) => write!(f, "idle for {}", human_seconds(*seconds)),
            Self::IdleUpdate(seconds) => {
                write!(f, "idle for {}; the next start applies the changed configuration", human_seconds(*seconds))
            }
            Self::MaxRuntime => f.write_str("ran for the longest time that autostop.maxRuntime allows"),
            Self::UpdateDeadline => {
                f.write_str("restarted to apply the changed configuration: update.deadline was over")
            }
            Self::StartFailed => f.write_str("starting failed"),
            Self::StopFailed => f.write_str("stopping failed"),
        }
    }
}
