//! Waiting for code-server to answer.

use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::unix_http;
use super::watch;

/// How long to wait for an event before asking anyway.
const RESYNC: Duration = Duration::from_secs(1);

/// Resolves when code-server answers on its socket. It is asked whenever something happens in the socket's directory.
pub async fn answers(socket: &Path) {
    let directory = socket.parent().unwrap_or(socket);
    let mut changes = watch::directory(directory);
    while !healthy(socket).await {
        let _ = tokio::time::timeout(RESYNC, changes.recv()).await;
    }
}

/// Whether code-server answers now. `/healthz` is no heartbeat and needs no sign-in; its text says nothing about health.
pub async fn healthy(socket: &Path) -> bool {
    let asked = unix_http::request(socket, Method::GET, "/healthz", &[], "");
    matches!(tokio::time::timeout(Duration::from_secs(2), asked).await, Ok(Ok(answer)) if answer.status().is_success())
}
