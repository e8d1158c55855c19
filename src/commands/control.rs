//! `csm start`, `freeze`, `stop` and `restart`: send the request, and wait for its outcome.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use tokio::time::{sleep, timeout};

use super::client::{Workspace, parse};
use super::{Client, Failure, Target, block_on};
use crate::model::label::WorkspaceId;
use crate::model::workspace::Progress;

/// How long to wait before progress is printed: most requests take less.
const REPORT_DELAY: Duration = Duration::from_secs(2);

/// How often to ask for the workspace's state, to print it. The request's own response is the outcome.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for the outcome. Pulling a big image may take longer; csm continues then.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) fn run(target: &Target, verb: &str) -> Result<ExitCode, Failure> {
    let (client, id) = (&target.client, &target.workspace);
    let now = block_on(async {
        client.find(id).await?;
        change(client, id, verb, |text| eprintln!("{text}")).await
    })?;
    if now.state == "failed" {
        for line in &now.log {
            eprintln!("  {line}");
        }
        let failure = now.failure.map_or_else(String::new, |failure| format!(": {failure}"));
        return Err(Failure::new(format!("{}: {}{failure}", now.id, now.reason)));
    }
    let wanted = match verb {
        "freeze" => "frozen",
        "stop" => "stopped",
        _ => "running",
    };
    if now.state != wanted {
        // Another request may have superseded this one; and a workspace that is not running can't be frozen.
        let (id, now) = (&now.id, describe(&now));
        return Err(Failure::new(format!("can't {verb} {id}: {now}; run \"csm status {id}\", then try again")));
    }
    println!("{}: {}", now.id, now.state);
    Ok(ExitCode::SUCCESS)
}

/// Sends the request and waits until the workspace has settled. If that takes longer than [`REPORT_DELAY`], prints its state and each
/// change of it.
async fn change(client: &Client, id: &WorkspaceId, verb: &str, print: impl Fn(&str)) -> Result<Workspace, Failure> {
    let mut last = "csm has not responded yet".to_owned();
    let outcome = async {
        let path = format!("/api/v1/workspaces/{id}/{verb}?wait=true");
        let response = client.send(Method::POST, &path, String::new()).await?;
        parse(&client.read_body(response).await?)
    };
    let finished = timeout(WAIT_TIMEOUT, async {
        tokio::select! {
            outcome = outcome => outcome,
            failure = report(client, id, &mut last, print) => Err(failure),
        }
    });
    if let Ok(outcome) = finished.await {
        return outcome;
    }
    let minutes = WAIT_TIMEOUT.as_secs() / 60;
    Err(Failure::new(format!(
        "can't wait longer than {minutes} min to {verb} {id}: {last}; csm continues in the background: run \"csm status {id}\" and \"csm logs {id}\""
    )))
}

