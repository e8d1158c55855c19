//! The dashboard's host: each person's workspace, and for admins everyone's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use super::api;
use super::app::App;
use super::context::{Context, provenance, session};
use super::error::Refusal;
use super::pages::{Card, Dashboard, Log, Notices, files, page, part};
use super::sign_in;
use super::who::{Who, find};
use crate::access::session::Session;
use crate::daemon::Measure;
use crate::daemon::Watching;
use crate::daemon::view::{Snapshot, View};
use crate::model::label::WorkspaceId;
use crate::model::printed::Tail;

/// What the page of a log shows at most: lines, and their bytes. With what is around them that is 256 KiB.
const LOG_LINES: usize = 200;
const LOG_BYTES: usize = 252 << 10;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(dashboard))
        .route("/sign-in", get(sign_in::form).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/open", get(sign_in::open))
        .route("/events", get(events))
        .route("/workspaces/{id}/log", get(log))
        .route("/workspaces/{id}/{verb}", post(act))
        .merge(api::person_routes())
        .merge(files(""))
        .merge(files("/_csm"))
        .fallback(|| async { Refusal::NotFound("There is no such page.".to_owned()) })
}

/// Who looks at the dashboard, as it concerns the pages.
#[derive(Clone)]
struct Visitor {
    session: Session,
    admin: bool,
    csrf: String,
}

impl Visitor {
    fn of(app: &App, context: &Context, headers: &HeaderMap) -> Result<Self, Refusal> {
        let session = session(app, context, headers).ok_or(Refusal::SignedOut)?;
        let admin = app.manifest.borrow().owners.get(&session.owner).is_some_and(|owner| owner.admin);
        let csrf = app.key.sign(&["csrf", &session.id]);
        Ok(Self { session, admin, csrf })
    }

    fn who(&self) -> Who {
        Who::Person { name: self.session.owner.clone(), admin: self.admin }
    }

    /// Their own first, then by name.
    fn visible<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Arc<View>> {
        let who = self.who();
        let mut views: Vec<_> = snapshot.workspaces.values().filter(|view| who.sees(&view.id)).collect();
        views.sort_by_key(|view| view.id.owner != self.session.owner);
        views
    }

    fn card<'a>(&'a self, app: &App, view: &'a View, snapshot: &Snapshot) -> Card<'a> {
        let own = view.id.owner == self.session.owner;
        Card { view, csrf: &self.csrf, own, now: app.now(), disk_free: snapshot.disk_free }
    }

    fn notices<'a>(&self, snapshot: &'a Snapshot) -> Notices<'a> {
        // Alarms and limits are the machine's matters: the person who runs it sees to them.
        if self.admin {
            Notices { alarms: &snapshot.alarms, notes: &snapshot.notes }
        } else {
            Notices { alarms: &[], notes: &[] }
        }
    }
}

async fn dashboard(Shared(app): Shared<Arc<App>>, context: Context, headers: HeaderMap) -> Response {
    let Ok(visitor) = Visitor::of(&app, &context, &headers) else {
        return Redirect::to("/sign-in").into_response();
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
    page(StatusCode::OK, &template)
}

#[derive(Deserialize)]
struct Protected {
    #[serde(default)]
    csrf: String,
}

/// A button of the dashboard. Its token is in the address: no body comes this far but the sign-in form's.
async fn act(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Path((id, verb)): Path<(String, String)>,
    Query(protected): Query<Protected>,
) -> Result<Redirect, Refusal> {
    let visitor = Visitor::of(&app, &context, &headers)?;
    let own =
        provenance(&headers).is_own(&context.origin) && app.key.verify(&["csrf", &visitor.session.id], &protected.csrf);
    if !own {
        return Err(Refusal::Foreign);
    }
    api::act(&app, &visitor.who(), &id, &verb).await?;
    Ok(Redirect::to("/"))
}

async fn log(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let visitor = Visitor::of(&app, &context, &headers)?;
    let view = find(&app, &visitor.who(), &id)?;
    let lines = app.logs.logs(&view.id, LOG_LINES, false).fold(Tail::new(LOG_BYTES), async |mut tail, line| {
        tail.push(line.unwrap_or_else(|error| error.to_string()));
        tail
    });
    let (id, lines) = (view.id.to_string(), lines.await.into_lines());
    Ok(page(StatusCode::OK, &Log { prefix: "", id: &id, lines: &lines }))
}

/// What the dashboard's stream has already told.
struct Live {
    app: Arc<App>,
    context: Context,
    headers: HeaderMap,
    watching: Watching,
    told: BTreeMap<WorkspaceId, Arc<View>>,
    notices: String,
    ready: Vec<Event>,
}

impl Live {
    /// The events for what changed. `None` when the visitor is no longer signed in.
    fn changes(&mut self, snapshot: &Snapshot) -> Option<Vec<Event>> {
        let visitor = Visitor::of(&self.app, &self.context, &self.headers).ok()?;
        let visible = visitor.visible(snapshot);
        let now: BTreeMap<_, _> = visible.iter().map(|view| (view.id.clone(), Arc::clone(view))).collect();
        if !self.told.is_empty() && !self.told.keys().eq(now.keys()) {
            // Somebody came or left: the page is another.
            return Some(vec![Event::default().event("reload").data("now")]);
        }
        let mut events: Vec<Event> = now
            .iter()
            .filter(|(id, view)| self.told.get(*id) != Some(view))
            .map(|(_, view)| Event::default().event("part").data(part(&visitor.card(&self.app, view, snapshot))))
            .collect();
        let notices = part(&visitor.notices(snapshot));
        if self.notices != notices {
            events.push(Event::default().event("part").data(notices.clone()));
        }
        (self.told, self.notices) = (now, notices);
        Some(events)
    }
}

/// `GET /events`: parts of the dashboard, whenever they change.
async fn events(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    Visitor::of(&app, &context, &headers)?;
    let watching = app.daemon.watch(Measure::UsageAndDisk);
    let mut live =
        Live { context, headers, watching, told: BTreeMap::new(), notices: String::new(), ready: Vec::new(), app };
    let snapshot = live.app.daemon.snapshot();
    live.ready = live.changes(&snapshot).ok_or(Refusal::SignedOut)?;
    let events = stream::unfold(live, |mut live| async move {
        loop {
            if !live.ready.is_empty() {
                return Some((Ok(live.ready.remove(0)), live));
            }
            let snapshot = live.watching.changed().await?;
            live.ready = live.changes(&snapshot)?;
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
