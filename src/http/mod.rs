//! Serves HTTP requests: sign-in, wake page, dashboard, API.

pub mod api;
mod app;
mod authorize;
mod chart;
mod context;
pub mod control;
mod dashboard;
mod error;
mod events;
mod handshake;
mod logs;
mod pages;
mod requester;
mod revoke;
mod sign_in;
mod streams;
mod wake;
mod workspace;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::UnixListener;
use tower::ServiceExt as _;

use crate::access::cookies;
use crate::access::site::Site;
use crate::adapters::files::ignore_not_found;
pub use app::App;
use context::{Context, repeated_cookies};

/// Listens on a unix socket and replaces an old one. The mode allows only this account, or its group too.
pub fn listen(socket: &Path, mode: u32) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::remove_file(socket).or_else(ignore_not_found)?;
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// A socket of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// nginx's requests for pages.
    Front,
    /// nginx's `auth_request` subrequests. No other request's bytes reach this socket.
    Question,
    /// Requests of the command line and Prometheus. Anyone who can open this socket is an admin.
    Api,
}

/// Serves one of the sockets indefinitely.
pub async fn serve(socket: Socket, listener: UnixListener, app: Arc<App>) -> std::io::Result<()> {
    let router = match socket {
        Socket::Front => front(app),
        Socket::Question => Router::new().fallback(authorize::handle).with_state(app),
        Socket::Api => api::operator_routes().with_state(app),
    };
    axum::serve(listener, router).await
}

/// The routers of all hostnames.
struct Routers {
    app: Arc<App>,
    dashboard: Router,
    workspace: Router,
}

/// The router of the front socket: passes each request to the router of its hostname.
fn front(app: Arc<App>) -> Router {
    let dashboard = dashboard::routes().with_state(app.clone());
    let workspace = workspace::routes().with_state(app.clone());
    Router::new().fallback(dispatch).with_state(Arc::new(Routers { app, dashboard, workspace }))
}

async fn dispatch(Shared(routers): Shared<Arc<Routers>>, mut request: Request) -> Response {
    let repeated = repeated_cookies(request.headers());
    let mut response = match Context::of(request.headers(), &routers.app.manifest()) {
        Ok(context) => {
            let router = match context.site {
                Site::Dashboard => routers.dashboard.clone(),
                Site::Workspace(_) | Site::Loopback(_) => routers.workspace.clone(),
            };
            request.extensions_mut().insert(context);
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(refusal) => refusal.into_response(),
    };
    // One request per connection: bytes that follow it may be part of it, so they must not be read as another request.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    delete_partitioned_cookies(&repeated, response.headers_mut());
    pages::harden(response)
}

/// Lets the browser delete the partitioned twins of the cookies that occurred more than once, and of those that the response sets. csm
/// ignores a cookie that occurs twice, so a page that sets a twin would lock the user out.
fn delete_partitioned_cookies(repeated: &[&str], headers: &mut HeaderMap) {
    let set: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    let sets = |name: &str| set.iter().any(|set| set.as_bytes().starts_with(format!("{name}=").as_bytes()));
    headers.remove(header::SET_COOKIE);
    let twins = cookies::ALL.into_iter().filter(|name| repeated.contains(name) || sets(name));
    let deleted = twins.filter_map(|name| HeaderValue::from_str(&cookies::delete_partitioned(name)).ok());
    for value in deleted.collect::<Vec<_>>().into_iter().chain(set) {
        headers.append(header::SET_COOKIE, value);
    }
}