/// Prints the workspace's state whenever it changes. Returns only if csm does not respond. `last` is the state last seen.
async fn report(client: &Client, id: &WorkspaceId, last: &mut String, print: impl Fn(&str)) -> Failure {
    let path = format!("/api/v1/workspaces/{id}");
    let mut last_printed = None;
    sleep(REPORT_DELAY).await;
    loop {
        let mut request = Box::pin(client.get::<Workspace>(&path));
        let in_time = timeout(REPORT_DELAY, &mut request).await.ok();
        if in_time.is_none() {
            print(&format!("waiting: csm has not sent the state of {id} yet"));
            last_printed = None;
        }
        let found = match in_time {
            Some(found) => found,
            None => request.await,
        };
        let workspace = match found {
            Ok(workspace) => workspace,
            Err(failure) => return failure,
        };
        *last = describe(&workspace);
        let current = (workspace.state, workspace.progress.map(round));
        if last_printed.as_ref() != Some(&current) {
            print(&format!("waiting: {last}"));
            last_printed = Some(current);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Rounds a pull's percentage down to tens, so that not every percent is printed.
fn round(progress: Progress) -> Progress {
    match progress {
        Progress::Pulling { percent } => Progress::Pulling { percent: percent.map(|percent| percent / 10) },
        other => other,
    }
}

fn describe(workspace: &Workspace) -> String {
    let Workspace { id, state, progress, reason, .. } = workspace;
    match progress {
        Some(progress) => format!("{id} is {state} ({progress})"),
        None => format!("{id} is {state} ({reason})"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// A csm that responds to each request for the workspace's state with the next state, and then repeats the last one.
    struct FakeCsm {
        states: Vec<&'static str>,
        then: Then,
    }

    /// How the fake csm treats the start request once it has sent the last state.
    enum Then {
        KeepWaiting,
        Respond(&'static str),
        Close,
    }

    fn workspace(state: &str) -> String {
        format!(
            r#"{{"id":"dan",{state},"at":5,"reason":"started by dan","failure":null,"log":[],"usage":null,
            "limits":{{"memory":1073741824}},"updatePending":false,"url":"http://dan.localhost/"}}"#
        )
    }

    async fn read_head(connection: &mut UnixStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn respond(connection: &mut UnixStream, state: &str) {
        let body = workspace(state);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.write_all((head + &body).as_bytes()).await.unwrap();
    }

    /// Starts a workspace. Returns the outcome and what was printed.
    async fn start(fake: FakeCsm) -> (Result<Workspace, Failure>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = async {
            let mut waiting = Vec::new();
            let mut states = fake.states.iter().peekable();
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                if read_head(&mut connection).await.starts_with("POST") {
                    waiting.push(connection);
                } else if let Some(state) = states.peek() {
                    respond(&mut connection, state).await;
                    if states.len() > 1 {
                        states.next();
                        continue;
                    }
                    match fake.then {
                        Then::KeepWaiting => {}
                        Then::Close => waiting.clear(),
                        Then::Respond(state) => {
                            for connection in &mut waiting {
                                respond(connection, state).await;
                            }
                        }
                    }
                } else {
                    waiting.push(connection);
                }
            }
        };
        let printed = RefCell::new(Vec::new());
        let client = Client { socket: Some(socket.clone()) };
        let id = "dan".parse().unwrap();
        let outcome = tokio::select! {
            outcome = change(&client, &id, "start", |text| printed.borrow_mut().push(text.to_owned())) => outcome,
            () = serve => unreachable!(),
        };
        (outcome, printed.into_inner())
    }

    const QUEUED: &str = r#""state":"starting","step":"queued""#;
    const WAITING: &str = r#""state":"starting","step":"waiting""#;
    const RUNNING: &str = r#""state":"running","since":5"#;

    #[tokio::test(start_paused = true)]
    async fn a_long_start_prints_each_state_once() {
        let pulling = [
            r#""state":"starting","step":"pulling","percent":11"#,
            r#""state":"starting","step":"pulling","percent":12"#,
        ];
        let states = vec![QUEUED, QUEUED, pulling[0], pulling[1], WAITING, WAITING];
        let (outcome, printed) = start(FakeCsm { states, then: Then::Respond(RUNNING) }).await;
        assert_eq!(outcome.unwrap().state, "running");
        let expected = ["waiting for its turn", "pulling image 11 %", "waiting for code-server"];
        assert_eq!(printed, expected.map(|step| format!("waiting: dan is starting ({step})")));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_start_times_out_with_the_state_and_a_fix() {
        let (outcome, printed) = start(FakeCsm { states: vec![WAITING], then: Then::KeepWaiting }).await;
        let failure = outcome.unwrap_err().to_string();
        assert!(
            failure
                .starts_with("can't wait longer than 10 min to start dan: dan is starting (waiting for code-server); "),
            "{failure}"
        );
        assert!(failure.contains("\"csm logs dan\""), "{failure}");
        assert_eq!(printed.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_csm_that_exits_is_an_error_with_a_fix() {
        let (outcome, _) = start(FakeCsm { states: vec![QUEUED, WAITING], then: Then::Close }).await;
        let failure = outcome.unwrap_err().to_string();
        assert!(failure.starts_with("can't reach csm on /") && failure.contains("; check that csm runs"), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_csm_that_never_responds_is_reported_and_then_an_error() {
        let started = tokio::time::Instant::now();
        let (outcome, printed) = start(FakeCsm { states: vec![], then: Then::KeepWaiting }).await;
        let failure = outcome.unwrap_err().to_string();
        assert!(failure.contains(": none within 30 s; see its log, and restart it"), "{failure}");
        assert_eq!(printed, ["waiting: csm has not sent the state of dan yet"]);
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
