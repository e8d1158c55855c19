//! The routes that the daemon serves on workspaces' hostnames, all under `/_csm/`.

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get, post};

use super::app::App;
use super::error::{Refusal, no_such_page, wrong_method};
use super::{handshake, pages, sign_in, wake};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        // nginx's internal redirects keep the visitor's method.
        .route("/_csm/sign-in", any(handshake::start_handshake))
        .route("/_csm/refused", any(|| async { Refusal::CrossSite }))
        .route("/_csm/wake", any(wake::wake))
        .route("/_csm/closed", any(|| async { Refusal::EditorOnly }))
        .route("/_csm/clear", get(sign_in::clear))
        .route("/_csm/callback", get(handshake::callback))
        .route("/_csm/sign-in-here", post(sign_in::sign_in_here))
        .route("/_csm/events", get(wake::events))
        .route("/_csm/start", post(wake::start))
        .merge(pages::files("/_csm"))
        .fallback(no_such_page)
        .method_not_allowed_fallback(wrong_method)
}
