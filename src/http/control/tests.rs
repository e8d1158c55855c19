//! Tests of the workspace's own socket, with a fake sensor behind it.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::*;
use crate::activity::Waiting;

/// The socket, its server, and the sensor's ends of the channels.
struct Stage {
    socket: PathBuf,
    claims: mpsc::Receiver<ClaimRequest>,
    status: watch::Sender<Option<Verdict>>,
    _directory: tempfile::TempDir,
}

fn stage() -> Stage {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let listener = crate::http::listen(&socket, 0o600).unwrap();
    let (sender, claims) = mpsc::channel(1);
    let (status, receiver) = watch::channel(Some(Verdict::default()));
    tokio::spawn(serve_control(listener, Control { claims: sender, status: receiver }));
    Stage { socket, claims, status, _directory: directory }
}

impl Stage {
    /// Sends these bytes on a new connection. Returns all that is received until it is closed.
    async fn exchange(&self, bytes: &[u8]) -> String {
        exchange(&self.socket, bytes).await
    }

    /// Sends a request that needs no sensor. Returns the status, and the error and its fix.
    async fn refused(&self, request: &[u8]) -> (u16, Value) {
        let (status, body) = parsed(&self.exchange(request).await);
        assert!(body["error"].is_string() && body["fix"].is_string(), "{body}");
        (status, body)
    }

    /// Sends a request, which reaches the sensor. Returns the claim, and the response to the sensor's reply.
    async fn claimed(&mut self, request: &[u8], reply: Result<Verdict, String>) -> (Claim, u16, Value) {
        let socket = self.socket.clone();
        let (response, claim) = tokio::join!(exchange(&socket, request), async {
            let asked = self.claims.recv().await.expect("a claim");
            asked.reply.send(reply).expect("somebody waits");
            asked.claim
        });
        let (status, body) = parsed(&response);
        (claim, status, body)
    }
}

async fn exchange(socket: &std::path::Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The server may refuse what it has not read completely.
    let _ = stream.write_all(bytes).await;
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    String::from_utf8(received).unwrap()
}

