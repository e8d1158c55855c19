//! `GET /api/v1/workspaces/{id}/logs`: a workspace's log, which a limited number of readers can follow.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use futures_util::stream;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;

use super::app::App;
use super::error::{ApiRefusal, Refusal};
use super::requester::{Channel, Requester, find, no_longer};

/// The endpoint's route.
pub(super) fn route() -> MethodRouter<Arc<App>> {
    get(logs)
}

#[derive(Deserialize)]
struct LogsQuery {
    #[serde(default = "default_lines")]
    lines: usize,
    #[serde(default)]
    follow: bool,
}

fn default_lines() -> usize {
    100
}

/// The maximum for `lines`.
const MAX_LINES: usize = 10_000;

async fn logs(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    channel: Channel,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, ApiRefusal> {
    let (Path(id), Query(query)) = (id?, query?);
    let view = find(&app, &requester, &id)?;
    let follower = match &requester {
        Requester::User { name, .. } if query.follow => Some(app.followed_logs.admit(name)?),
        _ => None,
    };
    let lines = app.logs.logs(&view.id, query.lines.min(MAX_LINES), query.follow);
    // They signed out, were removed, or are not an admin any more.
    let id = view.id.clone();
    let access_revoked = no_longer(app, channel, headers, move |now| now.may_see(&id)).boxed();
    let mut lines = lines.take_until(access_revoked);
    let first = match lines.next().await {
        Some(Err(error)) => return Err(Refusal::Runtime(error).into()),
        first => stream::iter(first),
    };
    let lines = first.chain(lines);
    let text = lines.map(move |line| {
        // The log is counted until the reader disconnects.
        let _ = &follower;
        line.map(|line| line + "\n").or_else(|error| Ok::<_, std::io::Error>(format!("{error}\n")))
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(text)).into_response())
}
