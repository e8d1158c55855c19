//! The API: for programs on the unix socket, and for signed-in users on the dashboard's hostname. [`ENDPOINTS`] defines it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection, StringRejection};
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::app::App;
use super::error::{ApiRefusal, Refusal, wrong_method};
use super::requester::{Operator, Requester, find, find_in};
use super::{events, logs};
use crate::adapters::files::MAX_MANIFEST;
use crate::adapters::machine::machine;
use crate::adapters::preflight::check_files;
use crate::daemon::Measure;
use crate::daemon::view::{Snapshot, View};
use crate::model::container::container_spec;
use crate::model::event::{Fact, Kind};
use crate::model::issue::{Issue, has_errors};
use crate::model::label::WorkspaceId;
use crate::model::manifest::Manifest;
use crate::model::span::Span;
use crate::plan::{Cause, Verb};
use crate::ports::RuntimeError;

/// An endpoint of the API.
pub struct Endpoint {
    method: &'static str,
    path: &'static str,
    about: &'static str,
    response: &'static str,
    /// Whether only the unix socket has it.
    socket_only: bool,
    route: fn() -> MethodRouter<Arc<App>>,
}

/// How long `?wait=true` waits. Pulling a big image may take longer.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the dashboard's button keeps a workspace.
const BUTTON_KEEPS: &str = "2h";

const ACTION_RESPONSE: &str = "`200`: the workspace; with `?wait=true` only when it has settled (running, frozen, stopped or failed), or after 10 minutes, with `settled` false. `404`: there is no such workspace.";

/// All endpoints.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: "/api/v1/workspaces",
        about: "The workspaces that the requester may see: their own, or all for admins and on the socket. With `?measure=true` also what each uses; otherwise that is known only while a dashboard is open.",
        response: "`200`: a list of workspaces.",
        socket_only: false,
        route: || get(list),
    },
    Endpoint {
        method: "GET",
        path: "/api/v1/workspaces/{id}",
        about: "One workspace. `id` is the owner's name, as in `dan`.",
        response: "`200`: the workspace. `404`: there is none, or the requester may not see it.",
        socket_only: false,
        route: || get(show),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/start",
        about: "Starts the workspace, or thaws it if it is frozen. Does nothing if it is already running.",
        response: ACTION_RESPONSE,
        socket_only: false,
        route: || post(|requester: Requester, app, id, query| change(requester, app, id, query, "start")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/freeze",
        about: "Freezes all processes of a running workspace: it uses no CPU and keeps its memory. A start or its owner's next visit thaws it.",
        response: ACTION_RESPONSE,
        socket_only: false,
        route: || post(|requester: Requester, app, id, query| change(requester, app, id, query, "freeze")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/stop",
        about: "Stops the workspace. Its processes get SIGTERM, and SIGKILL after 10 s.",
        response: ACTION_RESPONSE,
        socket_only: false,
        route: || post(|requester: Requester, app, id, query| change(requester, app, id, query, "stop")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/restart",
        about: "Stops the workspace and starts it with the current manifest's settings.",
        response: ACTION_RESPONSE,
        socket_only: false,
        route: || post(|requester: Requester, app, id, query| change(requester, app, id, query, "restart")),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/workspaces/{id}/keep",
        about: "Keeps the workspace from being frozen or stopped for idleness for `?for=`, such as `2h`; `0s` ends that. At most `autostop.maxLease`.",
        response: "`200`: the workspace. `400`: the time is not a span, or is too long. `404`: there is no such workspace. `409`: it does not run.",
        socket_only: false,
        route: || post(keep),
    },
    Endpoint {
        method: "GET",
        path: "/api/v1/workspaces/{id}/logs",
        about: "The workspace's log: the last `?lines=` (default 100, at most 10,000); with `?follow=true` also new lines, until the reader disconnects or may no longer see the workspace. A line longer than 4 KiB is cut, and ends with the number of bytes left out. Control characters are shown as their code, such as `\\u{1b}`.",
        response: "`200`: plain text. `404`: it has not run yet. `429`: this user follows 8 logs already. `500`, `503`, `504`: Podman or the journal refused, can't be reached, or did not respond within 20 s.",
        socket_only: false,
        route: || logs::route(),
    },
    Endpoint {
        method: "GET",
        path: "/api/v1/events",
        about: "What happened: the last `?limit=` events (default 100, at most 1000), oldest first; see `docs/events.md`. Users get those of their own workspaces and sign-ins, admins and the socket get all. `?workspace=` and `?since=`, in seconds since 1970, leave out others. With `?follow=true` new events follow until the reader disconnects, may see other events than before, or is more than 1024 events behind.",
        response: "`200`: lines of JSON, each an event. `400`: a value is invalid. `404`: the requester may not see the workspace. `429`: this user follows events 32 times already.",
        socket_only: false,
        route: || events::route(),
    },
    Endpoint {
        method: "POST",
        path: "/api/v1/plan",
        about: "What the manifest in the body would change, without applying it.",
        response: "`200`: `{\"issues\": […], \"changes\": [{\"workspace\": …, \"change\": …}]}`. With errors among the issues there are no changes.",
        socket_only: true,
        route: || post(plan).layer(DefaultBodyLimit::max(MAX_MANIFEST)),
    },
    Endpoint {
        method: "GET",
        path: "/healthz",
        about: "Whether the daemon and its state database work.",
        response: "`200`: `ok`. `503`: what does not work, one line each.",
        socket_only: true,
        route: || get(health),
    },
    Endpoint {
        method: "GET",
        path: "/metrics",
        about: "Metrics for Prometheus. With `?measure=true` also what each workspace uses.",
        response: "`200`: the text format, version 0.0.4.",
        socket_only: true,
        route: || get(metrics),
    },
];

/// The API's routes for signed-in users.
pub(super) fn user_routes() -> Router<Arc<App>> {
    let shared = ENDPOINTS.iter().filter(|endpoint| !endpoint.socket_only);
    routes(shared)
}

fn routes<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Router<Arc<App>> {
    let router = endpoints.fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.route)()));
    router.method_not_allowed_fallback(async |method| ApiRefusal::from(wrong_method(method).await))
}

