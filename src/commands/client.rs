//! Sends requests to the running csm over its unix socket.

use std::path::PathBuf;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::{Client, Failure, environment};
use crate::activity::Verdict;
use crate::adapters::unix_http::{self, HttpResponse};
use crate::model::label::WorkspaceId;
use crate::model::size::Bytes;
use crate::model::workspace::Progress;

/// How long to wait for a response that csm sends without waiting for a workspace. csm itself takes at most 20 s, for a log that it
/// can't read.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// What to do if csm does not respond.
const FIX: &str = "check that csm runs as this account, or name another socket with --socket or CSM_SOCKET";

/// A workspace in the API's JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workspace {
    pub(super) id: String,
    pub(super) state: String,
    /// The progress of a start.
    #[serde(flatten)]
    pub(super) progress: Option<Progress>,
    #[serde(default)]
    pub(super) since: Option<u64>,
    pub(super) at: u64,
    pub(super) reason: String,
    pub(super) failure: Option<String>,
    pub(super) log: Vec<String>,
    pub(super) usage: Option<Usage>,
    pub(super) limits: Limits,
    pub(super) update_pending: bool,
    pub(super) activity: Option<Verdict>,
    pub(super) url: String,
}

/// What a workspace uses.
#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    pub(super) memory: u64,
}

/// The limits of a workspace.
#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    pub(super) memory: Bytes,
}

impl Client {
    fn socket_path(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let system = PathBuf::from("/run/code-server-multi/api.sock");
        match environment::run_directory() {
            Ok(run) if run.join("api.sock").exists() || !system.exists() => Ok(run.join("api.sock")),
            _ => Ok(system),
        }
    }

    /// Sends a request and waits for the response, without a timeout. An unsuccessful response is a failure.
    pub(super) async fn send(&self, method: Method, path: &str, body: String) -> Result<HttpResponse, Failure> {
        let response = self.request(method, path, body).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn request(&self, method: Method, path: &str, body: String) -> Result<HttpResponse, Failure> {
        let socket = self.socket_path()?;
        unix_http::request(&socket, method, path, &[], body)
            .await
            .map_err(|error| Failure::new(format!("can't reach csm on {}: {error}; {FIX}", socket.display())))
    }

    /// Gets a workspace, within [`RESPONSE_TIMEOUT`]. `None` if csm does not know it.
    pub(super) async fn look_up(&self, id: &WorkspaceId) -> Result<Option<Workspace>, Failure> {
        self.with_timeout(async {
            let response = self.request(Method::GET, &format!("/api/v1/workspaces/{id}"), String::new()).await?;
            match response.status() {
                status if status.is_success() => Ok(Some(parse(&self.read_body(response).await?)?)),
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(refusal(response).await),
            }
        })
        .await
    }

    /// Gets a workspace. A workspace that csm does not know is a failure.
    pub(super) async fn find(&self, id: &WorkspaceId) -> Result<Workspace, Failure> {
        self.look_up(id).await?.ok_or_else(|| unknown(id))
    }

    /// Sends a request and reads the response's body, within [`RESPONSE_TIMEOUT`].
    pub(super) async fn fetch(&self, method: Method, path: &str, body: String) -> Result<Vec<u8>, Failure> {
        self.with_timeout(async { self.read_body(self.send(method, path, body).await?).await }).await
    }

    /// Sends a GET request and parses the response's JSON, within [`RESPONSE_TIMEOUT`].
    pub(super) async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, Failure> {
        parse(&self.fetch(Method::GET, path, String::new()).await?)
    }

    /// Reads a response's body until its end.
    pub(super) async fn read_body(&self, response: HttpResponse) -> Result<Vec<u8>, Failure> {
        let interrupted = |error| Failure::new(format!("can't read csm's response: {error}; {FIX}"));
        Ok(response.body().await.map_err(interrupted)?.to_vec())
    }

    /// Fails if the work takes longer than [`RESPONSE_TIMEOUT`].
    pub(super) async fn with_timeout<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Ok(outcome) = tokio::time::timeout(RESPONSE_TIMEOUT, work).await else {
            let (socket, late) = (self.socket_path()?, RESPONSE_TIMEOUT.as_secs());
            return Err(Failure::new(format!(
                "can't get a response from csm on {}: none within {late} s; see its log, and restart it",
                socket.display()
            )));
        };
        outcome
    }
}

/// Describes a workspace that csm does not know.
pub(super) fn unknown(id: &WorkspaceId) -> Failure {
    Failure::new(format!("can't find workspace \"{id}\"; run \"csm status\" to list the workspaces"))
}

/// Describes an unsuccessful response.
async fn refusal(response: HttpResponse) -> Failure {
    let status = response.status();
    let body = response.body().await.unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Failure::new(match (json["error"].as_str(), json["fix"].as_str()) {
        (Some(error), Some(fix)) => format!("{error}{} {fix}", if error.ends_with('.') { "" } else { ";" }),
        _ => format!("can't use csm's response: its status is {status}; check that both are the same version"),
    })
}

/// Parses a response's body.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failure> {
    let unparsable =
        |error| Failure::new(format!("can't parse csm's response: {error}; check that both are the same version"));
    serde_json::from_slice(body).map_err(unparsable)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_unknown_workspace_is_a_failure_with_a_fix() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let respond = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"GET /api/v1/workspaces/eve "), "{}", String::from_utf8_lossy(&head));
            connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        };
        let client = Client { socket: Some(socket.clone()) };
        let id = "eve".parse().unwrap();
        let (found, ()) = tokio::join!(client.find(&id), respond);
        let failure = found.unwrap_err().to_string();
        assert_eq!(failure, "can't find workspace \"eve\"; run \"csm status\" to list the workspaces");
    }
}
