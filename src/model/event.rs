//! What happened to workspaces and at the door: the type of every event that csm stores, logs and shows.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::label::WorkspaceId;
use super::name::Name;
use super::printed;
use super::workspace::{Timestamp, human_seconds};

/// The most characters of a text in an event, before control characters are escaped.
const MAX_TEXT: usize = 300;

/// A text of an event: one line, bounded, with control characters escaped. Part of it may come from inside a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Line(String);

impl Line {
    /// Bounds and escapes a text.
    pub fn new(text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let short: String = text.chars().take(MAX_TEXT).collect();
        let cut = if short.len() < text.len() { "…" } else { "" };
        Self(printed::to_one_line(&short) + cut)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        // An escaped text is longer than what it was made from. Escaping it again changes nothing.
        Ok(Self(printed::to_one_line(&text)))
    }
}

/// Who requested something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A signed-in user.
    User(Name),
    /// Anyone who can open the API's socket.
    CommandLine,
}

/// Names have no spaces, so that no user has this one.
const COMMAND_LINE: &str = "the command line";

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => name.fmt(f),
            Self::CommandLine => f.write_str(COMMAND_LINE),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            COMMAND_LINE => Ok(Self::CommandLine),
            name => name.parse().map(Self::User).map_err(serde::de::Error::custom),
        }
    }
}

/// A step that is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum Announced {
    /// The workspace is going to be frozen.
    Freeze,
    /// It is going to be stopped.
    Stop,
    /// It is going to be restarted.
    Restart,
}

/// What happened. The doc comments are the text of `docs/events.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Kind {
    /// The workspace was started, by csm or outside csm, and its editor responds.
    Started,
    /// All processes of the workspace were frozen.
    Frozen,
    /// They were thawed.
    Thawed,
    /// The workspace was stopped, or exited without a failure.
    Stopped,
    /// The workspace was stopped and started again by request.
    Restarted,
    /// The workspace could not be started, frozen, thawed or stopped, or exited with a failure. The same failure of repeated attempts
    /// is one event.
    Failed {
        /// The error and its fix.
        failure: Line,
    },
    /// A user asked that the workspace is kept from being frozen or stopped.
    Kept {
        /// For how many seconds; 0 ends an earlier request.
        seconds: u64,
    },
    /// A program in the workspace took a lease. A lease that is renewed is not another event.
    LeaseTaken {
        /// What the program gives as the reason.
        reason: Line,
        /// The length of the lease in seconds.
        seconds: u64,
    },
    /// A program in the workspace asked for something that was refused, such as a lease beyond `autostop.maxLease`.
    ClaimRefused {
        /// Why it was refused.
        failure: Line,
    },
    /// It was announced in the workspace's terminals that it is going to be frozen, stopped or restarted.
    Announced {
        /// What is going to happen: `freeze`, `stop` or `restart`.
        step: Announced,
        /// The seconds until then.
        seconds: u64,
    },
    /// The configuration of a running workspace has changed. The next start applies it.
    UpdatePending,
    /// A start applied the changed configuration.
    UpdateApplied,
    /// A user signed in.
    SignedIn {
        /// The browser's address.
        source: Line,
    },
    /// A name or a password was wrong. `user` is the name if it is declared, otherwise null.
    SignInRefused {
        /// The browser's address.
        source: Line,
    },
    /// A user signed out.
    SignedOut,
    /// csm ended a user's session.
    SessionEnded,
    /// A new manifest took effect.
    ManifestApplied {
        /// The number of declared users.
        users: usize,
    },
    /// A changed manifest was refused; the previous one stays current.
    ManifestRefused {
        /// Its errors.
        failure: Line,
    },
    /// csm started.
    CsmStarted {
        /// Its version.
        version: Line,
    },
}

