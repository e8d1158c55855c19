//! The dashboard: shows users their own workspaces, and admins all workspaces.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use super::api;
use super::app::App;
use super::chart::charts;
use super::context::{Context, provenance, session};
use super::error::{Refusal, no_such_page, wrong_method};
use super::events::newest;
use super::pages::{Card, Dashboard, Log, Notices, Timeline, files, page, part};
use super::requester::{Requester, find};
use super::streams::Reader;
use super::{handshake, sign_in};
use crate::access::session::Session;
use crate::daemon::Measure;
use crate::daemon::Watcher;
use crate::daemon::view::{Snapshot, View};
use crate::model::event::Filter;
use crate::model::label::WorkspaceId;
use crate::model::printed::Tail;

/// The limits of a log's page, in lines and in bytes. With its HTML the page has at most 256 KiB.
const MAX_LOG_LINES: usize = 200;
const MAX_LOG_BYTES: usize = 252 << 10;

/// The most events on a workspace's page of events.
const MAX_EVENTS: usize = 100;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(dashboard))
        .route("/sign-in", get(sign_in::form).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/open", get(handshake::open))
        .route("/events", get(events))
        .route("/workspaces/{id}/log", get(log))
        .route("/workspaces/{id}/events", get(timeline))
        .route("/workspaces/{id}/{verb}", post(act))
        .merge(api::user_routes())
        .merge(files(""))
        .merge(files("/_csm"))
        .fallback(no_such_page)
        .method_not_allowed_fallback(wrong_method)
}

/// A signed-in visitor of the dashboard, whose request comes from csm's own pages or is a visit.
#[derive(Clone)]
struct Visitor {
    session: Session,
    admin: bool,
    csrf: String,
}

impl Visitor {
    fn of(app: &App, context: &Context, headers: &HeaderMap) -> Result<Self, Refusal> {
        let session = session(app, context, headers).ok_or(Refusal::SignedOut)?;
        if !provenance(headers).is_own(&context.origin) {
            return Err(Refusal::CrossSite);
        }
        let admin = app.manifest.borrow().owners.get(&session.owner).is_some_and(|owner| owner.admin);
        let csrf = app.key.sign(&["csrf", &session.id]);
        Ok(Self { session, admin, csrf })
    }

    fn requester(&self) -> Requester {
        Requester::User { name: self.session.owner.clone(), admin: self.admin }
    }

    /// The workspaces that the visitor may see: their own first, then by name.
    fn visible<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Arc<View>> {
        let requester = self.requester();
        let mut views: Vec<_> = snapshot.workspaces.values().filter(|view| requester.may_see(&view.id)).collect();
        views.sort_by_key(|view| view.id.owner != self.session.owner);
        views
    }

    fn card<'a>(&'a self, app: &App, view: &'a View, snapshot: &Snapshot) -> Card<'a> {
        let own = view.id.owner == self.session.owner;
        Card { view, csrf: &self.csrf, own, now: app.now(), disk_free: snapshot.disk_free }
    }

    fn notices<'a>(&self, snapshot: &'a Snapshot) -> Notices<'a> {
        // Only admins see alarms and limits that are not enforced, because they administer the host.
        if self.admin {
            Notices { alarms: &snapshot.alarms, notes: &snapshot.notes }
        } else {
            Notices { alarms: &[], notes: &[] }
        }
    }
}

async fn dashboard(Shared(app): Shared<Arc<App>>, context: Context, headers: HeaderMap) -> Result<Response, Refusal> {
    let visitor = match Visitor::of(&app, &context, &headers) {
        Err(Refusal::SignedOut) => return Ok(Redirect::to("/sign-in").into_response()),
        visitor => visitor?,
    };
    let snapshot = app.daemon.snapshot();
    let manifest = app.manifest();
    let cards = visitor.visible(&snapshot).into_iter().map(|view| visitor.card(&app, view, &snapshot)).collect();
    let template = Dashboard {
        prefix: "",
        domain: manifest.domain.as_str(),
        owner: visitor.session.owner.as_str(),
        admin: visitor.admin,
        cards,
        notices: visitor.notices(&snapshot),
    };
    Ok(page(StatusCode::OK, &template))
}

#[derive(Deserialize)]
struct CsrfQuery {
    #[serde(default)]
    csrf: String,
}

