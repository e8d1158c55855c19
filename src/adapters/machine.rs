//! The host's memory, CPUs, clock and random bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::manifest::Machine;
use crate::model::workspace::Timestamp;

/// The host's memory and CPUs.
pub fn machine() -> Machine {
    let info = rustix::system::sysinfo();
    let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
    // Not `available_parallelism`, which a cgroup's CPU quota lowers: a launcher runs in the cgroup whose limits are checked.
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    Machine { memory, cpus }
}

/// Seconds since 1970.
pub fn now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 32 random bytes from the kernel.
pub fn random() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
