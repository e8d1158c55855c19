//! The API: for programs over the unix socket, and for signed-in people. [`ENDPOINTS`] is the one place that knows it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::app::App;
use super::error::{ApiRefusal, Refusal};
use super::logs;
use super::who::{Operator, Who, find, find_in};
use crate::adapters::machine::machine;
use crate::adapters::preflight::check_files;
use crate::daemon::Measure;
use crate::daemon::view::{Snapshot, View};
use crate::model::container::container_spec;
use crate::model::issue::{Issue, has_errors};
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;
use crate::plan::{Actor, Cause, Verb};

/// One thing that the API does.
pub struct Endpoint {
    method: &'static str,
    path: &'static str,
    about: &'static str,
    answer: &'static str,
    /// Whether it is on the unix socket alone.
    socket_only: bool,
    route: fn() -> MethodRouter<Arc<App>>,
}

/// How long `?wait=true` waits. A big image may take longer.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

const ACTED: &str = "`200`: the workspace; with `?wait=true` only when it has settled (running, frozen, stopped or failed), or after 10 minutes, with `settled` false. `404`: there is no such workspace.";

/// All of it.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: "/api/v1/workspaces",
        about: "The workspaces that the asker may see: their own, or for admins and on the socket everyone's. With `?measure=true` also what each uses; otherwise that is known only while somebody looks at a dashboard.",
        answer: "`200`: a list of workspaces.",
        socket_only: false,
        route: || get(list),
    },
    Endpoint {
        method: "GET",
        path: "/api/v1/workspaces/{id}",
        about: "One workspace. `id` is the owner's name, as in `dan`.",
        answer: "`200`: the workspace. `404`: there is none, or it is not the asker's to see.",
        socket_only: false,
        route: || get(show),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/start",
        about: "Lets it run; one that is frozen goes on. Nothing happens when it runs already.",
        answer: ACTED,
        socket_only: false,
        route: || post(|who: Who, app, id, query| change(who, app, id, query, "start")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/freeze",
        about: "Holds all its processes where they are, if it runs: it uses no CPU and keeps its memory. A start or its owner's next visit lets it go on.",
        answer: ACTED,
        socket_only: false,
        route: || post(|who: Who, app, id, query| change(who, app, id, query, "freeze")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/stop",
        about: "Lets it not run. What runs in it gets SIGTERM, and SIGKILL after 10 s.",
        answer: ACTED,
        socket_only: false,
        route: || post(|who: Who, app, id, query| change(who, app, id, query, "stop")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/restart",
        about: "Stops it and starts it as the manifest now says.",
        answer: ACTED,
        socket_only: false,
        route: || post(|who: Who, app, id, query| change(who, app, id, query, "restart")),
    },
    Endpoint {
        method: "GET",
        path: "/api/v1/workspaces/{id}/logs",
        about: "What it printed: the last `?lines=` (default 100, at most 10,000); with `?follow=true` also what comes, until the reader leaves or may not see it any more. Of a line longer than 4 KiB it says how many bytes were cut; what terminals obey is shown as its number, such as `\\u{1b}`.",
        answer: "`200`: plain text. `404`: it has not run yet. `429`: this user follows 8 logs already. `500`, `503`, `504`: Podman or the journal refused, can't be reached, or did not respond within 20 s.",
        socket_only: false,
        route: || logs::route(),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/plan",
        about: "What the manifest in the body would change, without changing it.",
        answer: "`200`: `{\"issues\": […], \"changes\": [{\"workspace\": …, \"change\": …}]}`. With errors among the issues there are no changes.",
        socket_only: true,
        route: || post(plan),
    },
    Endpoint {
        method: "GET",
        path: "/healthz",
        about: "Whether the daemon works.",
        answer: "`200`: `ok`. `503`: what does not.",
        socket_only: true,
        route: || get(health),
    },
    Endpoint {
        method: "GET",
        path: "/metrics",
        about: "Figures for Prometheus. With `?measure=true` also what each workspace uses.",
        answer: "`200`: the text format, version 0.0.4.",
        socket_only: true,
        route: || get(metrics),
    },
];

/// The API for signed-in people.
pub(super) fn person_routes() -> Router<Arc<App>> {
    let theirs = ENDPOINTS.iter().filter(|endpoint| !endpoint.socket_only);
    theirs.fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.route)()))
}