/// A button of the dashboard. Its token is in the address, because nginx passes no body except the sign-in form's.
async fn act(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<CsrfQuery>, QueryRejection>,
) -> Result<Redirect, Refusal> {
    let (Path((id, verb)), Query(query)) = (path?, query?);
    let visitor = Visitor::of(&app, &context, &headers)?;
    if !app.key.verify(&["csrf", &visitor.session.id], &query.csrf) {
        return Err(Refusal::CrossSite);
    }
    api::act(&app, &visitor.requester(), &id, &verb).await?;
    Ok(Redirect::to("/"))
}

async fn log(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(id) = id?;
    let visitor = Visitor::of(&app, &context, &headers)?;
    let view = find(&app, &visitor.requester(), &id)?;
    let lines = app.logs.logs(&view.id, MAX_LOG_LINES, false).fold(Tail::new(MAX_LOG_BYTES), async |mut tail, line| {
        tail.push(line.unwrap_or_else(|error| error.to_string()));
        tail
    });
    let (id, lines) = (view.id.to_string(), lines.await.into_lines());
    Ok(page(StatusCode::OK, &Log { prefix: "", id: &id, lines: &lines }))
}

/// A workspace's last events, with the pictures of what it used.
async fn timeline(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let visitor = Visitor::of(&app, &context, &headers)?;
    let view = find(&app, &visitor.requester(), &id)?;
    let filter = Filter { workspace: Some(view.id.clone()), ..Filter::default() };
    let mut events = newest(&app, filter, MAX_EVENTS).await?;
    events.reverse();
    let figures = app.daemon.figures(view.id.clone()).await;
    let (id, now) = (view.id.to_string(), app.now());
    let charts = charts(&figures, &view.limits, now);
    Ok(page(StatusCode::OK, &Timeline { prefix: "", id: &id, charts: &charts, events: &events, now }))
}

/// The state of a dashboard's event stream.
struct Live {
    app: Arc<App>,
    context: Context,
    headers: HeaderMap,
    watching: Watcher,
    /// The stream is counted until the page disconnects.
    _reader: Reader,
    /// The workspaces as they were last sent.
    last_sent: BTreeMap<WorkspaceId, Arc<View>>,
    notices: String,
    pending: Vec<Event>,
}

impl Live {
    /// The events for what has changed since the last ones. `None` if the visitor is no longer signed in.
    fn changes(&mut self, snapshot: &Snapshot) -> Option<Vec<Event>> {
        let visitor = Visitor::of(&self.app, &self.context, &self.headers).ok()?;
        let visible = visitor.visible(snapshot);
        let now: BTreeMap<_, _> = visible.iter().map(|view| (view.id.clone(), Arc::clone(view))).collect();
        if !self.last_sent.is_empty() && !self.last_sent.keys().eq(now.keys()) {
            // A workspace was added or removed, so the page's list is outdated.
            return Some(vec![Event::default().event("reload").data("now")]);
        }
        let mut events: Vec<Event> = now
            .iter()
            .filter(|(id, view)| self.last_sent.get(*id) != Some(view))
            .map(|(_, view)| Event::default().event("part").data(part(&visitor.card(&self.app, view, snapshot))))
            .collect();
        let notices = part(&visitor.notices(snapshot));
        if self.notices != notices {
            events.push(Event::default().event("part").data(notices.clone()));
        }
        (self.last_sent, self.notices) = (now, notices);
        Some(events)
    }
}

/// `GET /events`: sends parts of the dashboard whenever they change.
async fn events(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let visitor = Visitor::of(&app, &context, &headers)?;
    let reader = app.dashboard_events.admit(&visitor.session.owner)?;
    let watching = app.daemon.watch(Measure::UsageAndDisk);
    let mut live = Live {
        _reader: reader,
        context,
        headers,
        watching,
        last_sent: BTreeMap::new(),
        notices: String::new(),
        pending: Vec::new(),
        app,
    };
    let snapshot = live.app.daemon.snapshot();
    live.pending = live.changes(&snapshot).ok_or(Refusal::SignedOut)?;
    let events = stream::unfold(live, |mut live| async move {
        loop {
            if !live.pending.is_empty() {
                return Some((Ok(live.pending.remove(0)), live));
            }
            let snapshot = live.watching.changed().await?;
            live.pending = live.changes(&snapshot)?;
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
