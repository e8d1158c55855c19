//! Pulls an image and reports progress. This uses Podman's Docker-compatible API, which reports bytes; libpod's does not.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::libpod::unreachable;
use crate::adapters::unix_http;
use crate::ports::RuntimeError;

/// A pull with no progress for this long fails.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    id: String,
    #[serde(default)]
    error: String,
    #[serde(default, rename = "progressDetail")]
    detail: Option<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    current: u64,
    #[serde(default)]
    total: u64,
}

/// How many bytes of each layer have been pulled, and how many it has.
#[derive(Default)]
struct Layers(HashMap<String, (u64, u64)>);

impl Layers {
    fn record(&mut self, report: &Report) -> Option<u8> {
        let detail = report.detail.as_ref().filter(|detail| detail.total > 0)?;
        self.0.insert(report.id.clone(), (detail.current.min(detail.total), detail.total));
        let (current, total) = self.0.values().fold((0, 0), |(c, t), (current, all)| (c + current, t + all));
        u8::try_from(current * 100 / total).ok()
    }
}

/// Pulls the image; calls `progress` with the percentage each time that changes.
pub(super) async fn pull(
    socket: &Path,
    image: &str,
    progress: impl Fn(Option<u8>) + Send + Sync,
) -> Result<(), RuntimeError> {
    let explain = |why: &str| {
        let fix =
            "check the image's name and the registry, or log in with \"podman login\" as the account that runs csm";
        format!("can't pull image {image}: {}; {fix}", why.trim())
    };
    let refused = |why: &str| RuntimeError::Refused(explain(why));
    let stalled = || RuntimeError::TimedOut(explain(&format!("no progress for {} s", PROGRESS_TIMEOUT.as_secs())));
    let path = format!("/v1.40/images/create?fromImage={}", percent_encode(image));
    let request = unix_http::request(socket, Method::POST, &path, &[], "");
    let answer = tokio::time::timeout(PROGRESS_TIMEOUT, request).await.map_err(|_| stalled())?;
    let mut answer = answer.map_err(|error| unreachable(&error))?;
    if !answer.status().is_success() {
        let status = answer.status();
        let body =
            tokio::time::timeout(PROGRESS_TIMEOUT, answer.body()).await.map_err(|_| stalled())?.unwrap_or_default();
        let response: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let message = response.as_ref().and_then(|response| response["message"].as_str());
        return Err(refused(message.unwrap_or(status.as_str())));
    }
    let mut layers = Layers::default();
    let mut last = None;
    loop {
        let line = match tokio::time::timeout(PROGRESS_TIMEOUT, answer.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(unreachable(&error)),
            Err(_) => return Err(stalled()),
        };
        let Ok(report) = serde_json::from_str::<Report>(&line) else { continue };
        if !report.error.is_empty() {
            return Err(refused(&report.error));
        }
        let percent = layers.record(&report);
        if percent.is_some() && percent != last {
            last = percent;
            progress(percent);
        }
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up() {
        let mut layers = Layers::default();
        let mut record = |text: &str| layers.record(&serde_json::from_str(text).expect("a report"));
        assert_eq!(record(r#"{"status":"Pulling fs layer","id":"a"}"#), None);
        assert_eq!(record(r#"{"id":"a","progressDetail":{"current":50,"total":100}}"#), Some(50));
        assert_eq!(record(r#"{"id":"b","progressDetail":{"current":0,"total":300}}"#), Some(12));
        assert_eq!(record(r#"{"id":"b","progressDetail":{"current":900,"total":300}}"#), Some(87));
        assert_eq!(record(r#"{"id":"a","progressDetail":{}}"#), None);
    }

    #[test]
    fn names_are_percent_encoded() {
        assert_eq!(percent_encode("a.b/c:1@sha256"), "a.b%2Fc%3A1%40sha256");
    }
}
