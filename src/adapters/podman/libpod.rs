//! Calls to libpod over its socket, where podman-api does not return what csm needs: a response's status, and its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::super::unix_http::{self, HttpResponse};
use crate::ports::RuntimeError;

/// Podman responds in milliseconds, and starts a container in a second or two.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Creating the first container of an image copies the whole image for the account.
pub(super) const CREATE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a container may take to exit after SIGTERM, before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// How long Podman may take for that, and for unmounting what it used.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

/// A container's state, as far as csm depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It was created, but never started.
    Created,
    Running,
    Paused,
    /// It is being stopped, and may still run.
    Stopping,
    /// Nothing of it runs.
    Exited,
}

impl Condition {
    /// Parses libpod's name for the state.
    pub(super) fn read(state: &str) -> Self {
        match state {
            "configured" | "created" | "initialized" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "stopping" => Self::Stopping,
            // stopped, exited, removing, and states that csm does not know.
            _ => Self::Exited,
        }
    }
}

/// A container as it was inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) condition: Condition,
    pub(super) exit_code: i64,
}

/// Podman's service.
#[derive(Debug, Clone)]
pub(super) struct Libpod {
    socket: PathBuf,
}

impl Libpod {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The container of this name, if there is one.
    pub(super) async fn container(&self, name: &str) -> Result<Option<Container>, RuntimeError> {
        let path = format!("containers/{name}/json");
        let said = match self.call(CALL_TIMEOUT, Method::GET, &path, String::new()).await {
            Err(RuntimeError::NotFound(_)) => return Ok(None),
            said => said?,
        };
        let state = &said["State"];
        let condition = Condition::read(state["Status"].as_str().unwrap_or_default());
        Ok(Some(Container { condition, exit_code: state["ExitCode"].as_i64().unwrap_or(0) }))
    }

    pub(super) async fn create(&self, body: String) -> Result<(), RuntimeError> {
        self.call(CREATE_TIMEOUT, Method::POST, "containers/create", body).await.map(drop)
    }

    /// Starts a container that was created or has exited. No error when it runs.
    pub(super) async fn start(&self, name: &str) -> Result<(), RuntimeError> {
        self.act(name, "start", CALL_TIMEOUT).await
    }

    pub(super) async fn pause(&self, name: &str) -> Result<(), RuntimeError> {
        self.act(name, "pause", CALL_TIMEOUT).await
    }

    pub(super) async fn unpause(&self, name: &str) -> Result<(), RuntimeError> {
        self.act(name, "unpause", CALL_TIMEOUT).await
    }

    /// Stops a container that is not paused. No error when it does not run.
    pub(super) async fn stop(&self, name: &str) -> Result<(), RuntimeError> {
        self.act(name, &format!("stop?timeout={}", GRACE.as_secs()), STOP_TIMEOUT).await
    }

    /// Removes a container that does not run. No error when there is none.
    pub(super) async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        let path = format!("containers/{name}?force=true&v=true&timeout={}", GRACE.as_secs());
        match self.call(STOP_TIMEOUT, Method::DELETE, &path, String::new()).await {
            Ok(_) | Err(RuntimeError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns when the container has exited.
    pub(super) async fn wait(&self, name: &str) -> Result<(), RuntimeError> {
        let path = format!("containers/{name}/wait?condition=exited");
        read(self.open(Method::POST, &path, String::new()).await?).await.map(drop)
    }

    /// The log's last `lines`, and with `follow` the new ones.
    pub(super) async fn log(&self, name: &str, lines: usize, follow: bool) -> Result<HttpResponse, RuntimeError> {
        let path = format!("containers/{name}/logs?stdout=true&stderr=true&tail={lines}&follow={follow}");
        self.open(Method::GET, &path, String::new()).await
    }

    async fn act(&self, name: &str, action: &str, timeout: Duration) -> Result<(), RuntimeError> {
        self.call(timeout, Method::POST, &format!("containers/{name}/{action}"), String::new()).await.map(drop)
    }

    /// The body of the response, if it comes within the timeout.
    async fn call(&self, timeout: Duration, method: Method, path: &str, body: String) -> Result<Value, RuntimeError> {
        within(timeout, async { read(self.open(method, path, body).await?).await }).await
    }

    /// A response with a good status, whose body is still to come.
    async fn open(&self, method: Method, path: &str, body: String) -> Result<HttpResponse, RuntimeError> {
        let path = format!("/v{}/libpod/{path}", podman_api::LATEST_API_VERSION);
        let json = [("content-type", "application/json")];
        let answer =
            unix_http::request(&self.socket, method, &path, &json, body).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(answer);
        }
        let said = read(answer).await?;
        Err(refusal(status.as_u16(), said["message"].as_str().unwrap_or_default()))
    }
}

/// The response's JSON body; null when the body is not JSON, such as an empty one.
async fn read(answer: HttpResponse) -> Result<Value, RuntimeError> {
    let body = answer.body().await.map_err(|error| unreachable(&error))?;
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// The outcome of this, or an error when it takes longer than the timeout.
pub(super) async fn within<T>(
    timeout: Duration,
    asked: impl Future<Output = Result<T, RuntimeError>>,
) -> Result<T, RuntimeError> {
    tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| {
        Err(RuntimeError::TimedOut(format!(
            "podman did not respond within {} s; try \"podman ps\" as the same account, and run \"csm doctor\"",
            timeout.as_secs()
        )))
    })
}

/// An error of podman-api.
pub(super) fn explain(error: podman_api::Error) -> RuntimeError {
    match error {
        podman_api::Error::Fault { code, message } => refusal(code.as_u16(), &message),
        podman_api::Error::Error(_) | podman_api::Error::IO(_) => unreachable(&error),
        other => RuntimeError::Refused(format!("can't read podman's response: {other}; update podman")),
    }
}

pub(super) fn unreachable(cause: &dyn std::error::Error) -> RuntimeError {
    RuntimeError::Unavailable(format!(
        "can't reach podman: {cause}; install podman if it is missing, and run \"csm doctor\""
    ))
}

/// An error response of Podman. Its status distinguishes an absent container from other refusals.
fn refusal(status: u16, said: &str) -> RuntimeError {
    let said = if said.is_empty() { "no reason given" } else { said };
    match status {
        404 => RuntimeError::NotFound(format!("podman: {said}")),
        _ => RuntimeError::Refused(format!("podman: {said}")),
    }
}
