//! `csm shell`.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::Failure;
use crate::model::container::{HOME, USER, container_name};
use crate::model::label::WorkspaceId;

pub(super) fn run(workspace: &WorkspaceId, command: &[String]) -> Result<ExitCode, Failure> {
    let mut podman = Command::new("podman");
    podman.args(["exec", "--interactive", &format!("--user={USER}:{USER}"), &format!("--workdir={HOME}/project")]);
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        podman.arg("--tty");
    }
    podman.arg(container_name(workspace));
    if command.is_empty() {
        podman.arg("/opt/code-server-multi/terminal");
    } else {
        podman.args(command);
    }
    // It takes this process's place, so that its exit status is ours. It only returns when it could not.
    let error = podman.exec();
    Err(Failure::new(format!("can't run podman: {error}; \"csm doctor\" tells what is missing")))
}
