//! `csm shell`.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::Failure;
use crate::adapters::account::Account;
use crate::model::container::{HOME, USER, container_name};
use crate::model::label::WorkspaceId;

pub(super) fn run(workspace: &WorkspaceId, command: &[String]) -> Result<ExitCode, Failure> {
    let missing = |error| Failure::new(format!("can't run podman: {error}; \"csm doctor\" tells what is missing"));
    let stopped = || Failure::new(format!("{workspace} does not run; start it first: csm start {workspace}"));
    // Root has no workspaces of its own: it means the one that a unit runs.
    let unreachable = |error| Failure::new(format!("can't reach the unit of {workspace}: {error}"));
    let account = if rustix::process::geteuid().is_root() {
        Some(Account::of(workspace).map_err(unreachable)?.ok_or_else(stopped)?)
    } else {
        None
    };
    let podman = || account.as_ref().map_or_else(|| Command::new("podman"), Account::podman);
    let name = container_name(workspace);
    let inspect = ["container", "inspect", "--format={{.State.Running}}", &name];
    let asked = podman().args(inspect).output().map_err(missing)?;
    let why = String::from_utf8_lossy(&asked.stderr);
    if !asked.status.success() && !why.contains("no such container") {
        return Err(Failure::new(format!("podman can't tell whether {workspace} runs: {}", why.trim())));
    }
    if asked.stdout.trim_ascii() != b"true" {
        return Err(stopped());
    }
    // Not before: in there, the workspace's limits count.
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
    // It takes this process's place, so that its exit status is ours. It only returns when it could not.
    Err(missing(podman.exec()))
}
