//! The workspace's own socket: agents' hooks and programs inside a workspace report what they do and ask for leases, and read the verdict.
//! [`ENDPOINTS`] defines it, and `docs/control-socket.md` describes it. The workspace can send anything here, so all of it is bounded.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, put};
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::activity::{AgentState, Claim, Verdict};

/// The most connections at the same time. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may take. It serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the daemon may take to accept or refuse a claim.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a request's head, and of its body.
const MAX_BYTES: usize = 8 << 10;

/// The most characters of an id.
const MAX_ID: usize = 100;

/// The pause after the system refused a connection, so that a lack of open files does not keep a CPU busy.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// What the socket's requests need.
#[derive(Debug, Clone)]
pub struct Control {
    /// Takes claims to the daemon.
    pub claims: mpsc::Sender<ClaimRequest>,
    /// The newest verdict; `None` until the daemon has sent one.
    pub status: watch::Receiver<Option<Verdict>>,
}

/// A claim that waits for the daemon's response.
#[derive(Debug)]
pub struct ClaimRequest {
    /// What a program in the workspace claims.
    pub claim: Claim,
    /// Takes the verdict that follows from the claim, or the reason why it is refused: `can't VERB THING: CAUSE; FIX`.
    pub reply: oneshot::Sender<Result<Verdict, String>>,
}

/// An endpoint of the socket.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    about: &'static str,
    route: fn() -> MethodRouter<Control>,
}

/// All endpoints.
const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: "/v1/status",
        about: "Whether the workspace is kept, why, and what happens next.",
        route: || get(status),
    },
    Endpoint {
        method: "PUT",
        path: "/v1/agents/{id}",
        about: "Reports an agent's state. The body is `{\"state\": …, \"name\": …, \"pid\": …}`: `state` is `working`, `question` (it waits for an answer), `permission` (it waits for a permission), `done` or `idle`; `name` is for display; `pid` is the agent's process as it is numbered in the workspace: when it exits, the agent no longer counts. Without `pid` an agent counts as working for an hour after its last report. `name` and `pid` are optional.",
        route: || put(report_agent),
    },
    Endpoint {
        method: "DELETE",
        path: "/v1/agents/{id}",
        about: "Reports that the agent has no task. It does the same as the state `idle`.",
        route: || delete(remove_agent),
    },
    Endpoint {
        method: "PUT",
        path: "/v1/leases/{id}",
        about: "Keeps the workspace for some time, or replaces an earlier lease with the same id. The body is `{\"seconds\": …, \"reason\": …}`: `seconds` is at most `autostop.maxLease`, and 0 ends the lease; `reason` is for display, and optional.",
        route: || put(take_lease),
    },
    Endpoint { method: "DELETE", path: "/v1/leases/{id}", about: "Ends a lease.", route: || delete(end_lease) },
];

/// The list of endpoints in `docs/control-socket.md`.
pub fn reference() -> String {
    ENDPOINTS.iter().fold(String::new(), |mut text, endpoint| {
        let _ = write!(text, "### `{} {}`\n\n{}\n\n", endpoint.method, endpoint.path, endpoint.about);
        text
    })
}

/// The socket's routes.
pub fn router(control: Control) -> Router {
    ENDPOINTS
        .iter()
        .fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.route)()))
        .fallback(|| async { Refusal::NoEndpoint(StatusCode::NOT_FOUND) })
        .method_not_allowed_fallback(|| async { Refusal::NoEndpoint(StatusCode::METHOD_NOT_ALLOWED) })
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .with_state(control)
}

/// Serves the socket indefinitely.
pub async fn serve_control(listener: UnixListener, control: Control) {
    let router = router(control);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    // A connection that takes too long is closed, and its errors concern only the program at its other end.
                    let _ = timeout(CONNECTION_TIMEOUT, serve_one(stream, router)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection on the workspace's own socket; trying again");
                tokio::time::sleep(ACCEPT_DELAY).await;
            }
        }
    }
}

