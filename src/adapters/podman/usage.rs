//! What workspaces use, from `/proc`: Podman's own figures need cgroups that some accounts don't have.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::model::label::WorkspaceId;
use crate::model::workspace::Usage;

/// Sums the usage of all processes of each workspace, found by its PID namespace. `first` is each container's first process.
pub(super) fn measure(first: &BTreeMap<WorkspaceId, i64>) -> BTreeMap<WorkspaceId, Usage> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let workspaces: HashMap<_, _> =
        first.iter().filter_map(|(id, pid)| Some((namespace(&pid.to_string())?, id))).collect();
    let mut usage: BTreeMap<WorkspaceId, Usage> = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return usage };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Some(id) = namespace(pid).and_then(|namespace| workspaces.get(&namespace)) else { continue };
        let total = usage.entry((*id).clone()).or_default();
        total.memory += proportional_set_size(&process.path());
        if let Some((cpu_millis, tasks)) =
            fs::read_to_string(process.path().join("stat")).ok().as_deref().and_then(stat)
        {
            total.cpu_millis += cpu_millis;
            total.tasks += tasks;
        }
    }
    usage
}

fn proportional_set_size(process: &Path) -> u64 {
    let rollup = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time in milliseconds, including children that have exited, and the number of threads: proc(5), fields 14 to 17 and 20.
fn stat(text: &str) -> Option<(u64, u32)> {
    // The name in parentheses can contain any character, even parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    let threads = fields.get(17)?.parse().ok()?;
    Some((ticks * 1000 / rustix::param::clock_ticks_per_second(), threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_parsed() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 9 0 1 2 3";
        let per_second = rustix::param::clock_ticks_per_second();
        assert_eq!(stat(text), Some((200 * 1000 / per_second, 9)));
        assert_eq!(stat(""), None);
    }

    #[test]
    fn this_very_process_uses_something() {
        let id: WorkspaceId = "dan".parse().expect("an id");
        let usage = measure(&BTreeMap::from([(id.clone(), i64::from(std::process::id()))]));
        assert!(usage[&id].memory > 1 << 20 && usage[&id].tasks > 0, "{usage:?}");
    }
}