/// The API's routes on the socket.
pub(super) fn operator_routes() -> Router<Arc<App>> {
    routes(ENDPOINTS.iter())
        .fallback(|| async {
            ApiRefusal::from(Refusal::NotFound(
                "There is no such endpoint.".to_owned(),
                "See docs/api.md for the list.",
            ))
        })
        .layer(Extension(Operator))
}

/// The list of endpoints in `docs/api.md`.
pub fn reference() -> String {
    ENDPOINTS.iter().fold(String::new(), |mut text, endpoint| {
        let only = if endpoint.socket_only { " (socket only)" } else { "" };
        let _ = write!(
            text,
            "### `{} {}`{only}\n\n{}\n\n{}\n\n",
            endpoint.method, endpoint.path, endpoint.about, endpoint.response
        );
        text
    })
}

/// Starts, freezes, stops, restarts or keeps a workspace, if the requester may see it.
pub(super) async fn act(app: &App, requester: &Requester, id: &str, verb: &str) -> Result<(), Refusal> {
    if verb == "keep" {
        return keep_for(app, requester, id, BUTTON_KEEPS).await;
    }
    let view = find(app, requester, id)?;
    let verb = match verb {
        "start" => Verb::Start,
        "freeze" => Verb::Freeze,
        "stop" => Verb::Stop,
        "restart" => Verb::Restart,
        _ => {
            let what = "There is no such action.".to_owned();
            return Err(Refusal::NotFound(what, "A workspace can be started, frozen, stopped, restarted and kept."));
        }
    };
    let actor = requester.actor();
    let gone = |_| {
        let what = "The workspace has just been removed from the manifest.".to_owned();
        Refusal::NotFound(what, "Ask your administrator.")
    };
    app.daemon.request(view.id.clone(), verb, Cause::Requested(verb, actor)).await.map_err(gone)
}

#[derive(Deserialize)]
struct MeasureQuery {
    #[serde(default)]
    measure: bool,
}

/// The newest snapshot; with `measure`, one that contains what running workspaces use.
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
        // What is not measured in time remains unknown.
        let _ = tokio::time::timeout(Duration::from_secs(2), wait).await;
    }
    snapshot
}

async fn list(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    query: Result<Query<MeasureQuery>, QueryRejection>,
) -> Result<Json<Vec<Arc<View>>>, ApiRefusal> {
    let Query(query) = query?;
    let snapshot = snapshot(&app, query.measure).await;
    Ok(Json(snapshot.workspaces.values().filter(|view| requester.may_see(&view.id)).cloned().collect()))
}

