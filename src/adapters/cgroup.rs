//! The cgroup of this process's own unit, in which Podman makes one for the container.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::watch::{self, Changes};

pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// A unit's cgroup.
pub struct UnitCgroup(PathBuf);

impl UnitCgroup {
    /// The one that this process is in, if it runs as a service.
    pub fn own() -> Option<Self> {
        let path = fs::read_to_string("/proc/self/cgroup").ok()?;
        Some(Self(Path::new(ROOT).join(of_unit(&path)?)))
    }

    /// What changes below it: cgroups that are made, and what the kernel counts.
    pub fn changes(&self) -> Changes {
        watch::directory(&self.0)
    }

    /// Whether Podman has made the container's.
    pub fn has_payload(&self) -> bool {
        let children = fs::read_dir(&self.0).into_iter().flatten().flatten();
        children.into_iter().any(|child| child.file_name().to_string_lossy().starts_with("libpod-payload-"))
    }

    /// A cgroup by its directory.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The CPU time that all its processes have used.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).unwrap_or_default();
        let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        Duration::from_micros(used.unwrap_or(0))
    }

    /// How many processes the kernel has ended here because memory ran out.
    pub fn killed(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }
}

/// From `/proc/PID/cgroup`: the path in the unified hierarchy, relative.
pub(super) fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// From `/proc/PID/cgroup`: the unit's part of the path in the unified hierarchy, relative. Podman moves processes further down.
fn of_unit(text: &str) -> Option<&str> {
    let path = unified(text)?;
    let end = path.match_indices(".service").map(|(at, unit)| at + unit.len());
    end.filter(|end| path[*end..].is_empty() || path[*end..].starts_with('/')).last().map(|end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_from_below() {
        let unit = "system.slice/code-server-dan.slice/code-server-dan@main.service";
        assert_eq!(of_unit(&format!("0::/{unit}\n")), Some(unit));
        assert_eq!(of_unit(&format!("1:memory:/x\n0::/{unit}/runtime\n")), Some(unit));
        for other in ["0::/user.slice/session-1.scope\n", "1:memory:/a.service\n", "", "0::/x.services/y\n"] {
            assert_eq!(of_unit(other), None, "{other}");
        }
    }
}