impl Kind {
    /// The journal's `MESSAGE_ID` of events of this kind. It never changes.
    pub const fn message_id(&self) -> &'static str {
        match self {
            Self::Started => "4cff2f704816e90ea41866ddcc4e5b40",
            Self::Frozen => "76319e08f6832df63833189d821c52eb",
            Self::Thawed => "ff7c3b6a62242cc127d97fa3dd94d4ce",
            Self::Stopped => "6b94b6d85ab90721b3d39daf419e7dac",
            Self::Restarted => "387a493a4a50e2c7f521d53ff3c96686",
            Self::Failed { .. } => "7a4c7d2d43ddd1e045cbfdc9fa3d678a",
            Self::Kept { .. } => "77acf38000b2dc7eee026c7487138f4b",
            Self::LeaseTaken { .. } => "40c0c69fd198ea42b2a12bda70d2ea7b",
            Self::ClaimRefused { .. } => "3d77ac2467989db6884511f1ad7a6d24",
            Self::Announced { .. } => "7e13d0f7a0582cbfbab2df7891268bff",
            Self::UpdatePending => "642a56466806bcdf925dd6b161c92980",
            Self::UpdateApplied => "41b32bb2342ba23b740d04b8fd255604",
            Self::SignedIn { .. } => "68f58958a6740b857796728f0bb15797",
            Self::SignInRefused { .. } => "826c433938466a027f408e18ce3b4d22",
            Self::SignedOut => "ba564bcfaacd4819194dccb3e606958a",
            Self::SessionEnded => "069ce12d1801ec6ecf7a7a4d0b8b0262",
            Self::ManifestApplied { .. } => "6833b325f9f8607806b912d1c285cf89",
            Self::ManifestRefused { .. } => "a671626769d7f112e06f7def7a2cf1a7",
            Self::CsmStarted { .. } => "58d3b315cb2281967dc49158b3854e72",
        }
    }

    /// Whether something did not work or was refused.
    pub const fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::ClaimRefused { .. } | Self::SignInRefused { .. } | Self::ManifestRefused { .. }
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Frozen => f.write_str("frozen"),
            Self::Thawed => f.write_str("thawed"),
            Self::Stopped => f.write_str("stopped"),
            Self::Restarted => f.write_str("restarted"),
            Self::Failed { failure } => write!(f, "failed: {failure}"),
            Self::Kept { seconds: 0 } => f.write_str("no longer kept"),
            Self::Kept { seconds } => write!(f, "kept for {}", human_seconds(*seconds)),
            Self::LeaseTaken { reason, seconds } => write!(f, "lease for {}: {reason}", human_seconds(*seconds)),
            Self::ClaimRefused { failure } => write!(f, "refused to a program inside: {failure}"),
            Self::Announced { step, seconds } => {
                let verb = match step {
                    Announced::Freeze => "freezes",
                    Announced::Stop => "stops",
                    Announced::Restart => "restarts",
                };
                write!(f, "announced: {verb} in {}", human_seconds(*seconds))
            }
            Self::UpdatePending => f.write_str("update pending"),
            Self::UpdateApplied => f.write_str("update applied"),
            Self::SignedIn { source } => write!(f, "signed in from {source}"),
            Self::SignInRefused { source } => write!(f, "sign-in refused from {source}"),
            Self::SignedOut => f.write_str("signed out"),
            Self::SessionEnded => f.write_str("session ended"),
            Self::ManifestApplied { users: 1 } => f.write_str("applied a new manifest with 1 user"),
            Self::ManifestApplied { users } => write!(f, "applied a new manifest with {users} users"),
            Self::ManifestRefused { failure } => write!(f, "refused a new manifest: {failure}"),
            Self::CsmStarted { version } => write!(f, "csm {version} started"),
        }
    }
}

/// What happened, to what, by whom and why; without a number and a time, which the daemon adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What happened.
    #[serde(flatten)]
    pub kind: Kind,
    /// The workspace to which it happened.
    pub workspace: Option<WorkspaceId>,
    /// The user whose sign-in or session it concerns.
    pub user: Option<Name>,
    /// Who requested it. `None` if csm decided it, or something outside csm or inside the workspace did it.
    pub actor: Option<Actor>,
    /// Why.
    pub cause: Option<Line>,
}

impl Fact {
    /// A fact about csm itself.
    pub fn new(kind: Kind) -> Self {
        Self { kind, workspace: None, user: None, actor: None, cause: None }
    }

    /// A fact about a workspace.
    pub fn of_workspace(id: WorkspaceId, kind: Kind) -> Self {
        Self { workspace: Some(id), ..Self::new(kind) }
    }

    /// A fact about a user's sign-in. `None` if the name is not declared.
    pub fn of_user(user: Option<Name>, kind: Kind) -> Self {
        Self { user, ..Self::new(kind) }
    }

    /// Sets who requested it.
    #[must_use]
    pub fn by(self, actor: Option<Actor>) -> Self {
        Self { actor, ..self }
    }

    /// Sets the cause.
    #[must_use]
    pub fn because(self, cause: impl fmt::Display) -> Self {
        Self { cause: Some(Line::new(cause)), ..self }
    }

    /// The user who may see it, apart from admins.
    pub fn owner(&self) -> Option<&Name> {
        self.workspace.as_ref().map(|id| &id.owner).or(self.user.as_ref())
    }

    /// What happened and why, without the name of the workspace.
    pub fn describe(&self) -> String {
        let what = self.kind.to_string();
        match &self.cause {
            // "stopped by dan", not "stopped: stopped by dan".
            Some(cause) if cause.as_str().starts_with(&what) => cause.to_string(),
            Some(cause) if !what.ends_with(cause.as_str()) => match &self.kind {
                // The fix is at the end of a failure.
                Kind::Failed { failure } => format!("failed ({cause}): {failure}"),
                _ => format!("{what}: {cause}"),
            },
            _ => match (&self.kind, &self.actor) {
                (Kind::Kept { .. }, Some(actor)) => format!("{what} by {actor}"),
                _ => what,
            },
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.workspace, &self.user) {
            (Some(id), _) => write!(f, "{id}: ")?,
            (None, Some(name)) => write!(f, "{name}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.describe())
    }
}

/// A fact that the daemon has recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number. Numbers ascend, and some may be missing.
    pub id: u64,
    /// When it happened, in seconds since 1970.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those that this user may see; `None` for all.
    pub owner: Option<Name>,
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only those at or after this time.
    pub since: Timestamp,
}

impl Filter {
    /// Whether an event is wanted.
    pub fn admits(&self, event: &Event) -> bool {
        let same =
            |wanted: &Option<Name>, found: Option<&Name>| wanted.as_ref().is_none_or(|wanted| found == Some(wanted));
        same(&self.owner, event.fact.owner())
            && self.workspace.as_ref().is_none_or(|wanted| event.fact.workspace.as_ref() == Some(wanted))
            && event.at >= self.since
    }
}

#[cfg(test)]
pub(crate) mod tests;