async fn show(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Arc<View>>, ApiRefusal> {
    let Path(id) = id?;
    Ok(Json(find(&app, &requester, &id)?))
}

#[derive(Deserialize)]
struct WaitQuery {
    #[serde(default)]
    wait: bool,
}

async fn change(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<WaitQuery>, QueryRejection>,
    verb: &'static str,
) -> Result<Json<Arc<View>>, ApiRefusal> {
    let (Path(id), Query(query)) = (id?, query?);
    act(&app, &requester, &id, verb).await?;
    if query.wait {
        let mut snapshots = app.daemon.follow();
        let settled = |snapshot: &Arc<Snapshot>| find_in(snapshot, &requester, &id).is_none_or(|view| view.settled);
        if let Ok(outcome) = tokio::time::timeout(WAIT_TIMEOUT, snapshots.wait_for(settled)).await {
            // An error means that the daemon's loop has ended, so the workspace will never settle.
            outcome.map_err(|_| Refusal::Internal)?;
        }
    }
    Ok(Json(find(&app, &requester, &id)?))
}

#[derive(Deserialize)]
struct KeepQuery {
    #[serde(rename = "for", default)]
    time: String,
}

async fn keep(
    requester: Requester,
    Shared(app): Shared<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<KeepQuery>, QueryRejection>,
) -> Result<Json<Arc<View>>, ApiRefusal> {
    let (Path(id), Query(query)) = (id?, query?);
    keep_for(&app, &requester, &id, &query.time).await?;
    Ok(Json(find(&app, &requester, &id)?))
}

fn not_a_time(problem: String) -> Refusal {
    let fix = "Write it as 30m, 2h or 1h30m, at most autostop.maxLease.";
    Refusal::Malformed { status: StatusCode::BAD_REQUEST, problem, fix }
}

/// Keeps a workspace for some time, if the requester may see it.
pub(super) async fn keep_for(app: &App, requester: &Requester, id: &str, time: &str) -> Result<(), Refusal> {
    let view = find(app, requester, id)?;
    let time = match time {
        "0s" => Duration::ZERO,
        time => time.parse::<Span>().map_err(|invalid| not_a_time(format!("\"for\" is {}.", invalid.problem)))?.get(),
    };
    if !view.state.is_up() {
        return Err(Refusal::Runtime(RuntimeError::NotRunning(format!(
            "can't keep {}: it does not run; start it first",
            view.id
        ))));
    }
    let kept = app.daemon.keep(view.id.clone(), time, format!("kept by {}", requester.actor())).await;
    kept.map_err(|refused| not_a_time(refused.to_string()))?;
    let kept = Fact::of_workspace(view.id.clone(), Kind::Kept { seconds: time.as_secs() });
    app.daemon.record(kept.by(Some(requester.actor())));
    Ok(())
}

/// What a manifest would change.
#[derive(Serialize)]
struct PlanResponse {
    issues: Vec<Issue>,
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Change {
    workspace: String,
    change: &'static str,
}

async fn plan(
    Shared(app): Shared<Arc<App>>,
    text: Result<String, StringRejection>,
) -> Result<Json<PlanResponse>, ApiRefusal> {
    let text = text?;
    let (manifest, mut issues) = Manifest::parse(&text, &machine());
    issues.extend(manifest.iter().flat_map(check_files));
    let manifest = manifest.filter(|_| !has_errors(&issues));
    let changes = manifest.map(|next| changes(&app, &next)).unwrap_or_default();
    Ok(Json(PlanResponse { issues, changes }))
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
    let mut problems = app.daemon.snapshot().alarms.clone();
    if !app.state.healthy().await {
        problems.push("can't read or write the state database; check the log, and whether its disk is full".to_owned());
    }
    if problems.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
    }
}

async fn metrics(
    Shared(app): Shared<Arc<App>>,
    query: Result<Query<MeasureQuery>, QueryRejection>,
) -> Result<Response, ApiRefusal> {
    let Query(query) = query?;
    let snapshot = snapshot(&app, query.measure).await;
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
    family("csm_build_info", "gauge", "The running version.", &mut std::iter::once((version, 1)));
    let mut states = snapshot
        .workspaces
        .values()
        .map(|view| (format!("{{workspace=\"{}\",state=\"{}\"}}", view.id, view.state.word()), 1));
    family("csm_workspace_state", "gauge", "1 for a workspace's current state.", &mut states);
    family(
        "csm_workspace_memory_limit_bytes",
        "gauge",
        "The hard memory limit.",
        &mut each(|view| Some(view.limits.memory.get())),
    );
    family(
        "csm_workspace_memory_bytes",
        "gauge",
        "Memory used (PSS); measured with ?measure=true, or while a dashboard is open.",
        &mut each(|view| view.usage.map(|usage| usage.memory)),
    );
    family("csm_alarms", "gauge", "Problems that an admin must fix.", &mut one(snapshot.alarms.len() as u64));
    family("csm_sessions", "gauge", "Sessions that have not expired.", &mut one(app.access().sessions.len() as u64));
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    family("csm_sign_ins_total", "counter", "Passwords accepted.", &mut one(count(&app.counters.signed_in)));
    family("csm_sign_ins_refused_total", "counter", "Passwords refused.", &mut one(count(&app.counters.refused)));
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
