//! The account that a workspace's unit runs as, and how root runs Podman as that account.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Error, Result};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::cgroup;
use super::children::output_within;
use super::podman::args;
use crate::model::label::WorkspaceId;
use crate::model::launch::unit_name;

/// The environment variables that Podman's commands for a workspace inherit from its launcher.
const INHERITED: [&str; 3] = ["HOME", "PATH", "XDG_RUNTIME_DIR"];

/// How long systemd may take to show a unit.
const SHOW_TIMEOUT: Duration = Duration::from_secs(30);

/// The account of a workspace with a running launcher.
pub struct Account {
    uid: u32,
    gid: u32,
    environment: Vec<(OsString, OsString)>,
    cgroup: PathBuf,
}

impl Account {
    /// Finds the account of a workspace; only root can. `None` if its unit is not active.
    pub async fn of(workspace: &WorkspaceId) -> Result<Option<Self>> {
        let unit = unit_name(workspace);
        let mut show = Command::new("systemctl");
        show.args(["show", "--property=MainPID,ActiveState,FreezerState", &unit]);
        let shown = output_within(SHOW_TIMEOUT, show)
            .await
            .map_err(|error| Error::other(format!("can't run systemctl: {error}")))?;
        let stdout = String::from_utf8_lossy(&shown.stdout);
        let property = |name| stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let (Some(process), Some(state)) = (property("MainPID"), property("ActiveState")) else {
            let stderr = String::from_utf8_lossy(&shown.stderr);
            return Err(Error::other(format!("systemctl does not show its state: {}", stderr.trim())));
        };
        if state != "active" || process == "0" {
            return Ok(None);
        }
        // A process that enters a frozen cgroup is frozen too.
        if property("FreezerState").is_some_and(|state| state != "running") {
            return Err(Error::other(format!("{workspace} is frozen; thaw it first: csm start {workspace}")));
        }
        let process = Path::new("/proc").join(process);
        let membership = fs::read_to_string(process.join("cgroup"))?;
        let cgroup = cgroup::unified(&membership).filter(|path| path.contains(&unit));
        let status = fs::read_to_string(process.join("status"))?;
        let id =
            |name| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        let (Some(cgroup), Some(uid @ 1..), Some(gid @ 1..)) = (cgroup, id("Uid:"), id("Gid:")) else {
            return Err(Error::other(format!("{} is not the launcher of a workspace", process.display())));
        };
        let environment = inherited(&fs::read(process.join("environ"))?);
        Ok(Some(Self { uid, gid, environment, cgroup: Path::new(cgroup::ROOT).join(cgroup) }))
    }

    /// Moves this process into the launcher's cgroup: an account can move processes into the container's cgroup only from another cgroup
    /// that it owns. As in the unit, core dumps are disabled, because they could contain secrets.
    pub fn enter(&self) -> Result<()> {
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        fs::write(self.cgroup.join("cgroup.procs"), std::process::id().to_string())
    }

    /// `podman` as the launcher runs it. Of root's environment it gets only `TERM`.
    pub fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.args(args::IN_UNIT).uid(self.uid).gid(self.gid).current_dir("/");
        podman.env_clear().envs(self.environment.iter().cloned()).envs([args::NO_BUS]);
        podman.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
        podman
    }
}

/// The inherited variables in the content of `/proc/PID/environ`.
fn inherited(environment: &[u8]) -> Vec<(OsString, OsString)> {
    let variables = environment.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&variable[..at]), OsString::from_vec(variable[at + 1..].to_vec())))
    });
    let kept = variables.filter(|(name, _)| INHERITED.iter().any(|inherited| name == inherited));
    kept.map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_variables_that_podman_needs_are_inherited() {
        let found = inherited(b"PATH=/a:/b\0LD_PRELOAD=/evil.so\0HOME=/var/lib/x=y\0nothing\0\0");
        let expected = [("PATH", "/a:/b"), ("HOME", "/var/lib/x=y")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(found, expected);
    }
}
