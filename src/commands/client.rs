//! The way to the running csm.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::{Client, Failure, environment};
use crate::adapters::unix_http::{self, Answer};
use crate::model::size::Bytes;
use crate::model::workspace::Progress;

/// How long csm may take over what it does immediately. The most that it takes itself is 20 s, for a log that can't be read.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// What to do about a csm that does not respond.
const FIX: &str = "check that csm runs as this account, or name another socket with --socket or CSM_SOCKET";

/// A workspace as the API shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workspace {
    pub(super) id: String,
    pub(super) state: String,
    /// How far a start has come.
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

/// What it uses.
#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    pub(super) memory: u64,
}

/// What it can use.
#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    pub(super) memory: Bytes,
}

impl Client {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let system = PathBuf::from("/run/code-server-multi/api.sock");
        match environment::run_directory() {
            Ok(run) if run.join("api.sock").exists() || !system.exists() => Ok(run.join("api.sock")),
            _ => Ok(system),
        }
    }

    /// Sends a request, and takes as long as csm does. A response that is not a success becomes the failure.
    pub(super) async fn ask(&self, method: Method, path: &str, body: String) -> Result<Answer, Failure> {
        let socket = self.path()?;
        let answer = unix_http::request(&socket, method, path, &[], body)
            .await
            .map_err(|error| Failure::new(format!("can't reach csm on {}: {error}; {FIX}", socket.display())))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.body().await.unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(Failure::new(match (said["error"].as_str(), said["remedy"].as_str()) {
            (Some(error), Some(remedy)) => format!("{error}: {remedy}"),
            _ => format!("csm answered {status}"),
        }))
    }

    /// The body of a response that csm makes immediately.
    pub(super) async fn bytes(&self, method: Method, path: &str, body: String) -> Result<Vec<u8>, Failure> {
        self.in_time(async { self.read(self.ask(method, path, body).await?).await }).await
    }

    /// The same as JSON.
    pub(super) async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, Failure> {
        parse(&self.bytes(Method::GET, path, String::new()).await?)
    }

    /// The whole body of a response.
    pub(super) async fn read(&self, answer: Answer) -> Result<Vec<u8>, Failure> {
        let interrupted = |error| Failure::new(format!("can't read csm's response: {error}; {FIX}"));
        Ok(answer.body().await.map_err(interrupted)?.to_vec())
    }

    /// Work that csm does not need long for.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Ok(done) = tokio::time::timeout(RESPONSE_TIMEOUT, work).await else {
            let (socket, late) = (self.path()?, RESPONSE_TIMEOUT.as_secs());
            return Err(Failure::new(format!(
                "can't get a response from csm on {}: none within {late} s; see its log, and restart it",
                socket.display()
            )));
        };
        done
    }
}

/// Parses a response's body.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failure> {
    let other =
        |error| Failure::new(format!("can't understand csm's response: {error}; check that both are the same version"));
    serde_json::from_slice(body).map_err(other)
}
