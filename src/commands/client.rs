//! The way to the running csm.

use std::path::PathBuf;

use hyper::Method;
use serde::Deserialize;

use super::{Client, Failure, environment};
use crate::adapters::unix_http::{self, Answer};
use crate::model::size::Bytes;

/// A workspace as the API tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workspace {
    pub(super) id: String,
    pub(super) state: String,
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

    /// Asks; an answer that is no success becomes the failure.
    pub(super) async fn ask(&self, method: Method, path: &str, body: String) -> Result<Answer, Failure> {
        let socket = self.path()?;
        let answer = unix_http::request(&socket, method, path, &[], body).await.map_err(|error| {
            let remedy = "is csm running, and as this account? --socket or CSM_SOCKET names another socket";
            Failure::new(format!("can't reach csm on {}: {error}; {remedy}", socket.display()))
        })?;
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

    /// Reads JSON.
    pub(super) async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::GET, path).await
    }

    /// Asks for JSON.
    pub(super) async fn json<T: for<'de> Deserialize<'de>>(&self, method: Method, path: &str) -> Result<T, Failure> {
        let body = self.bytes(method, path).await?;
        let other =
            |error| Failure::new(format!("csm's answer was not understood ({error}); are both of one version?"));
        serde_json::from_slice(&body).map_err(other)
    }

    /// Asks for a body.
    pub(super) async fn bytes(&self, method: Method, path: &str) -> Result<Vec<u8>, Failure> {
        let answer = self.ask(method, path, String::new()).await?;
        let body = answer.body().await.map_err(|error| Failure::new(format!("csm's answer broke off: {error}")))?;
        Ok(body.to_vec())
    }
}
