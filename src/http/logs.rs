//! `GET /api/v1/workspaces/{id}/logs`: a workspace's log, which a limited number of readers can follow.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use futures_util::stream;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;

use super::app::App;
use super::error::{ApiRefusal, Refusal};
use super::requester::{Channel, Requester, find};
use crate::model::label::WorkspaceId;
use crate::model::name::Name;

/// How often to check whether a user may still follow a log. nginx caches allowed requests for the same time.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The endpoint's route.
pub(super) fn route() -> MethodRouter<Arc<App>> {
    get(logs).layer(Extension(Followers::default()))
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

/// How many logs a user can follow at a time: each needs a connection to Podman, or a journalctl process.
const MAX_FOLLOWED: usize = 8;

/// The number of logs that each user follows.
#[derive(Clone, Default)]
struct Followers(Arc<Mutex<BTreeMap<Name, usize>>>);

impl Followers {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<Name, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more log for a user, until the returned value is dropped. There is no limit for requests on the API's socket.
    fn admit(&self, requester: &Requester) -> Result<Option<Follower>, Refusal> {
        let Requester::User { name, .. } = requester else { return Ok(None) };
        let mut counts = self.counts();
        let count = counts.entry(name.clone()).or_default();
        if *count >= MAX_FOLLOWED {
            return Err(Refusal::TooManyLogs { max: MAX_FOLLOWED });
        }
        *count += 1;
        Ok(Some(Follower { followers: self.clone(), name: name.clone() }))
    }
}

/// A log that a user follows.
struct Follower {
    followers: Followers,
    name: Name,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut counts = self.followers.counts();
        if let Entry::Occupied(mut count) = counts.entry(self.name.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

async fn logs(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    Extension(followers): Extension<Followers>,
    channel: Channel,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, ApiRefusal> {
    let view = find(&app, &requester, &id)?;
    let follower = if query.follow { followers.admit(&requester)? } else { None };
    let lines = app.logs.logs(&view.id, query.lines.min(MAX_LINES), query.follow);
    let mut lines = lines.take_until(access_revoked(app, channel, headers, view.id.clone()).boxed());
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

/// Resolves when the requester may no longer see a workspace: they signed out, were removed, or are not an admin any more.
async fn access_revoked(app: Arc<App>, channel: Channel, headers: HeaderMap, id: WorkspaceId) {
    while Requester::of(&app, &channel, &headers).is_ok_and(|requester| requester.may_see(&id)) {
        tokio::time::sleep(RECHECK_INTERVAL).await;
    }
}