/// The API on the socket.
pub(super) fn operator_routes() -> Router<Arc<App>> {
    let router =
        ENDPOINTS.iter().fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.route)()));
    router
        .fallback(|| async { ApiRefusal::from(Refusal::NotFound("See docs/api.md for what there is.".to_owned())) })
        .layer(Extension(Operator))
}

/// `docs/api.md`'s list of endpoints.
pub fn reference() -> String {
    ENDPOINTS.iter().fold(String::new(), |mut text, endpoint| {
        let only = if endpoint.socket_only { " (socket only)" } else { "" };
        let _ = write!(
            text,
            "### `{} {}`{only}\n\n{}\n\n{}\n\n",
            endpoint.method, endpoint.path, endpoint.about, endpoint.answer
        );
        text
    })
}

/// Starts, freezes, stops or restarts a workspace for somebody who may.
pub(super) async fn act(app: &App, who: &Who, id: &str, verb: &str) -> Result<(), Refusal> {
    let view = find(app, who, id)?;
    let (verb, past) = match verb {
        "start" => (Verb::Start, "started"),
        "freeze" => (Verb::Freeze, "frozen"),
        "stop" => (Verb::Stop, "stopped"),
        "restart" => (Verb::Restart, "restarted"),
        _ => return Err(Refusal::NotFound("A workspace can be started, frozen, stopped and restarted.".to_owned())),
    };
    tracing::info!(workspace = %view.id, by = %who, past);
    let actor = match who {
        Who::Person { name, .. } => Actor::User(name.clone()),
        Who::Operator => Actor::CommandLine,
    };
    let gone = |_| Refusal::NotFound("It has just gone from the manifest.".to_owned());
    app.daemon.act(view.id.clone(), verb, Cause::Requested(verb, actor)).await.map_err(gone)
}

#[derive(Deserialize)]
struct Measured {
    #[serde(default)]
    measure: bool,
}

/// The newest picture; with `measure`, one that tells what running workspaces use.
async fn snapshot(app: &App, measure: bool) -> Arc<Snapshot> {
    let mut snapshot = app.daemon.snapshot();
    if measure {
        let mut watching = app.daemon.watch(Measure::Usage);
        let measured =
            |snapshot: &Snapshot| snapshot.workspaces.values().all(|view| view.usage.is_some() || !view.state.is_up());
        let wait = async {
            while !measured(&snapshot) {
                let Some(next) = watching.changed().await else { break };
                snapshot = next;
            }
        };
        // What could not be measured in time is told as unknown.
        let _ = tokio::time::timeout(Duration::from_secs(2), wait).await;
    }
    snapshot
}

async fn list(who: Who, Shared(app): Shared<Arc<App>>, Query(asked): Query<Measured>) -> Json<Vec<Arc<View>>> {
    let snapshot = snapshot(&app, asked.measure).await;
    Json(snapshot.workspaces.values().filter(|view| who.sees(&view.id)).cloned().collect())
}

async fn show(who: Who, Shared(app): Shared<Arc<App>>, Path(id): Path<String>) -> Result<Json<Arc<View>>, ApiRefusal> {
    Ok(Json(find(&app, &who, &id)?))
}

#[derive(Deserialize)]
struct WaitQuery {
    #[serde(default)]
    wait: bool,
}

async fn change(
    who: Who,
    Shared(app): Shared<Arc<App>>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
    verb: &'static str,
) -> Result<Json<Arc<View>>, ApiRefusal> {
    act(&app, &who, &id, verb).await?;
    if query.wait {
        let mut snapshots = app.daemon.follow();
        let settled = |snapshot: &Arc<Snapshot>| find_in(snapshot, &who, &id).is_none_or(|view| view.settled);
        if let Ok(ended) = tokio::time::timeout(WAIT_LIMIT, snapshots.wait_for(settled)).await {
            // When the daemon's loop ends, nothing settles any more.
            ended.map_err(|_| Refusal::Internal)?;
        }
    }
    Ok(Json(find(&app, &who, &id)?))
}

