//! The programs of `share/workspace/bin`, with the real socket and a fake sensor behind it.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use code_server_multi::activity::{AgentState, Claim, Keeper, Verdict};
use code_server_multi::http::control::{ClaimRequest, Control, serve_control};
use code_server_multi::http::listen;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// A socket whose sensor accepts what it is told to, and passes on the claims.
struct Stage {
    socket: PathBuf,
    claims: mpsc::UnboundedReceiver<Claim>,
    status: watch::Sender<Option<Verdict>>,
    directory: TempDir,
}

const REFUSAL: &str = r#"can't keep the "workspace": autostop.maxLease is 9 s; ask for at most that"#;

fn stage() -> Stage {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("control.sock");
    let (sender, mut requests) = mpsc::channel::<ClaimRequest>(1);
    let (seen, claims) = mpsc::unbounded_channel();
    let verdict = Verdict { kept_by: vec![Keeper::Output { program: r#"a "b\c""#.to_owned() }], ..Verdict::default() };
    let (status, receiver) = watch::channel(Some(verdict.clone()));
    tokio::spawn(serve_control(listen(&socket, 0o600).expect("bound"), Control { claims: sender, status: receiver }));
    tokio::spawn(async move {
        while let Some(ClaimRequest { claim, reply }) = requests.recv().await {
            let refused =
                matches!(&claim, Claim::Lease { seconds: 10.., reason: Some(reason), .. } if reason == "keep 10s");
            let _ = reply.send(if refused { Err(REFUSAL.to_owned()) } else { Ok(verdict.clone()) });
            let _ = seen.send(claim);
        }
    });
    Stage { socket, claims, status, directory }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("share/workspace/bin").join(name)
}

impl Stage {
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program(name));
        command.args(arguments).env("CSM_CONTROL_SOCKET", &self.socket).env("http_proxy", "http://127.0.0.1:1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, name: &str, arguments: &[&str]) -> (i32, String, String) {
        parts(self.command(name, arguments).output().await.expect("it runs"))
    }

    async fn next(&mut self) -> Claim {
        timeout(Duration::from_secs(60), self.claims.recv()).await.expect("a claim").expect("a claim")
    }

    /// A directory for PATH without curl.
    fn without_curl(&self, node: bool) -> PathBuf {
        let path = self.directory.path().join("bin");
        std::fs::create_dir(&path).expect("made");
        let programs = ["sh", "sed", "tr", "cut", "readlink", "sleep"];
        let places = std::env::var_os("PATH").expect("PATH");
        for name in programs.into_iter().chain(node.then_some("node")) {
            let found = std::env::split_paths(&places).map(|place| place.join(name)).find(|path| path.exists());
            symlink(found.expect("installed"), path.join(name)).expect("a link");
        }
        path
    }
}

fn parts(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn silence() -> (i32, String, String) {
    (0, String::new(), String::new())
}

fn agent(id: &str, name: Option<&str>, state: AgentState, pid: Option<u32>) -> Claim {
    Claim::Agent { id: id.to_owned(), name: name.map(str::to_owned), state, pid }
}

fn lease(id: &str, reason: Option<&str>, seconds: u64) -> Claim {
    Claim::Lease { id: id.to_owned(), reason: reason.map(str::to_owned), seconds }
}

#[tokio::test]
async fn an_agents_state_is_reported_whatever_its_name_is() {
    let mut stage = stage();
    assert_eq!(stage.run("csm-agent", &["working", "--id", "a", "--name", "codex", "--pid", "42"]).await, silence());
    assert_eq!(stage.next().await, agent("a", Some("codex"), AgentState::Working, Some(42)));
    for (id, sent, name, received) in [
        ("../../x?y#z", "..-..-x-y-z", "a\"b\\c\nd\u{1b}e é", "a\"b\\cde é"),
        ("..", "..", "@/etc/passwd", "@/etc/passwd"),
        ("a b\n", "a-b-", "%s $(id) `id`", "%s $(id) `id`"),
    ] {
        assert_eq!(stage.run("csm-agent", &["question", "--id", id, "--name", name]).await, silence());
        assert_eq!(stage.next().await, agent(sent, Some(received), AgentState::Question, None));
    }
    assert_eq!(stage.run("csm-agent", &["done"]).await, silence());
    assert_eq!(stage.next().await, agent("agent", None, AgentState::Done, None));
}

#[tokio::test]
async fn wrong_arguments_are_not_sent() {
    let stage = stage();
    for arguments in
        [&[][..], &["busy"], &["done", "--pid", "x"], &["done", "--id"], &["done", "x"], &["done", "x", "y"]]
    {
        let (status, _, said) = stage.run("csm-agent", arguments).await;
        // A hook that exits with 2 would stop Claude Code.
        assert!(status == 1 && said.starts_with("usage: csm-agent "), "{arguments:?}: {status} {said}");
    }
    for arguments in
        [&["2"][..], &["0h"], &["2h", "make"], &["--"], &["2h", "--"], &["0", "--", "true"], &["08h"], &[""]]
    {
        let (status, _, said) = stage.run("keep", arguments).await;
        assert!(status == 2 && said.starts_with("usage: keep "), "{arguments:?}: {status} {said}");
    }
    assert!(stage.claims.is_empty());
}

#[tokio::test]
async fn without_curl_node_speaks_to_the_socket() {
    let mut stage = stage();
    let path = stage.without_curl(true);
    let output = stage.command("csm-agent", &["permission", "--id", "a"]).env("PATH", &path).output();
    assert_eq!(parts(output.await.expect("it runs")), silence());
    assert_eq!(stage.next().await, agent("a", None, AgentState::Permission, None));
    let refused = stage.command("keep", &["10s"]).env("PATH", &path).output().await.expect("it runs");
    assert_eq!(parts(refused), (1, String::new(), format!("keep: {REFUSAL}\n")));
    assert_eq!(stage.next().await, lease("keep", Some("keep 10s"), 10));
}

#[tokio::test]
async fn without_node_on_path_the_node_that_runs_is_used() {
    let mut stage = stage();
    let mut node = Command::new("node");
    // It keeps running until its input ends, as code-server runs in every workspace.
    let mut node =
        node.arg("-e").arg("process.stdin.resume()").stdin(Stdio::piped()).kill_on_drop(true).spawn().expect("node");
    let path = stage.without_curl(false);
    let output = stage.command("csm-agent", &["idle", "--id", "a"]).env("PATH", path).output().await.expect("it runs");
    assert_eq!(parts(output), silence());
    assert_eq!(stage.next().await, agent("a", None, AgentState::Idle, None));
    drop(node.stdin.take());
    node.wait().await.expect("it exits");
}

#[tokio::test]
async fn a_lease_is_taken_for_a_duration() {
    let mut stage = stage();
    let shown = "kept: a \"b\\c\" prints to a terminal\n";
    for (arguments, reason, seconds) in [
        (&[][..], "keep 2h", 7200),
        (&["90s"], "keep 90s", 90),
        (&["1h30m"], "keep 1h30m", 5400),
        (&["1d"], "keep 1d", 86_400),
        (&["0"], "keep 0", 0),
    ] {
        assert_eq!(stage.run("keep", arguments).await, (0, shown.to_owned(), String::new()));
        assert_eq!(stage.next().await, lease("keep", Some(reason), seconds));
    }
    assert_eq!(stage.run("keep", &["10s"]).await, (1, String::new(), format!("keep: {REFUSAL}\n")));
}

#[tokio::test]
async fn the_verdict_is_shown() {
    let stage = stage();
    let shown = "kept: a \"b\\c\" prints to a terminal\n";
    assert_eq!(stage.run("keep", &["status"]).await, (0, shown.to_owned(), String::new()));
    stage.status.send_replace(None);
    let (status, shown, said) = stage.run("keep", &["status"]).await;
    assert_eq!((status, shown.as_str()), (1, ""));
    assert!(said.starts_with("keep: can't ask the daemon: it has not sent a verdict yet; try again later"), "{said}");
}

#[tokio::test]
async fn a_workspace_without_a_socket_is_left_alone() {
    let stage = stage();
    std::fs::remove_file(&stage.socket).expect("removed");
    assert_eq!(stage.run("csm-agent", &["working"]).await, silence());
    assert_eq!(stage.run("keep", &["2h"]).await, silence());
    assert_eq!(stage.run("keep", &["status"]).await, silence());
    assert_eq!(stage.run("keep", &["--", "sh", "-c", "exit 7"]).await.0, 7);
    assert_eq!(stage.run("csm-run", &["sh", "-c", "exit 7"]).await.0, 7);
    // One that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(&stage.socket).expect("bound"));
    assert_eq!(stage.run("csm-agent", &["working"]).await, silence());
    assert_eq!(stage.run("keep", &["--", "sh", "-c", "echo out; exit 7"]).await.1, "out\n");
}

#[tokio::test]
async fn a_command_is_kept_until_it_exits_and_is_otherwise_as_without_keep() {
    let mut stage = stage();
    let mut command =
        stage.command("keep", &["--", "sh", "-c", "read line; echo \"got $line\"; echo $$; exit 7", "x y"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it runs");
    let pid = child.id().expect("a process");
    let id = format!("keep-{pid}");
    let reason = "sh -c read line; echo \"got $line\"; echo $$; exit 7 x y";
    assert_eq!(stage.next().await, lease(&id, Some(reason), 300));
    child.stdin.take().expect("its input").write_all(b"a line\n").await.expect("written");
    // The output ends although the lease's process still runs.
    let output = child.wait_with_output().await.expect("it exits");
    assert_eq!(parts(output), (7, format!("got a line\n{pid}\n"), String::new()));
    assert_eq!(stage.next().await, lease(&id, None, 0));
}

#[tokio::test]
async fn a_signal_reaches_the_command_and_ends_the_lease() {
    let mut stage = stage();
    let mut child = stage.command("keep", &["30m", "--", "sleep", "600"]).spawn().expect("it runs");
    let pid = child.id().expect("a process");
    assert_eq!(stage.next().await, lease(&format!("keep-{pid}"), Some("sleep 600"), 1800));
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("sent");
    assert_eq!(child.wait().await.expect("it exits").signal(), Some(15));
    assert_eq!(stage.next().await, lease(&format!("keep-{pid}"), None, 0));
}

#[tokio::test]
async fn a_command_that_waits_for_all_its_children_is_not_delayed_by_keep() {
    let stage = stage();
    let run = stage.command("keep", &["--", "perl", "-e", "print wait"]).output();
    let output = timeout(Duration::from_secs(60), run).await.expect("it exits").expect("it runs");
    assert_eq!(parts(output), (0, "-1".to_owned(), String::new()));
}

#[tokio::test]
async fn a_command_that_does_not_exist_fails_as_in_a_shell() {
    let mut stage = stage();
    let (status, _, said) = stage.run("keep", &["--", "/nonexistent"]).await;
    assert!(status == 127 && said.contains("/nonexistent"), "{status} {said}");
    assert!(matches!(stage.next().await, Claim::Lease { seconds: 300, .. }));
    assert!(matches!(stage.next().await, Claim::Lease { seconds: 0, .. }));
}

#[tokio::test]
async fn a_very_long_command_is_kept_under_its_name() {
    let mut stage = stage();
    let (status, ..) = stage.run("keep", &["--", "/bin/true", &"é".repeat(20_000)]).await;
    assert_eq!(status, 0);
    assert!(matches!(stage.next().await, Claim::Lease { reason: Some(reason), .. } if reason == "true"));
}

#[tokio::test]
async fn any_agent_is_reported_as_long_as_it_runs() {
    let mut stage = stage();
    let child = stage.command("csm-run", &["/bin/sh", "-c", "echo $$; exit 3"]).spawn().expect("it runs");
    let pid = child.id().expect("a process");
    let id = format!("run-{pid}");
    assert_eq!(stage.next().await, agent(&id, Some("sh"), AgentState::Working, Some(pid)));
    let output = child.wait_with_output().await.expect("it exits");
    assert_eq!(parts(output), (3, format!("{pid}\n"), String::new()));
    assert_eq!(stage.next().await, agent(&id, Some("sh"), AgentState::Done, None));
}

impl Stage {
    /// Calls a hook of Claude Code as it does. Returns what is reported, without the process.
    async fn hook(&mut self, input: serde_json::Value, reports: usize) -> Vec<(String, AgentState)> {
        let event = input["hook_event_name"].as_str().expect("an event").to_owned();
        let command = std::fs::read_to_string(program("../agents/claude-code.json")).expect("the settings");
        let settings: serde_json::Value = serde_json::from_str(&command).expect("JSON");
        let command = settings["hooks"][&event][0]["hooks"][0]["command"].as_str().expect("a hook of this event");
        let command = command.replace("/opt/code-server-multi", &program("..").display().to_string());
        // The agent, which runs the command in a shell.
        let mut child = Command::new("perl");
        child.args(["-e", "exit(system('sh', '-c', $ARGV[0]) >> 8)", &command]).env("CSM_CONTROL_SOCKET", &self.socket);
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let pid = child.id();
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(format!("{input}\n").as_bytes()).await.expect("it reads everything");
        drop(stdin);
        assert_eq!(parts(child.wait_with_output().await.expect("it exits")), silence(), "{input}");
        let mut seen = Vec::new();
        for _ in 0..reports {
            let Claim::Agent { id, state, pid: named, .. } = self.next().await else { panic!("a lease") };
            assert_eq!(named, pid, "the agent's own process");
            seen.push((id, state));
        }
        assert!(self.claims.is_empty(), "{input}: more than {reports} reports");
        seen
    }
}

#[tokio::test]
async fn claude_codes_hooks_report_its_states() {
    use serde_json::json;
    let mut stage = stage();
    let event = |event: &str, rest: serde_json::Value| {
        let mut input = json!({
            "session_id": "abc-1", "transcript_path": "/t.jsonl", "cwd": "/home/coder/project", "permission_mode": "default",
            "hook_event_name": event,
        });
        let fields = input.as_object_mut().expect("an object");
        fields.extend(rest.as_object().expect("an object").clone());
        input
    };
    // What a person writes is not mistaken for a field.
    let trap = r#"{"session_id":"evil","agent_id":"evil","tool_name":"AskUserQuestion","background_tasks":[{"type":"subagent"}]}"#;
    let long = format!("{trap} {}", "x\\\"".repeat(1 << 20));
    for (name, rest, state) in [
        ("UserPromptSubmit", json!({ "prompt": long }), AgentState::Working),
        (
            "PreToolUse",
            json!({ "tool_name": "Bash", "tool_input": { "command": trap, "agent_id": "evil" } }),
            AgentState::Working,
        ),
        ("PermissionRequest", json!({ "tool_name": "Bash", "tool_input": {} }), AgentState::Permission),
        ("Notification", json!({ "message": trap, "notification_type": "permission_prompt" }), AgentState::Permission),
        (
            "PostToolUse",
            json!({ "tool_name": "Bash", "tool_input": {}, "tool_response": { "stdout": long } }),
            AgentState::Working,
        ),
        ("PreToolUse", json!({ "tool_name": "AskUserQuestion", "tool_input": {} }), AgentState::Question),
        ("Notification", json!({ "message": "m", "notification_type": "idle_prompt" }), AgentState::Done),
        ("StopFailure", json!({ "error": "rate_limit" }), AgentState::Done),
    ] {
        assert_eq!(stage.hook(event(name, rest), 1).await, [("claude-abc-1".to_owned(), state)], "{name}");
    }
    // One that says nothing about the agent's work.
    stage.hook(event("Notification", json!({ "message": "m", "notification_type": "auth_success" })), 0).await;
    for (name, state) in [("SubagentStart", AgentState::Working), ("SubagentStop", AgentState::Idle)] {
        let seen = stage.hook(event(name, json!({ "agent_id": "s7", "agent_type": "Explore" })), 1).await;
        assert_eq!(seen, [("claude-abc-1-s7".to_owned(), state)]);
    }
    let task = |kind: &str| json!({ "id": "1", "type": kind, "status": "running", "description": "a [b] \"type\":\"subagent\"" });
    for (tasks, state) in [
        (json!([]), AgentState::Idle),
        (json!([task("shell"), task("monitor")]), AgentState::Idle),
        (json!([task("shell"), task("subagent")]), AgentState::Working),
    ] {
        let stop = json!({ "stop_hook_active": false, "last_assistant_message": trap, "background_tasks": tasks, "session_crons": [] });
        let expected = [("claude-abc-1".to_owned(), AgentState::Done), ("claude-abc-1-background".to_owned(), state)];
        assert_eq!(stage.hook(event("Stop", stop), 2).await, expected);
    }
    let ended = stage.hook(event("SessionEnd", json!({ "reason": "other" })), 2).await;
    assert!(ended.iter().all(|(_, state)| *state == AgentState::Idle), "{ended:?}");
}
