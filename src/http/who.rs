//! Who asks the API, and the way that their request came in by.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::app::App;
use super::context::{Context, provenance, session};
use super::error::{ApiRefusal, Refusal};
use crate::daemon::view::{Snapshot, View};
use crate::model::label::WorkspaceId;
use crate::model::name::Name;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// A signed-in person.
    Person {
        /// Their name.
        name: Name,
        /// Whether they see everyone's workspace.
        admin: bool,
    },
    /// Whoever can open the daemon's socket.
    Operator,
}

/// Marks requests that came in by the operator's socket.
#[derive(Debug, Clone)]
pub(super) struct Operator;

/// The way that a request came in by. Its router marks it; a request without a mark is refused.
#[derive(Debug, Clone)]
pub(super) enum Door {
    /// A host of ours, through nginx.
    Host(Context),
    /// The operator's socket.
    Socket,
}

impl FromRequestParts<Arc<App>> for Door {
    type Rejection = ApiRefusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiRefusal> {
        match (parts.extensions.get::<Context>(), parts.extensions.get::<Operator>()) {
            (Some(context), None) => Ok(Self::Host(context.clone())),
            (None, Some(Operator)) => Ok(Self::Socket),
            _ => Err(Refusal::SignedOut.into()),
        }
    }
}

impl Who {
    /// On the dashboard's host it is a person with a session, and what changes something comes from our own pages.
    pub(super) fn of(app: &App, door: &Door, headers: &HeaderMap) -> Result<Self, Refusal> {
        let context = match door {
            Door::Socket => return Ok(Self::Operator),
            Door::Host(context) => context,
        };
        let session = session(app, context, headers).ok_or(Refusal::SignedOut)?;
        if !provenance(headers).is_own(&context.origin) {
            return Err(Refusal::Foreign);
        }
        let admin = app.manifest.borrow().owners.get(&session.owner).is_some_and(|owner| owner.admin);
        Ok(Self::Person { name: session.owner, admin })
    }

    /// Whether this workspace concerns them.
    pub(super) fn sees(&self, id: &WorkspaceId) -> bool {
        match self {
            Self::Person { name, admin } => *admin || id.owner == *name,
            Self::Operator => true,
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Person { name, .. } => write!(f, "{name}"),
            Self::Operator => f.write_str("the command line"),
        }
    }
}

impl FromRequestParts<Arc<App>> for Who {
    type Rejection = ApiRefusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiRefusal> {
        let door = Door::from_request_parts(parts, app).await?;
        Ok(Self::of(app, &door, &parts.headers)?)
    }
}

/// A workspace that the asker may see. One that they may not see does not exist for them.
pub(super) fn find(app: &App, who: &Who, id: &str) -> Result<Arc<View>, Refusal> {
    find_in(&app.daemon.snapshot(), who, id).ok_or_else(|| {
        Refusal::NotFound(format!("There is no workspace \"{}\".", id.chars().take(60).collect::<String>()))
    })
}

/// The same in a snapshot.
pub(super) fn find_in(snapshot: &Snapshot, who: &Who, id: &str) -> Option<Arc<View>> {
    let id: WorkspaceId = id.parse().ok().filter(|id| who.sees(id))?;
    snapshot.workspaces.get(&id).cloned()
}
