//! `csm shell`.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::Failure;
use crate::adapters::account::Account;
use crate::model::container::{HOME, USER, container_name};
use crate::model::label::WorkspaceId;
use crate::model::launch::unit_name;

pub(super) fn run(workspace: &WorkspaceId, command: &[String]) -> Result<ExitCode, Failure> {
    let missing = |error| Failure::new(format!("can't run podman: {error}; run \"csm doctor\" to see what is missing"));
    let stopped = || {
        Failure::new(format!("can't open a shell in {workspace}: it is not running; start it: csm start {workspace}"))
    };
    let unreachable = |error| {
        let unit = unit_name(workspace);
        Failure::new(format!("can't enter {unit}: {error}; check \"systemctl status {unit}\""))
    };
    // Root runs no workspaces, so for root this is a workspace that a unit runs.
    let account = if rustix::process::geteuid().is_root() {
        Some(Account::of(workspace).map_err(unreachable)?.ok_or_else(stopped)?)
    } else {
        None
    };
    let podman = || account.as_ref().map_or_else(|| Command::new("podman"), Account::podman);
    let name = container_name(workspace);
    let inspect = ["container", "inspect", "--format={{.State.Running}}", &name];
    let inspected = podman().args(inspect).output().map_err(missing)?;
    let stderr = String::from_utf8_lossy(&inspected.stderr);
    if !inspected.status.success() && !stderr.contains("no such container") {
        let error = stderr.trim();
        return Err(Failure::new(format!(
            "can't inspect the container of {workspace}: {error}; run \"podman info\" as its account"
        )));
    }
    if inspected.stdout.trim_ascii() != b"true" {
        return Err(stopped());
    }
    // Only now, because the workspace's limits apply to everything in its cgroup.
    account.as_ref().map_or(Ok(()), Account::enter).map_err(unreachable)?;
    let mut podman = podman();
    podman.args(["exec", "--interactive", &format!("--user={USER}:{USER}"), &format!("--workdir={HOME}/project")]);
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        podman.arg("--tty");
    }
    podman.arg(name);
    if command.is_empty() {
        podman.arg("/opt/code-server-multi/terminal");
    } else {
        podman.args(command);
    }
    // exec replaces this process, so Podman's exit status is csm's. It returns only on failure.
    Err(missing(podman.exec()))
}
