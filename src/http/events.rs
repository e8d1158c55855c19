//! `GET /api/v1/events`: what happened, as lines of JSON, which a limited number of readers can follow.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::broadcast;

use super::app::App;
use super::error::{ApiRefusal, Refusal};
use super::requester::{Channel, Requester, no_longer, no_workspace};
use crate::model::event::{Event, Filter};
use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;

/// The maximum for `limit`.
const MAX_EVENTS: usize = 1000;

/// The endpoint's route.
pub(super) fn route() -> MethodRouter<Arc<App>> {
    get(events)
}

#[derive(Deserialize)]
struct EventsQuery {
    workspace: Option<String>,
    #[serde(default)]
    since: Timestamp,
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    follow: bool,
}

fn default_limit() -> usize {
    100
}

async fn events(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    channel: Channel,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, ApiRefusal> {
    let Query(query) = query?;
    let workspace = match query.workspace {
        Some(id) => {
            // A workspace that is no longer declared has events too.
            let parsed: Option<WorkspaceId> = id.parse().ok();
            Some(parsed.filter(|id| requester.may_see(id)).ok_or_else(|| no_workspace(&id))?)
        }
        None => None,
    };
    let filter = Filter { owner: requester.only_owner(), workspace, since: query.since };
    let follower = match &requester {
        Requester::User { name, .. } if query.follow => Some(app.followed_events.admit(name)?),
        _ => None,
    };
    // Before the store is read, so that no event is missed in between.
    let following = query.follow.then(|| app.daemon.events());
    let stored = newest(&app, filter.clone(), query.limit).await?;
    let last = stored.last().map_or(0, |event| event.id);
    let lines = stream::iter(stored).map(|event| line(&event));
    let new = following.map(|receiver| {
        // They signed out, were removed, or became an admin or are not one any more.
        let rights_changed = no_longer(app, channel, headers, move |now| *now == requester).boxed();
        follow(receiver, filter, last).take_until(rights_changed)
    });
    let new = stream::iter(new).flatten();
    let lines = lines.chain(new).map(move |line| {
        // The reader is counted until it disconnects.
        let _ = &follower;
        Ok::<_, Infallible>(line)
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response())
}

/// The newest events that a filter admits, oldest first: at most [`MAX_EVENTS`].
pub(super) async fn newest(app: &App, filter: Filter, limit: usize) -> Result<Vec<Event>, Refusal> {
    app.state.events(filter, limit.min(MAX_EVENTS)).await.map_err(|error| {
        tracing::error!(%error, "can't read events");
        Refusal::Internal
    })
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default() + "\n"
}

/// The events after the last one that was stored. It ends when the reader is too slow.
fn follow(receiver: broadcast::Receiver<Arc<Event>>, filter: Filter, last: u64) -> impl Stream<Item = String> {
    stream::unfold((receiver, filter), move |(mut receiver, filter)| async move {
        loop {
            let event = receiver.recv().await.ok()?;
            if event.id > last && filter.admits(&event) {
                return Some((line(&event), (receiver, filter)));
            }
        }
    })
}
