//! `csm shell`.

use std::io::{ErrorKind, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::client::unknown;
use super::{Client, Failure, block_on};
use crate::adapters::account::Account;
use crate::adapters::children::output_within;
use crate::model::container::{HOME, USER, container_name};
use crate::model::label::WorkspaceId;
use crate::model::launch::unit_name;

/// How long Podman may take to inspect a container.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);

fn missing(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("can't run podman: {error}; run \"csm doctor\" to see what is missing"))
}

/// Describes a workspace whose container does not run.
fn not_running(workspace: &WorkspaceId) -> Failure {
    // A shell does not need csm. If csm does not respond, the workspace may exist.
    let found = block_on(Client { socket: None }.look_up(workspace));
    if matches!(found, Ok(None)) {
        return unknown(workspace);
    }
    Failure::new(format!("can't open a shell in {workspace}: it is not running; start it: csm start {workspace}"))
}

pub(super) fn run(workspace: &WorkspaceId, command: &[String]) -> Result<ExitCode, Failure> {
    let unreachable = |error| {
        let unit = unit_name(workspace);
        Failure::new(format!("can't enter {unit}: {error}; check \"systemctl status {unit}\""))
    };
    // Root runs no workspaces, so for root this is a workspace that a unit runs.
    let account = if rustix::process::geteuid().is_root() {
        let account = block_on(async { Account::of(workspace).await.map_err(unreachable) })?;
        Some(account.ok_or_else(|| not_running(workspace))?)
    } else {
        None
    };
    let podman = || account.as_ref().map_or_else(|| Command::new("podman"), Account::podman);
    if !block_on(is_running(podman(), workspace))? {
        return Err(not_running(workspace));
    }
    let has_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if command.is_empty() && !has_terminal {
        return Err(Failure::new(format!(
            "can't open a shell in {workspace}: standard input and output are not a terminal; run a command instead: csm shell {workspace} -- sh"
        )));
    }
    // Only now, because the workspace's limits apply to everything in its cgroup.
    account.as_ref().map_or(Ok(()), Account::enter).map_err(unreachable)?;
    let mut podman = podman();
    podman.args(["exec", "--interactive", &format!("--user={USER}:{USER}"), &format!("--workdir={HOME}/project")]);
    if has_terminal {
        podman.arg("--tty");
    }
    podman.arg(container_name(workspace));
    if command.is_empty() {
        podman.arg("/opt/code-server-multi/terminal");
    } else {
        podman.args(command);
    }
    // exec replaces this process, so Podman's exit status is csm's. It returns only on failure.
    Err(missing(podman.exec()))
}

/// Whether the workspace's container runs.
async fn is_running(mut podman: Command, workspace: &WorkspaceId) -> Result<bool, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("can't inspect the container of {workspace}: {error}; run \"podman info\" as its account"))
    };
    podman.args(["container", "inspect", "--format={{.State.Running}}", &container_name(workspace)]);
    let inspected = output_within(INSPECT_TIMEOUT, podman).await.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => failed(&error),
        _ => missing(error),
    })?;
    let stderr = String::from_utf8_lossy(&inspected.stderr);
    if !inspected.status.success() && !stderr.contains("no such container") {
        return Err(failed(&stderr.trim()));
    }
    Ok(inspected.stdout.trim_ascii() == b"true")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn inspected(script: &str) -> Result<bool, String> {
        let mut podman = Command::new("sh");
        podman.args(["-c", script]);
        is_running(podman, &"dan".parse().unwrap()).await.map_err(|failure| failure.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_podman_that_hangs_is_an_error() {
        let failure = inspected("exec sleep 1000").await.unwrap_err();
        assert!(failure.starts_with("can't inspect the container of dan: \"sh -c exec sleep 1000 "), "{failure}");
        assert!(failure.ends_with("did not exit within 30 s; run \"podman info\" as its account"), "{failure}");
    }

    #[tokio::test]
    async fn a_container_runs_when_podman_says_so() {
        assert_eq!(inspected("echo true").await, Ok(true));
        assert_eq!(inspected("echo false").await, Ok(false));
        assert_eq!(inspected("echo 'Error: no such container csm-dan' >&2; exit 125").await, Ok(false));
        let failure = inspected("echo 'Error: no space left' >&2; exit 125").await.unwrap_err();
        let expected = "can't inspect the container of dan: Error: no space left; run \"podman info\" as its account";
        assert_eq!(failure, expected);
    }
}
