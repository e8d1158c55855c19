//! An HTTP client for unix sockets: code-server's health, Podman's pull progress, and the command line's requests to the daemon.

use std::io;
use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// A response whose body has not been read yet.
pub struct HttpResponse {
    response: Response<Incoming>,
    line: Vec<u8>,
}

/// Sends a request on a new connection, which is closed after the response.
pub async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> io::Result<HttpResponse> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // This task ends when the response has been read or dropped. The reader gets the connection's errors.
    tokio::spawn(async move { drop(connection.await) });
    let mut request = Request::builder().method(method).uri(path).header(hyper::header::HOST, "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    Ok(HttpResponse { response, line: Vec::new() })
}

impl HttpResponse {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Reads the whole body.
    pub async fn body(self) -> io::Result<Bytes> {
        Ok(self.response.into_body().collect().await.map_err(io::Error::other)?.to_bytes())
    }

    /// Reads the next bytes of the body; `None` at its end.
    pub async fn next_bytes(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(frame) = self.response.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads the next line of the body, without its newline; `None` at the end of the body.
    pub async fn next_line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let rest = self.line.split_off(end + 1);
                let line = std::mem::replace(&mut self.line, rest);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.next_bytes().await? {
                Some(data) => self.line.extend_from_slice(&data),
                None if self.line.is_empty() => return Ok(None),
                None => return Ok(Some(String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned())),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes the program that replaces code-server in tests (tests/e2e/lib/contract.pl) exit.
    pub(in super::super) async fn ask_to_exit(socket: &Path, code: u8) {
        let path = format!("/exit/{code}");
        assert!(request(socket, Method::GET, &path, &[], "").await.is_err(), "it exits without a response");
    }
}