/// Serves one request.
async fn serve_one(stream: UnixStream, router: Router) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = router.clone().oneshot(request.map(Body::new));
        async move { Ok::<_, Infallible>(response.await.unwrap_or_else(|never| match never {})) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Why a request is refused.
enum Refusal {
    /// There is no such endpoint, or it has another method.
    NoEndpoint(StatusCode),
    /// The id can't be used.
    Id,
    /// The body is too long, or was not received.
    Unread(StatusCode, String),
    /// The body can't be used.
    Body(String),
    /// The daemon refuses the claim. Its reason contains the fix.
    Refused(String),
    /// The daemon can't be reached, or did not respond in time.
    Unavailable(&'static str),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let see = "see docs/control-socket.md for the endpoints and their bodies";
        let (status, error, fix) = match self {
            Self::NoEndpoint(status) => {
                (status, "can't find an endpoint with this method and path".to_owned(), see.to_owned())
            }
            Self::Id => (
                StatusCode::BAD_REQUEST,
                "can't use the id in the path".to_owned(),
                format!("use an id of 1 to {MAX_ID} printable characters, in UTF-8 and percent-encoded"),
            ),
            Self::Unread(status, why) => {
                (status, format!("can't read the body: {why}"), format!("send at most {MAX_BYTES} bytes"))
            }
            Self::Body(why) => (StatusCode::BAD_REQUEST, format!("can't use the body: {why}"), see.to_owned()),
            Self::Refused(why) => {
                let (error, fix) = why.split_once("; ").unwrap_or((&why, "change the request"));
                (StatusCode::UNPROCESSABLE_ENTITY, error.to_owned(), fix.to_owned())
            }
            Self::Unavailable(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("can't ask the daemon: {why}"),
                "try again later; if this continues, ask your administrator to check that csm runs".to_owned(),
            ),
        };
        (status, Json(serde_json::json!({ "error": error, "fix": fix }))).into_response()
    }
}

type Reply = Result<Response, Refusal>;

fn describe(verdict: &Verdict) -> Response {
    Json(serde_json::json!({ "text": verdict.to_string(), "verdict": verdict })).into_response()
}

async fn status(Shared(control): Shared<Control>) -> Reply {
    if control.status.has_changed().is_err() {
        return Err(Refusal::Unavailable("the workspace's sensor has exited"));
    }
    let verdict = control.status.borrow().clone();
    verdict.as_ref().map(describe).ok_or(Refusal::Unavailable("it has not sent a verdict yet"))
}

type AnyPath = Result<Path<String>, PathRejection>;
type AnyBody = Result<Bytes, BytesRejection>;

/// The id in a request's path.
fn id(path: AnyPath) -> Result<String, Refusal> {
    let Path(id) = path.map_err(|_| Refusal::Id)?;
    let is_valid = !id.is_empty() && id.chars().count() <= MAX_ID && !id.chars().any(char::is_control);
    is_valid.then_some(id).ok_or(Refusal::Id)
}

/// Reads a body, whatever content type the request declares: curl's default is a form's.
fn body<T: DeserializeOwned>(body: AnyBody) -> Result<T, Refusal> {
    let bytes = body.map_err(|rejection| Refusal::Unread(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::Body(error.to_string()))
}

/// Sends a claim to the daemon and waits for its response.
async fn claim(control: &Control, claim: Claim) -> Reply {
    let exited = Refusal::Unavailable("the workspace's sensor has exited");
    let (reply, response) = oneshot::channel();
    let asked = async {
        control.claims.send(ClaimRequest { claim, reply }).await.ok()?;
        response.await.ok()
    };
    match timeout(CLAIM_TIMEOUT, asked).await {
        Ok(Some(Ok(verdict))) => Ok(describe(&verdict)),
        Ok(Some(Err(why))) => Err(Refusal::Refused(why)),
        Ok(None) => Err(exited),
        Err(_) => Err(Refusal::Unavailable("it did not respond in time")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentBody {
    state: AgentState,
    name: Option<String>,
    pid: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseBody {
    seconds: u64,
    reason: Option<String>,
}

async fn report_agent(Shared(control): Shared<Control>, path: AnyPath, sent: AnyBody) -> Reply {
    let id = id(path)?;
    let AgentBody { state, name, pid } = body(sent)?;
    claim(&control, Claim::Agent { id, name, state, pid: pid.map(NonZeroU32::get) }).await
}

async fn remove_agent(Shared(control): Shared<Control>, path: AnyPath) -> Reply {
    claim(&control, Claim::Agent { id: id(path)?, name: None, state: AgentState::Idle, pid: None }).await
}

async fn take_lease(Shared(control): Shared<Control>, path: AnyPath, sent: AnyBody) -> Reply {
    let id = id(path)?;
    let LeaseBody { seconds, reason } = body(sent)?;
    claim(&control, Claim::Lease { id, reason, seconds }).await
}

async fn end_lease(Shared(control): Shared<Control>, path: AnyPath) -> Reply {
    claim(&control, Claim::Lease { id: id(path)?, reason: None, seconds: 0 }).await
}

#[cfg(test)]
mod tests;