/// What a manifest would change.
#[derive(Serialize)]
struct Planned {
    issues: Vec<Issue>,
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Change {
    workspace: String,
    change: &'static str,
}

async fn plan(Shared(app): Shared<Arc<App>>, text: String) -> Json<Planned> {
    let (manifest, mut issues) = Manifest::parse(&text, &machine());
    issues.extend(manifest.iter().flat_map(check_files));
    let manifest = manifest.filter(|_| !has_errors(&issues));
    let changes = manifest.map(|next| changes(&app, &next)).unwrap_or_default();
    Json(Planned { issues, changes })
}

fn changes(app: &App, next: &Manifest) -> Vec<Change> {
    let now = app.manifest();
    let snapshot = app.daemon.snapshot();
    let running = |id: &WorkspaceId| snapshot.workspaces.get(id).is_some_and(|view| view.state.is_up());
    let mut changes = Vec::new();
    for (id, workspace) in &next.workspaces {
        let change = match now.workspaces.get(id) {
            None => "added",
            Some(before) => {
                let spec = |manifest, workspace| container_spec(manifest, workspace, &app.layout).digest();
                let same = spec(&now, before) == spec(next, workspace);
                match (same, running(id)) {
                    (true, _) => continue,
                    (false, true) => "changed; takes effect at its next start",
                    (false, false) => "changed",
                }
            }
        };
        changes.push(Change { workspace: id.to_string(), change });
    }
    for id in now.workspaces.keys().filter(|id| !next.workspaces.contains_key(id)) {
        let change = if running(id) { "removed; it is stopped, its files stay" } else { "removed; its files stay" };
        changes.push(Change { workspace: id.to_string(), change });
    }
    changes
}

async fn health(Shared(app): Shared<Arc<App>>) -> Response {
    let mut wrong = app.daemon.snapshot().alarms.clone();
    if !app.state.healthy().await {
        wrong.push("the state database can't be read or written; see the log, and whether its disk is full".to_owned());
    }
    if wrong.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n") + "\n").into_response()
    }
}

async fn metrics(Shared(app): Shared<Arc<App>>, Query(asked): Query<Measured>) -> Response {
    let snapshot = snapshot(&app, asked.measure).await;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: u64| std::iter::once((String::new(), value));
    let each = |pick: fn(&View) -> Option<u64>| {
        snapshot
            .workspaces
            .values()
            .filter_map(move |view| Some((format!("{{workspace=\"{}\"}}", view.id), pick(view)?)))
            .collect::<Vec<_>>()
            .into_iter()
    };
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("csm_build_info", "gauge", "The version that runs.", &mut std::iter::once((version, 1)));
    let mut states = snapshot
        .workspaces
        .values()
        .map(|view| (format!("{{workspace=\"{}\",state=\"{}\"}}", view.id, view.state.word()), 1));
    family("csm_workspace_state", "gauge", "1 for the state that a workspace is in.", &mut states);
    family(
        "csm_workspace_memory_limit_bytes",
        "gauge",
        "The hard memory limit.",
        &mut each(|view| Some(view.limits.memory.get())),
    );
    family(
        "csm_workspace_memory_bytes",
        "gauge",
        "Memory used (PSS); measured when asked for, or while a dashboard is open.",
        &mut each(|view| view.usage.map(|usage| usage.memory)),
    );
    family("csm_alarms", "gauge", "Things an admin must see to.", &mut one(snapshot.alarms.len() as u64));
    family("csm_sessions", "gauge", "Sign-ins that are still good.", &mut one(app.access().sessions.len() as u64));
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    family("csm_sign_ins_total", "counter", "Passwords accepted.", &mut one(count(&app.counters.signed_in)));
    family("csm_sign_ins_refused_total", "counter", "Passwords refused.", &mut one(count(&app.counters.refused)));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
