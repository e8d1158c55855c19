//! The cgroup of the unit that this process runs in. Podman creates the container's cgroup in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::watch::{self, Changes};

pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// A unit's cgroup.
pub struct UnitCgroup(PathBuf);

impl UnitCgroup {
    /// The cgroup of this process's unit. `None` if this process is not in a service.
    pub fn own() -> Option<Self> {
        let path = fs::read_to_string("/proc/self/cgroup").ok()?;
        Some(Self(Path::new(ROOT).join(of_unit(&path)?)))
    }

    /// Watches its directory: a change is reported when a cgroup is created in it.
    pub fn changes(&self) -> Changes {
        watch::directory(&self.0)
    }

    /// The container's cgroup, once Podman has created it.
    pub fn payload(&self) -> Option<PathBuf> {
        let mut children = fs::read_dir(&self.0).ok()?.flatten();
        let payload = children.find(|child| child.file_name().to_string_lossy().starts_with("libpod-payload-"));
        payload.map(|child| child.path())
    }

    /// A cgroup by its directory.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The CPU time that all processes of the cgroup have used.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_micros(cpu_micros(&self.0).unwrap_or(0))
    }

    /// How many processes of the cgroup the kernel has killed because it was out of memory.
    pub fn killed(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }
}

/// The CPU time that all processes of a cgroup have used, in microseconds.
pub(super) fn cpu_micros(cgroup: &Path) -> Option<u64> {
    let stat = fs::read_to_string(cgroup.join("cpu.stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
}

/// The path in the unified hierarchy, relative to its root, from the content of `/proc/PID/cgroup`.
pub(super) fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// The unit's path in the unified hierarchy, relative to its root, from the content of `/proc/PID/cgroup`. The process itself may be in
/// a cgroup under the unit's, because Podman moves it there.
fn of_unit(text: &str) -> Option<&str> {
    let path = unified(text)?;
    let end = path.match_indices(".service").map(|(at, unit)| at + unit.len());
    end.filter(|end| path[*end..].is_empty() || path[*end..].starts_with('/')).last().map(|end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_path_is_found_from_the_cgroups_under_it() {
        let unit = "system.slice/code-server-dan.slice/code-server-dan@main.service";
        assert_eq!(of_unit(&format!("0::/{unit}\n")), Some(unit));
        assert_eq!(of_unit(&format!("1:memory:/x\n0::/{unit}/runtime\n")), Some(unit));
        for other in ["0::/user.slice/session-1.scope\n", "1:memory:/a.service\n", "", "0::/x.services/y\n"] {
            assert_eq!(of_unit(other), None, "{other}");
        }
    }
}
