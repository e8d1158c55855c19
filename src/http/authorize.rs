//! nginx's question before every request to a workspace: may this pass?

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::access::site::Site;
use crate::daemon::view::View;
use crate::model::workspace::State;
use crate::plan::{Cause, Verb};

use super::app::App;
use super::context::{Context, provenance, session};

/// What the question's socket answers: 204, 401 or 403, and no body. What is not the question, to the letter, is refused, and its
/// connection closed.
pub(super) async fn question(Shared(app): Shared<Arc<App>>, request: Request) -> Response {
    let headers = request.headers();
    let framed = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    if request.method() != Method::GET || request.uri() != "/" || framed {
        return (StatusCode::FORBIDDEN, [(header::CONNECTION, "close")]).into_response();
    }
    match Context::of(headers, &app.manifest()) {
        Ok(context) => authorize(&app, &context, headers).into_response(),
        Err(_) => StatusCode::FORBIDDEN.into_response(),
    }
}

/// 204: yes. 401: not signed in here. 403: signed in, but the request was made by another site. Anything else nginx takes for a no.
fn authorize(app: &App, context: &Context, headers: &HeaderMap) -> StatusCode {
    let Some(workspace) = context.site.workspace() else { return StatusCode::FORBIDDEN };
    let Some(session) = session(app, context, headers) else { return StatusCode::UNAUTHORIZED };
    // Nobody but its owner gets into a workspace, admins neither.
    if session.owner != workspace.owner || !app.manifest.borrow().workspaces.contains_key(workspace) {
        return StatusCode::UNAUTHORIZED;
    }
    let mut from = provenance(headers);
    if matches!(&context.site, Site::Workspace(label) if label.port.is_some()) {
        // The editor shows previews of ports in frames, and it is another host.
        from.fetch_dest = "";
    }
    if !from.is_own(&context.origin) {
        return StatusCode::FORBIDDEN;
    }
    let is_frozen = |view: &Arc<View>| matches!(view.state, State::Frozen { .. });
    if from.is_navigation() && app.daemon.snapshot().workspaces.get(workspace).is_some_and(is_frozen) {
        // Its socket takes the request, and it answers when it goes on.
        app.daemon.ask(workspace.clone(), Verb::Start, Cause::Opened(session.owner.clone()));
    }
    StatusCode::NO_CONTENT
}
