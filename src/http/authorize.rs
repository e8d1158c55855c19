//! Answers nginx's `auth_request` subrequest, which decides whether a request may reach a workspace.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::access::site::Site;
use crate::daemon::view::View;
use crate::model::workspace::State;
use crate::plan::{Cause, Verb};

use super::app::App;
use super::context::{Context, provenance, repeated_cookies, session};

/// Handles a request on the question socket: the response is 204, 401 or 403 without a body. Anything but nginx's exact subrequest is
/// refused with 403, and its connection is closed.
pub(super) async fn handle(Shared(app): Shared<Arc<App>>, request: Request) -> Response {
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

/// 204: allowed. 401: not signed in on this hostname. 403: signed in, but another site made the request. nginx denies on any other status.
fn authorize(app: &App, context: &Context, headers: &HeaderMap) -> StatusCode {
    let Some(workspace) = context.site.workspace() else { return StatusCode::FORBIDDEN };
    if !repeated_cookies(headers).is_empty() {
        // nginx removes one cookie of each name, so the second one would reach the workspace. The sign-in deletes one of them.
        return StatusCode::UNAUTHORIZED;
    }
    let Some(session) = session(app, context, headers) else { return StatusCode::UNAUTHORIZED };
    // Only its owner can enter a workspace, not even admins.
    if session.owner != workspace.owner || !app.manifest.borrow().workspaces.contains_key(workspace) {
        return StatusCode::UNAUTHORIZED;
    }
    let mut from = provenance(headers);
    if matches!(&context.site, Site::Workspace(label) if label.port.is_some()) {
        // The editor, which has another hostname, shows previews of ports in frames.
        from.fetch_dest = "";
    }
    if !from.is_own(&context.origin) {
        return StatusCode::FORBIDDEN;
    }
    let is_frozen = |view: &Arc<View>| matches!(view.state, State::Frozen { .. });
    if from.is_navigation() {
        // The owner opened it. Requests that pages make by themselves, such as a sleeping tab's, say nothing about the owner.
        app.daemon.touch(workspace.clone());
    }
    if from.is_navigation() && app.daemon.snapshot().workspaces.get(workspace).is_some_and(is_frozen) {
        // Its socket accepts the request already; code-server responds once it is thawed.
        app.daemon.enqueue(workspace.clone(), Verb::Start, Cause::Opened(session.owner.clone()));
    }
    StatusCode::NO_CONTENT
}
