//! The account that a workspace's unit runs as, and how root calls Podman as it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Error, Result};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

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
}

impl Account {
    /// The account of a workspace, for root; `None` when its unit does not run. Moves this process into the launcher's cgroup: an
    /// account may move processes into the container's only from a cgroup that is its own as well.
    pub fn enter(workspace: &WorkspaceId) -> Result<Option<Self>> {
        let unit = unit_name(workspace);
        let asked = Command::new("systemctl").args(["show", "--property=MainPID", "--value", &unit]).output();
        let asked = asked.map_err(|error| Error::other(format!("can't run systemctl: {error}")))?;
        let process = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        if matches!(process.as_str(), "" | "0") {
            return Ok(None);
        }
        let process = Path::new("/proc").join(process);
        let cgroup = fs::read_to_string(process.join("cgroup"))?;
        let cgroup = cgroup.trim_end().strip_prefix("0::/").filter(|path| path.contains(&unit));
        let status = fs::read_to_string(process.join("status"))?;
        let id =
            |name| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        let (Some(cgroup), Some(uid @ 1..), Some(gid @ 1..)) = (cgroup, id("Uid:"), id("Gid:")) else {
            return Err(Error::other(format!("{} is not the launcher of a workspace", process.display())));
        };
        let environment = shared(&fs::read(process.join("environ"))?);
        fs::write(Path::new("/sys/fs/cgroup").join(cgroup).join("cgroup.procs"), std::process::id().to_string())?;
        Ok(Some(Self { uid, gid, environment }))
    }

    /// `podman` as this account's launcher calls it, with nothing of root's own.
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
