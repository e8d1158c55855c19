//! The wake page: starts the workspace, shows its progress, and opens the editor.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Redirect, Response};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;

use super::app::App;
use super::context::{Context, provenance, session};
use super::error::Refusal;
use super::pages::{Wake, WakeStatus, page, part};
use crate::access::session::Session;
use crate::access::site::Site;
use crate::adapters::ready;
use crate::daemon::view::{Snapshot, View};
use crate::model::label::WorkspaceId;
use crate::model::workspace::State;
use crate::plan::{Cause, Verb};

/// For how many seconds visits show a failure and do not start the workspace again, so that reloads don't restart it repeatedly.
const SHOW_FAILURE_SECONDS: u64 = 30;

/// Responses to requests that are not navigations.
const NO_RESPONSE: &str = "code-server closed the connection without a response, or its response is invalid; check the address, or see the workspace's log\n";
const UNRESPONSIVE: &str = "code-server does not respond; see the workspace's log, or restart the workspace\n";
const NOT_RUNNING: &str = "the workspace is not running; open it in a browser to start it\n";

/// The workspace of this hostname and the owner's session. Fails for anyone else.
fn admitted(app: &App, context: &Context, headers: &HeaderMap) -> Result<(WorkspaceId, Session), Refusal> {
    let session = session(app, context, headers).ok_or(Refusal::SignedOut)?;
    let workspace = context.site.workspace().ok_or(Refusal::SignedOut)?.clone();
    if session.owner != workspace.owner {
        return Err(Refusal::SignedOut);
    }
    Ok((workspace, session))
}

fn view(app: &App, id: &WorkspaceId) -> Result<Arc<View>, Refusal> {
    let gone =
        || Refusal::NotFound("There is no longer a workspace at this address.".to_owned(), "Ask your administrator.");
    app.daemon.snapshot().workspaces.get(id).cloned().ok_or_else(gone)
}

/// For how many seconds after a start a visit that got no response shows the wake page, because code-server may have begun to listen
/// after nginx tried.
const START_SECONDS: u64 = 5;

/// nginx passes every allowed request here that code-server did not respond to. Only a browser's navigation starts the workspace.
pub(super) async fn wake(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (id, session) = admitted(&app, &context, &headers)?;
    let later = [(header::RETRY_AFTER, HeaderValue::from_static("2"))];
    let before = view(&app, &id)?;
    let responds = runs(&before) && ready::healthy(&app.layout.socket(&id)).await;
    // A page in another owner's workspace could show this hostname in a frame. Only the editor frames a port, and it runs then.
    let from = provenance(&headers);
    if !from.is_navigation() || !from.is_own(&context.origin) {
        let (status, text) = match (responds, runs(&before)) {
            (true, _) => (StatusCode::BAD_GATEWAY, NO_RESPONSE),
            (false, true) => (StatusCode::SERVICE_UNAVAILABLE, UNRESPONSIVE),
            (false, false) => (StatusCode::SERVICE_UNAVAILABLE, NOT_RUNNING),
        };
        return Ok((status, later, text).into_response());
    }
    if responds && app.now() >= before.at + START_SECONDS {
        // The wake page would find code-server ready and reload, again and again.
        return Err(Refusal::NoResponse);
    }
    let failed_just_now = before.state == State::Failed && app.now() < before.at + SHOW_FAILURE_SECONDS;
    if !failed_just_now {
        start_workspace(&app, &id, &session).await?;
    }
    let after = view(&app, &id)?;
    let manifest = app.manifest();
    let dashboard = match context.site {
        // A browser at the end of a tunnel may not reach the dashboard.
        Site::Loopback(_) => String::new(),
        _ => format!("{}/", manifest.dashboard_origin()),
    };
    let label = format!("{id}.{}", manifest.domain);
    let template = Wake { prefix: "/_csm", label: &label, dashboard: &dashboard, status: WakeStatus { view: &after } };
    Ok((later, page(StatusCode::SERVICE_UNAVAILABLE, &template)).into_response())
}

async fn start_workspace(app: &App, id: &WorkspaceId, session: &Session) -> Result<(), Refusal> {
    let gone =
        |_| Refusal::NotFound("There is no longer a workspace at this address.".to_owned(), "Ask your administrator.");
    app.daemon.request(id.clone(), Verb::Start, Cause::Opened(session.owner.clone())).await.map_err(gone)
}

/// `POST /_csm/start`: the button of the wake page after a failure.
pub(super) async fn start(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Redirect, Refusal> {
    let (id, session) = admitted(&app, &context, &headers)?;
    if !provenance(&headers).is_own(&context.origin) {
        return Err(Refusal::CrossSite);
    }
    start_workspace(&app, &id, &session).await?;
    Ok(Redirect::to("/"))
}

fn runs(view: &View) -> bool {
    matches!(view.state, State::Running { .. })
}

/// Waits until code-server responds. `false` if the workspace stops before that, `None` if the daemon's loop ends.
async fn editor_responds(app: &App, id: &WorkspaceId, snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Option<bool> {
    let socket = app.layout.socket(id);
    tokio::select! {
        () = ready::answers(&socket) => Some(true),
        ended = snapshots.wait_for(|now| !now.workspaces.get(id).is_some_and(|view| runs(view))) => ended.ok().map(|_| false),
    }
}

/// `GET /_csm/events`: the wake page's progress. The last event is `ready`.
pub(super) async fn events(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let (id, session) = admitted(&app, &context, &headers)?;
    if !provenance(&headers).is_own(&context.origin) {
        return Err(Refusal::CrossSite);
    }
    let reader = app.wake_events.admit(&session.owner)?;
    let snapshots = app.daemon.follow();
    let last_sent: Option<Arc<View>> = None;
    let events = stream::unfold(
        (app, id, snapshots, last_sent, false),
        |(app, id, mut snapshots, mut last_sent, finished)| async move {
            if finished {
                return None;
            }
            loop {
                let view = snapshots.borrow_and_update().workspaces.get(&id).cloned();
                match view {
                    Some(view) if runs(&view) => {
                        if !editor_responds(&app, &id, &mut snapshots).await? {
                            continue;
                        }
                        return Some((
                            Ok(Event::default().event("ready").data("now")),
                            (app, id, snapshots, last_sent, true),
                        ));
                    }
                    Some(view) if last_sent.as_ref() != Some(&view) => {
                        let html = part(&WakeStatus { view: &view });
                        last_sent = Some(view);
                        return Some((
                            Ok(Event::default().event("part").data(html)),
                            (app, id, snapshots, last_sent, false),
                        ));
                    }
                    Some(_) => {}
                    None => return None,
                }
                snapshots.changed().await.ok()?;
            }
        },
    );
    let events = events.map(move |event| {
        // The stream is counted until the page disconnects.
        let _ = &reader;
        event
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
