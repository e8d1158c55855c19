//! `csm shell`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::IsTerminal as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use super::Failure;
use crate::adapters::podman::args;
use crate::model::container::{HOME, USER, container_name};
use crate::model::label::WorkspaceId;
use crate::model::launch::unit_name;

/// What Podman's commands for a workspace have of its launcher's environment.
const SHARED: [&str; 3] = ["HOME", "PATH", "XDG_RUNTIME_DIR"];

pub(super) fn run(workspace: &WorkspaceId, command: &[String]) -> Result<ExitCode, Failure> {
    let missing = |error| Failure::new(format!("can't run podman: {error}; \"csm doctor\" tells what is missing"));
    let stopped = || Failure::new(format!("{workspace} does not run; start it first: csm start {workspace}"));
    // Root has no workspaces of its own: it means the one that a unit runs.
    let account = if rustix::process::geteuid().is_root() {
        let launcher = main_pid(&unit_name(workspace))?.ok_or_else(stopped)?;
        Some(Account::of(&launcher, workspace).map_err(|error| {
            Failure::new(format!("can't reach the unit of {workspace}, whose main process is {launcher}: {error}"))
        })?)
    } else {
        None
    };
    let name = container_name(workspace);
    let inspect = ["container", "inspect", "--format={{.State.Running}}", &name];
    let asked = podman(account.as_ref()).args(inspect).output().map_err(missing)?;
    if asked.stdout.trim_ascii() != b"true" {
        return Err(stopped());
    }
    let mut podman = podman(account.as_ref());
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

/// The account that a workspace's unit runs as.
struct Account {
    uid: u32,
    gid: u32,
    environment: Vec<(OsString, OsString)>,
}

impl Account {
    /// That of this launcher. Moves this process into the launcher's cgroup: an account may move processes into the container's
    /// only from a cgroup that is its own as well.
    fn of(launcher: &str, workspace: &WorkspaceId) -> Result<Self, std::io::Error> {
        let process = Path::new("/proc").join(launcher);
        let cgroup = fs::read_to_string(process.join("cgroup"))?;
        let cgroup = cgroup.trim_end().strip_prefix("0::/").filter(|path| path.contains(&unit_name(workspace)));
        let status = fs::read_to_string(process.join("status"))?;
        let id =
            |name| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        let (Some(cgroup), Some(uid @ 1..), Some(gid @ 1..)) = (cgroup, id("Uid:"), id("Gid:")) else {
            return Err(std::io::Error::other("it is not the launcher of a workspace"));
        };
        let environment = fs::read(process.join("environ"))?;
        fs::write(Path::new("/sys/fs/cgroup").join(cgroup).join("cgroup.procs"), std::process::id().to_string())?;
        Ok(Self { uid, gid, environment: shared(&environment) })
    }
}

/// What counts of `/proc/PID/environ`.
fn shared(environment: &[u8]) -> Vec<(OsString, OsString)> {
    let variables = environment.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&variable[..at]), OsString::from_vec(variable[at + 1..].to_vec())))
    });
    let kept = variables.filter(|(name, _)| SHARED.iter().any(|shared| name == shared));
    kept.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn main_pid(unit: &str) -> Result<Option<String>, Failure> {
    let asked = Command::new("systemctl").args(["show", "--property=MainPID", "--value", unit]).output();
    let asked =
        asked.map_err(|error| Failure::new(format!("can't run systemctl: {error}; is this a systemd machine?")))?;
    let pid = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    Ok(Some(pid).filter(|pid| !matches!(pid.as_str(), "" | "0")))
}

/// Podman as this account's launcher calls it, or as it stands.
fn podman(account: Option<&Account>) -> Command {
    let mut podman = Command::new("podman");
    if let Some(account) = account {
        podman.args(args::IN_UNIT).uid(account.uid).gid(account.gid).current_dir("/");
        podman.env_clear().envs(account.environment.iter().cloned()).envs([args::NO_BUS]);
        podman.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    }
    podman
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_environment_only_what_podman_needs_counts() {
        let found = shared(b"PATH=/a:/b\0LD_PRELOAD=/evil.so\0HOME=/var/lib/x=y\0nothing\0\0");
        let expected = [("PATH", "/a:/b"), ("HOME", "/var/lib/x=y")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(found, expected);
    }
}
