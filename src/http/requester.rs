//! Who sent a request to the API, and through which socket it arrived.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::app::App;
use super::context::{Context, provenance, session};
use super::error::{ApiRefusal, Refusal};
use crate::daemon::view::{Snapshot, View};
use crate::model::label::WorkspaceId;
use crate::model::name::Name;
use crate::plan::Actor;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Requester {
    /// A signed-in user.
    User {
        /// The user's name.
        name: Name,
        /// Whether the user sees all workspaces.
        admin: bool,
    },
    /// Anyone who can open the API's socket.
    Operator,
}

/// Marks requests that arrived on the API's socket.
#[derive(Debug, Clone)]
pub(super) struct Operator;

/// How a request arrived. Each router marks its requests; a request without a mark is refused.
#[derive(Debug, Clone)]
pub(super) enum Channel {
    /// Through nginx, on one of csm's hostnames.
    Hostname(Context),
    /// On the API's socket.
    Socket,
}

impl FromRequestParts<Arc<App>> for Channel {
    type Rejection = ApiRefusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiRefusal> {
        match (parts.extensions.get::<Context>(), parts.extensions.get::<Operator>()) {
            (Some(context), None) => Ok(Self::Hostname(context.clone())),
            (None, Some(Operator)) => Ok(Self::Socket),
            _ => Err(Refusal::SignedOut.into()),
        }
    }
}

impl Requester {
    /// Finds out who sent a request. On the dashboard's hostname the request needs a session, and must come from csm's own pages.
    pub(super) fn of(app: &App, channel: &Channel, headers: &HeaderMap) -> Result<Self, Refusal> {
        let context = match channel {
            Channel::Socket => return Ok(Self::Operator),
            Channel::Hostname(context) => context,
        };
        let session = session(app, context, headers).ok_or(Refusal::SignedOut)?;
        if !provenance(headers).is_own(&context.origin) {
            return Err(Refusal::CrossSite);
        }
        let admin = app.manifest.borrow().owners.get(&session.owner).is_some_and(|owner| owner.admin);
        Ok(Self::User { name: session.owner, admin })
    }

    /// The requester, as the cause of what it requests.
    pub(super) fn actor(&self) -> Actor {
        match self {
            Self::User { name, .. } => Actor::User(name.clone()),
            Self::Operator => Actor::CommandLine,
        }
    }

    /// Whether the requester may see this workspace.
    pub(super) fn may_see(&self, id: &WorkspaceId) -> bool {
        match self {
            Self::User { name, admin } => *admin || id.owner == *name,
            Self::Operator => true,
        }
    }

    /// The user whose events the requester may see; `None` for all.
    pub(super) fn only_owner(&self) -> Option<Name> {
        match self {
            Self::User { name, admin: false } => Some(name.clone()),
            Self::User { admin: true, .. } | Self::Operator => None,
        }
    }
}

impl FromRequestParts<Arc<App>> for Requester {
    type Rejection = ApiRefusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiRefusal> {
        let channel = Channel::from_request_parts(parts, app).await?;
        Ok(Self::of(app, &channel, &parts.headers)?)
    }
}

/// Finds a workspace that the requester may see. For all others the response is the same as for one that does not exist.
pub(super) fn find(app: &App, requester: &Requester, id: &str) -> Result<Arc<View>, Refusal> {
    find_in(&app.daemon.snapshot(), requester, id).ok_or_else(|| no_workspace(id))
}

/// The response for a workspace that does not exist, or that the requester may not see.
pub(super) fn no_workspace(id: &str) -> Refusal {
    let what = format!("There is no workspace \"{}\".", id.chars().take(60).collect::<String>());
    Refusal::NotFound(what, "Check its name: the dashboard and csm status list the workspaces.")
}

/// Finds a workspace in a snapshot, see [`find`].
pub(super) fn find_in(snapshot: &Snapshot, requester: &Requester, id: &str) -> Option<Arc<View>> {
    let id: WorkspaceId = id.parse().ok().filter(|id| requester.may_see(id))?;
    snapshot.workspaces.get(&id).cloned()
}

/// How often to check whether a reader may still follow something. nginx caches allowed requests for the same time.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Resolves when the one who sent a request is signed out, or `may` no longer holds.
pub(super) async fn no_longer(app: Arc<App>, channel: Channel, headers: HeaderMap, may: impl Fn(&Requester) -> bool) {
    while Requester::of(&app, &channel, &headers).is_ok_and(|now| may(&now)) {
        tokio::time::sleep(RECHECK_INTERVAL).await;
    }
}
