//! What browsers and programs ask: sign-in, wake page, dashboard, API.

pub mod api;
mod app;
mod authorize;
mod context;
mod dashboard;
mod error;
mod logs;
mod pages;
mod revoke;
mod sign_in;
mod wake;
mod who;
mod workspace;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::UnixListener;
use tower::ServiceExt as _;

use crate::access::site::Site;
use crate::adapters::files::ignore_not_found;
pub use app::App;
use context::Context;

/// A listener in place of an old one, for this account, or for it and its group.
pub fn listen(socket: &Path, mode: u32) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::remove_file(socket).or_else(ignore_not_found)?;
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// One of the daemon's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Pages, for nginx.
    Front,
    /// nginx's `auth_request`, and nothing else: no other request's bytes ever reach this socket.
    Question,
    /// The command line and Prometheus. Whoever can open the socket is an admin.
    Api,
}

/// Serves one of the sockets, for ever.
pub async fn serve(socket: Socket, listener: UnixListener, app: Arc<App>) -> std::io::Result<()> {
    let router = match socket {
        Socket::Front => front(app),
        Socket::Question => Router::new().fallback(authorize::question).with_state(app),
        Socket::Api => api::operator_routes().with_state(app),
    };
    axum::serve(listener, router).await
}

/// The pages of all hosts, each host's with a router of its own.
struct Hosts {
    app: Arc<App>,
    dashboard: Router,
    workspace: Router,
}

/// Every request for a page: by host.
fn front(app: Arc<App>) -> Router {
    let dashboard = dashboard::routes().with_state(app.clone());
    let workspace = workspace::routes().with_state(app.clone());
    Router::new().fallback(dispatch).with_state(Arc::new(Hosts { app, dashboard, workspace }))
}

async fn dispatch(Shared(hosts): Shared<Arc<Hosts>>, mut request: Request) -> Response {
    let mut response = match Context::of(request.headers(), &hosts.app.manifest()) {
        Ok(context) => {
            let router = match context.site {
                Site::Dashboard => hosts.dashboard.clone(),
                Site::Workspace(_) | Site::Loopback(_) => hosts.workspace.clone(),
            };
            request.extensions_mut().insert(context);
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(refusal) => refusal.into_response(),
    };
    // One request a connection: whatever follows it was part of it, and is read by nobody.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    pages::harden(response)
}
