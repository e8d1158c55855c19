//! `csm start`, `freeze`, `stop`, `restart`: ask, and wait for the outcome.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use tokio::time::{sleep, timeout};

use super::client::{Workspace, parse};
use super::{Client, Failure, Target, block_on};
use crate::model::label::WorkspaceId;
use crate::model::workspace::Progress;

/// How long nothing is said: most of what is asked for is done by then.
const QUIET: Duration = Duration::from_secs(2);

/// How often it is looked how far csm has come, for the words about it. Its response comes without being looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the outcome is waited for. A big image may take longer; csm goes on with it.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

pub(super) fn run(target: &Target, verb: &str) -> Result<ExitCode, Failure> {
    let now = block_on(change(&target.client, &target.workspace, verb, |text| eprintln!("{text}")))?;
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
        // Somebody else may have asked for something else meanwhile; and what does not run can't be frozen.
        let (id, now) = (&now.id, describe(&now));
        return Err(Failure::new(format!("can't {verb} {id}: {now}; run \"csm status {id}\", then try again")));
    }
    println!("{}: {}", now.id, now.state);
    Ok(ExitCode::SUCCESS)
}

/// Asks for something, and waits until the workspace has settled. What takes long is said, and so is each further state.
async fn change(client: &Client, id: &WorkspaceId, verb: &str, say: impl Fn(&str)) -> Result<Workspace, Failure> {
    let mut last = "csm has not responded yet".to_owned();
    let outcome = async {
        let path = format!("/api/v1/workspaces/{id}/{verb}?wait=true");
        let answer = client.ask(Method::POST, &path, String::new()).await?;
        parse(&client.read(answer).await?)
    };
    let ended = timeout(WAIT_LIMIT, async {
        tokio::select! {
            outcome = outcome => outcome,
            failure = report(client, id, &mut last, say) => Err(failure),
        }
    });
    if let Ok(outcome) = ended.await {
        return outcome;
    }
    let minutes = WAIT_LIMIT.as_secs() / 60;
    Err(Failure::new(format!(
        "can't wait longer than {minutes} min to {verb} {id}: {last}; csm continues, so see \"csm status {id}\" and \"csm logs {id}\""
    )))
}

/// Says what is waited for, as long as csm responds; its failure to respond is the outcome.
async fn report(client: &Client, id: &WorkspaceId, last: &mut String, say: impl Fn(&str)) -> Failure {
    let path = format!("/api/v1/workspaces/{id}");
    let mut told = None;
    sleep(QUIET).await;
    loop {
        let mut asked = Box::pin(client.get::<Workspace>(&path));
        let in_time = timeout(QUIET, &mut asked).await.ok();
        if in_time.is_none() {
            say(&format!("waiting: csm has not responded to a question about {id} yet"));
            told = None;
        }
        let found = match in_time {
            Some(found) => found,
            None => asked.await,
        };
        let workspace = match found {
            Ok(workspace) => workspace,
            Err(failure) => return failure,
        };
        *last = describe(&workspace);
        let news = (workspace.state, workspace.progress.map(step));
        if told.as_ref() != Some(&news) {
            say(&format!("waiting: {last}"));
            told = Some(news);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// A start's progress as far as it is news: not each percent.
fn step(progress: Progress) -> Progress {
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

    /// What a csm on a socket says to questions about a workspace, the last one again and again.
    struct Fake {
        states: Vec<&'static str>,
        then: Then,
    }

    /// What it does about the start that it was asked for, when it has said the last state.
    enum Then {
        Nothing,
        Respond(&'static str),
        Close,
    }

    fn workspace(state: &str) -> String {
        format!(
            r#"{{"id":"dan",{state},"at":5,"reason":"started by dan","failure":"","log":[],"usage":null,
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

    /// The outcome of a start, and what was said meanwhile.
    async fn start(fake: Fake) -> (Result<Workspace, Failure>, Vec<String>) {
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
                        Then::Nothing => {}
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
        let said = RefCell::new(Vec::new());
        let client = Client { socket: Some(socket.clone()) };
        let id = "dan".parse().unwrap();
        let outcome = tokio::select! {
            outcome = change(&client, &id, "start", |text| said.borrow_mut().push(text.to_owned())) => outcome,
            () = serve => unreachable!(),
        };
        (outcome, said.into_inner())
    }

    const QUEUED: &str = r#""state":"starting","step":"queued""#;
    const WAITING: &str = r#""state":"starting","step":"waiting""#;
    const RUNNING: &str = r#""state":"running","since":5"#;

    #[tokio::test(start_paused = true)]
    async fn a_start_that_takes_long_says_each_state_once() {
        let pulling = [
            r#""state":"starting","step":"pulling","percent":11"#,
            r#""state":"starting","step":"pulling","percent":12"#,
        ];
        let states = vec![QUEUED, QUEUED, pulling[0], pulling[1], WAITING, WAITING];
        let (outcome, said) = start(Fake { states, then: Then::Respond(RUNNING) }).await;
        assert_eq!(outcome.unwrap().state, "running");
        let expected = ["waiting for its turn", "pulling image 11 %", "waiting for code-server"];
        assert_eq!(said, expected.map(|step| format!("waiting: dan is starting ({step})")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_never_settles_has_an_end_that_says_what_to_do() {
        let (outcome, said) = start(Fake { states: vec![WAITING], then: Then::Nothing }).await;
        let failure = outcome.unwrap_err().to_string();
        assert!(
            failure
                .starts_with("can't wait longer than 10 min to start dan: dan is starting (waiting for code-server); "),
            "{failure}"
        );
        assert!(failure.contains("\"csm logs dan\""), "{failure}");
        assert_eq!(said.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_csm_that_goes_away_is_an_error_that_says_what_to_do() {
        let (outcome, _) = start(Fake { states: vec![QUEUED, WAITING], then: Then::Close }).await;
        let failure = outcome.unwrap_err().to_string();
        assert!(failure.starts_with("can't reach csm on /") && failure.contains("; check that csm runs"), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_csm_that_never_responds_is_said_and_then_an_error() {
        let begun = tokio::time::Instant::now();
        let (outcome, said) = start(Fake { states: vec![], then: Then::Nothing }).await;
        let failure = outcome.unwrap_err().to_string();
        assert!(failure.contains(": none within 30 s; see its log, and restart it"), "{failure}");
        assert_eq!(said, ["waiting: csm has not responded to a question about dan yet"]);
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
