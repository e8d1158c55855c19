//! `GET /api/v1/workspaces/{id}/logs`: what a workspace printed, followed by a bounded number of readers.

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
use super::who::{Door, Who, find};
use crate::model::label::WorkspaceId;
use crate::model::name::Name;

/// How often it is checked whether a user may still follow a log: nginx caches an allowed request as long.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The endpoint.
pub(super) fn route() -> MethodRouter<Arc<App>> {
    get(logs).layer(Extension(Followers::default()))
}

#[derive(Deserialize)]
struct LogsQuery {
    #[serde(default = "hundred")]
    lines: usize,
    #[serde(default)]
    follow: bool,
}

fn hundred() -> usize {
    100
}

/// The most lines of a log that can be asked for.
const MAX_LINES: usize = 10_000;

/// How many logs a person can follow at a time: each is a connection to Podman, or a journalctl.
const MAX_FOLLOWED: usize = 8;

/// How many logs each person follows.
#[derive(Clone, Default)]
struct Followers(Arc<Mutex<BTreeMap<Name, usize>>>);

impl Followers {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<Name, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more for a person, for as long as what is returned lives. Whoever can open the socket has no limit.
    fn admit(&self, who: &Who) -> Result<Option<Follower>, Refusal> {
        let Who::Person { name, .. } = who else { return Ok(None) };
        let mut counts = self.counts();
        let count = counts.entry(name.clone()).or_default();
        if *count >= MAX_FOLLOWED {
            return Err(Refusal::TooManyLogs { most: MAX_FOLLOWED });
        }
        *count += 1;
        Ok(Some(Follower { followers: self.clone(), name: name.clone() }))
    }
}

/// Somebody who follows a log.
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
    who: Who,
    Shared(app): Shared<Arc<App>>,
    Extension(followers): Extension<Followers>,
    door: Door,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(asked): Query<LogsQuery>,
) -> Result<Response, ApiRefusal> {
    let view = find(&app, &who, &id)?;
    let follower = if asked.follow { followers.admit(&who)? } else { None };
    let lines = app.logs.logs(&view.id, asked.lines.min(MAX_LINES), asked.follow);
    let mut lines = lines.take_until(no_longer_sees(app, door, headers, view.id.clone()).boxed());
    let first = match lines.next().await {
        Some(Err(error)) => return Err(Refusal::Runtime(error).into()),
        first => stream::iter(first),
    };
    let lines = first.chain(lines);
    let text = lines.map(move |line| {
        // It counts until the reader leaves.
        let _ = &follower;
        line.map(|line| line + "\n").or_else(|error| Ok::<_, std::io::Error>(format!("{error}\n")))
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(text)).into_response())
}

/// Resolves when whoever asked may not see a workspace any more: signed out, removed, or no admin now.
async fn no_longer_sees(app: Arc<App>, door: Door, headers: HeaderMap, id: WorkspaceId) {
    while Who::of(&app, &door, &headers).is_ok_and(|who| who.sees(&id)) {
        tokio::time::sleep(RECHECK_INTERVAL).await;
    }
}
