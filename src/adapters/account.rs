//! The account that a workspace's unit runs as, and how root calls Podman as it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Error, Result};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::cgroup;
use super::podman::args;
use crate::model::label::WorkspaceId;
use crate::model::launch::unit_name;

/// What Podman's commands for a workspace have of its launcher's environment.
const SHARED: [&str; 3] = ["HOME", "PATH", "XDG_RUNTIME_DIR"];

/// The account of a workspace whose launcher runs.
pub struct Account {
    uid: u32,
    gid: u32,
    environment: Vec<(OsString, OsString)>,
    cgroup: PathBuf,
}

impl Account {
    /// The account of a workspace, for root; `None` when its unit is not active.
    pub fn of(workspace: &WorkspaceId) -> Result<Option<Self>> {
        let unit = unit_name(workspace);
        let properties = "--property=MainPID,ActiveState,FreezerState";
        let asked = Command::new("systemctl").args(["show", properties, &unit]).output();
        let asked = asked.map_err(|error| Error::other(format!("can't run systemctl: {error}")))?;
        let said = String::from_utf8_lossy(&asked.stdout);
        let property = |name| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let (Some(process), Some(state)) = (property("MainPID"), property("ActiveState")) else {
            let why = String::from_utf8_lossy(&asked.stderr);
            return Err(Error::other(format!("systemctl tells nothing of {unit}: {}", why.trim())));
        };
        if state != "active" || process == "0" {
            return Ok(None);
        }
        // Whoever enters a frozen cgroup is frozen too.
        if property("FreezerState").is_some_and(|state| state != "running") {
            return Err(Error::other(format!("it is frozen; let it go on first: csm start {workspace}")));
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
        let environment = shared(&fs::read(process.join("environ"))?);
        Ok(Some(Self { uid, gid, environment, cgroup: Path::new(cgroup::ROOT).join(cgroup) }))
    }

    /// Moves this process into the launcher's cgroup: an account may move processes into the container's only from a cgroup that is
    /// its own as well. As in the unit, what runs there leaves no core dump, which could hold secrets.
    pub fn enter(&self) -> Result<()> {
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        fs::write(self.cgroup.join("cgroup.procs"), std::process::id().to_string())
    }

    /// `podman` as this account's launcher calls it, with nothing of root's environment but its terminal's name.
    pub fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.args(args::IN_UNIT).uid(self.uid).gid(self.gid).current_dir("/");
        podman.env_clear().envs(self.environment.iter().cloned()).envs([args::NO_BUS]);
        podman.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
        podman
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
