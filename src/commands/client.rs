//! Sends requests to the running csm over its unix socket.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::{Client, Failure, environment};
use crate::adapters::unix_http::{self, HttpResponse};
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
        let socket = self.socket_path()?;
        let response = unix_http::request(&socket, method, path, &[], body)
            .await
            .map_err(|error| Failure::new(format!("can't reach csm on {}: {error}; {FIX}", socket.display())))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.body().await.unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(Failure::new(match (json["error"].as_str(), json["fix"].as_str()) {
            (Some(error), Some(fix)) => format!("{error}{} {fix}", if error.ends_with('.') { "" } else { ";" }),
            _ => format!("can't use csm's response: its status is {status}; check that both are the same version"),
        }))
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

/// Parses a response's body.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failure> {
    let unparsable =
        |error| Failure::new(format!("can't parse csm's response: {error}; check that both are the same version"));
    serde_json::from_slice(body).map_err(unparsable)
}