/// The status and the JSON body of a response.
fn parsed(response: &str) -> (u16, Value) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{response:?}"));
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: csm\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn an_agent_reports_its_state_and_reads_what_follows() {
    let mut stage = stage();
    let sent = request("PUT", "/v1/agents/codex-1", r#"{"state":"permission","name":"codex","pid":42}"#);
    let verdict = Verdict {
        waiting: vec![Waiting { name: "codex".into(), state: AgentState::Permission, seconds: 0 }],
        ..Verdict::default()
    };
    let (claim, status, body) = stage.claimed(&sent, Ok(verdict.clone())).await;
    let expected =
        Claim::Agent { id: "codex-1".into(), name: Some("codex".into()), state: AgentState::Permission, pid: Some(42) };
    assert_eq!((claim, status), (expected, 200));
    assert_eq!(body["text"], "idle for 0 s; codex has been waiting for permission for 0 s");
    assert_eq!(body["verdict"], serde_json::to_value(verdict).unwrap());
}

#[tokio::test]
async fn every_state_is_accepted_and_an_agent_can_be_removed() {
    let mut stage = stage();
    for (name, state) in [
        ("working", AgentState::Working),
        ("question", AgentState::Question),
        ("permission", AgentState::Permission),
        ("done", AgentState::Done),
        ("idle", AgentState::Idle),
    ] {
        let sent = request("PUT", "/v1/agents/a", &format!(r#"{{"state":"{name}"}}"#));
        let (claim, status, _) = stage.claimed(&sent, Ok(Verdict::default())).await;
        assert_eq!((claim, status), (Claim::Agent { id: "a".into(), name: None, state, pid: None }, 200));
    }
    let (claim, status, _) = stage.claimed(&request("DELETE", "/v1/agents/a", ""), Ok(Verdict::default())).await;
    let expected = Claim::Agent { id: "a".into(), name: None, state: AgentState::Idle, pid: None };
    assert_eq!((claim, status), (expected, 200));
}

#[tokio::test]
async fn leases_are_taken_ended_and_refused_with_the_reason() {
    let mut stage = stage();
    let sent = request("PUT", "/v1/leases/build", r#"{"seconds":7200,"reason":"make world"}"#);
    let refusal = "can't keep the workspace for 7200 s: autostop.maxLease is 60 s; ask for at most that".to_owned();
    let (claim, status, body) = stage.claimed(&sent, Err(refusal)).await;
    let lease =
        |reason: Option<&str>, seconds| Claim::Lease { id: "build".into(), reason: reason.map(Into::into), seconds };
    assert_eq!((claim, status), (lease(Some("make world"), 7200), 422));
    let error = "can't keep the workspace for 7200 s: autostop.maxLease is 60 s";
    assert_eq!(body, json!({ "error": error, "fix": "ask for at most that" }));
    let (claim, status, _) = stage.claimed(&request("DELETE", "/v1/leases/build", ""), Ok(Verdict::default())).await;
    assert_eq!((claim, status), (lease(None, 0), 200));
}

#[tokio::test]
async fn the_status_is_the_newest_verdict() {
    let stage = stage();
    let (status, body) = parsed(&stage.exchange(&request("GET", "/v1/status", "")).await);
    assert_eq!((status, body["text"].as_str()), (200, Some("idle for 0 s")));
    stage.status.send_replace(Some(Verdict { idle: 120, ..Verdict::default() }));
    let (_, body) = parsed(&stage.exchange(&request("GET", "/v1/status", "")).await);
    assert_eq!((&body["text"], &body["verdict"]["idle"]), (&json!("idle for 2 min"), &json!(120)));
    stage.status.send_replace(None);
    let (status, body) = stage.refused(&request("GET", "/v1/status", "")).await;
    assert_eq!((status, body["error"].as_str()), (503, Some("can't ask the daemon: it has not sent a verdict yet")));
}

#[tokio::test]
async fn a_sensor_that_has_exited_is_reported() {
    let Stage { socket, claims, status, _directory } = stage();
    drop((claims, status));
    for sent in [request("GET", "/v1/status", ""), request("PUT", "/v1/agents/a", r#"{"state":"done"}"#)] {
        let (status, body) = parsed(&exchange(&socket, &sent).await);
        assert_eq!((status, &body["error"]), (503, &json!("can't ask the daemon: the workspace's sensor has exited")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_respond_is_reported_in_time() {
    let mut stage = stage();
    let socket = stage.socket.clone();
    let began = Instant::now();
    let sent = request("DELETE", "/v1/leases/x", "");
    let (response, _asked) = tokio::join!(exchange(&socket, &sent), stage.claims.recv());
    let (status, body) = parsed(&response);
    assert_eq!((status, &body["error"]), (503, &json!("can't ask the daemon: it did not respond in time")));
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn what_has_no_endpoint_is_refused() {
    let stage = stage();
    let lease = r#"{"seconds":1}"#;
    for (method, path, expected) in [
        ("GET", "/", 404),
        ("GET", "/v1/agents/a/../../status", 404),
        ("GET", "//v1/status", 404),
        ("PUT", "/v1/leases/", 404),
        ("PUT", "/v1/leases/a/b", 404),
        ("PUT", "http://elsewhere/v2/leases/a", 404),
        ("POST", "/v1/leases/a", 405),
        ("GET", "/v1/agents/a", 405),
    ] {
        let (status, _) = stage.refused(&request(method, path, lease)).await;
        assert_eq!(status, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn an_id_is_one_line_of_text_and_never_a_path() {
    let mut stage = stage();
    for bad in ["%ff", "%00", "a%0ab", "%1b%5b31m", &"x".repeat(101), "%c2%85"] {
        let (status, body) = stage.refused(&request("DELETE", &format!("/v1/leases/{bad}"), "")).await;
        assert_eq!((status, &body["error"]), (400, &json!("can't use the id in the path")), "{bad}");
    }
    for (path, id) in [("..%2f..%2fetc", "../../etc"), ("%3Cb%3E", "<b>"), (&"x".repeat(100), &"x".repeat(100))] {
        let sent = request("DELETE", &format!("/v1/leases/{path}"), "");
        let (claim, status, _) = stage.claimed(&sent, Ok(Verdict::default())).await;
        assert_eq!((claim, status), (Claim::Lease { id: id.into(), reason: None, seconds: 0 }, 200));
    }
}

#[tokio::test]
async fn a_body_that_says_something_else_is_refused() {
    let stage = stage();
    for (path, body, error) in [
        ("/v1/agents/a", "", "EOF"),
        ("/v1/agents/a", "working", "expected value"),
        ("/v1/agents/a", "{}", "missing field `state`"),
        ("/v1/agents/a", r#"{"state":"busy"}"#, "unknown variant `busy`, expected one of `working`, `question`"),
        ("/v1/agents/a", r#"{"state":"done","pid":0}"#, "nonzero"),
        ("/v1/agents/a", r#"{"state":"done","pid":-1}"#, "invalid value"),
        ("/v1/agents/a", r#"{"state":"done","state":"done"}"#, "duplicate field"),
        ("/v1/agents/a", r#"{"state":"done","color":1}"#, "unknown field `color`"),
        ("/v1/leases/a", r#"{"seconds":-1}"#, "invalid value"),
        ("/v1/leases/a", r#"{"seconds":1e99}"#, "invalid type"),
        ("/v1/leases/a", r#"{"seconds":1} and more"#, "trailing characters"),
        ("/v1/leases/a", &"[".repeat(8000), "invalid type"),
    ] {
        let (status, refusal) = stage.refused(&request("PUT", path, body)).await;
        assert_eq!(status, 400, "{body}");
        assert!(refusal["error"].as_str().unwrap().contains(error), "{body}: {refusal}");
    }
    let mut bytes = request("PUT", "/v1/agents/a", r#"{"state":"done","name":"??"}"#);
    let at = bytes.len() - 4;
    bytes[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
    let (status, _) = stage.refused(&bytes).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn html_in_a_name_is_only_text() {
    let mut stage = stage();
    let name = "<script>alert(1)</script>";
    let sent = request("PUT", "/v1/agents/a", &json!({ "state": "working", "name": name }).to_string());
    let verdict = Verdict {
        kept_by: vec![crate::activity::Keeper::Agent { name: name.into(), seconds: 0 }],
        ..Verdict::default()
    };
    let (claim, status, body) = stage.claimed(&sent, Ok(verdict)).await;
    assert!(matches!(claim, Claim::Agent { name: Some(sent), .. } if sent == name));
    assert_eq!((status, body["text"].as_str()), (200, Some("kept: <script>alert(1)</script> is working (0 s)")));
}

#[tokio::test]
async fn a_long_body_is_refused_whether_its_length_is_declared_or_not() {
    let stage = stage();
    let mut gigabyte =
        format!("PUT /v1/leases/a HTTP/1.1\r\nHost: csm\r\nContent-Length: {}\r\n\r\n", 1 << 30).into_bytes();
    gigabyte.resize(16 << 20, b' ');
    let (status, body) = stage.refused(&gigabyte).await;
    assert_eq!((status, &body["fix"]), (413, &json!("send at most 8192 bytes")));
    let (status, _) = stage.refused(&request("PUT", "/v1/leases/a", &" ".repeat(MAX_BYTES + 1))).await;
    assert_eq!(status, 413);
    let mut chunks = b"PUT /v1/leases/a HTTP/1.1\r\nHost: csm\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..9 {
        chunks.extend(format!("400\r\n{}\r\n", " ".repeat(1024)).into_bytes());
    }
    let (status, _) = stage.refused(&chunks).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let stage = stage();
    let long = "x".repeat(MAX_BYTES);
    for head in [
        format!("GET /{long} HTTP/1.1\r\nHost: csm\r\n\r\n"),
        format!("GET /v1/status HTTP/1.1\r\nHost: csm\r\nX: {long}\r\n\r\n"),
        format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200)),
    ] {
        let response = stage.exchange(head.as_bytes()).await;
        assert!(["HTTP/1.1 431", "HTTP/1.1 414"].iter().any(|status| response.starts_with(status)), "{response:?}");
    }
}

#[tokio::test]
async fn a_connection_serves_one_request() {
    let stage = stage();
    let two = [request("GET", "/v1/status", ""), request("GET", "/v1/status", "")].concat();
    let response = stage.exchange(&two).await;
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_say_nothing_delay_others_only_until_they_time_out() {
    let stage = stage();
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\n").await.unwrap();
        silent.push(stream);
    }
    let (status, _) = parsed(&stage.exchange(&request("GET", "/v1/status", "")).await);
    assert_eq!((status, began.elapsed()), (200, CONNECTION_TIMEOUT));
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 100]).await.unwrap(), 0, "it is closed");
    }
}

#[tokio::test]
async fn a_flood_is_served_in_turn_and_nothing_is_lost() {
    let mut stage = stage();
    let socket = stage.socket.clone();
    let flood = futures_util::future::join_all((0..200).map(|at| {
        let (socket, sent) = (socket.clone(), request("PUT", &format!("/v1/leases/{at}"), r#"{"seconds":1}"#));
        async move { parsed(&exchange(&socket, &sent).await).0 }
    }));
    let sensor = async {
        let mut most = 0;
        for _ in 0..200 {
            let asked = stage.claims.recv().await.expect("a claim");
            most = most.max(stage.claims.len());
            asked.reply.send(Ok(Verdict::default())).expect("somebody waits");
        }
        most
    };
    let (statuses, most) = tokio::join!(flood, sensor);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(most <= 1, "the channel holds {most}");
}
