//! What browsers and programs ask: sign-in, wake page, dashboard, API.

pub mod api;
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::access::handshake::Codes;
use crate::access::limiter::Limiter;
use crate::access::session::Sessions;
use crate::access::site::Site;
use crate::access::token::Key;
use crate::adapters::files::missing_is_fine;
use crate::adapters::passwords::Passwords;
use crate::adapters::state::{State, StateError};
use crate::daemon::Handle;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::ports::{Clock, Runtime};
use context::Context;
use logs::Logs;

/// Everything that the pages work with.
pub struct App {
    manifest: watch::Receiver<Arc<Manifest>>,
    daemon: Handle,
    access: Mutex<Access>,
    key: Key,
    state: State,
    passwords: Passwords,
    clock: Clock,
    layout: Layout,
    logs: Box<dyn Logs>,
    counters: Counters,
    routers: Routers,
}

/// What changes with each sign-in.
pub struct Access {
    sessions: Sessions,
    /// Sessions that have ended and are still in the database.
    undeleted: Vec<String>,
    codes: Codes,
    limiter: Limiter,
}

/// For `/metrics`.
#[derive(Default)]
struct Counters {
    signed_in: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Routers {
    dashboard: Router<Arc<App>>,
    workspace: Router<Arc<App>>,
}

/// Why the pages can't be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

impl App {
    /// The pages for a daemon.
    pub fn new(
        manifest: watch::Receiver<Arc<Manifest>>,
        daemon: Handle,
        runtime: impl Runtime,
        state: State,
        layout: Layout,
        clock: Clock,
    ) -> Result<Arc<Self>, StartError> {
        let key = state.key(crate::adapters::machine::random()?)?;
        let sessions = Sessions::new(state.sessions(clock())?);
        let access = Access { sessions, undeleted: Vec::new(), codes: Codes::default(), limiter: Limiter::default() };
        Ok(Arc::new(Self {
            manifest,
            daemon,
            access: Mutex::new(access),
            key,
            state,
            passwords: Passwords::default(),
            clock,
            layout,
            logs: Box::new(runtime),
            counters: Counters::default(),
            routers: Routers { dashboard: dashboard::routes(), workspace: workspace::routes() },
        }))
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manifest(&self) -> Arc<Manifest> {
        self.manifest.borrow().clone()
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }
}

/// A listener in place of an old one, for this account, or for it and its group.
pub fn listen(socket: &Path, mode: u32) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::remove_file(socket).or_else(missing_is_fine)?;
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
        Socket::Front => Router::new().fallback(dispatch),
        Socket::Question => Router::new().fallback(authorize::question),
        Socket::Api => api::operator_routes(),
    };
    axum::serve(listener, router.with_state(app)).await
}

/// Every request for a page: by host.
async fn dispatch(Shared(app): Shared<Arc<App>>, mut request: Request) -> Response {
    let mut response = match Context::of(request.headers(), &app.manifest()) {
        Ok(context) => {
            let router = match context.site {
                Site::Dashboard => app.routers.dashboard.clone(),
                Site::Workspace(_) | Site::Loopback(_) => app.routers.workspace.clone(),
            };
            request.extensions_mut().insert(context);
            match router.with_state(app).oneshot(request).await {
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
