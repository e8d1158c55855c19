//! A unit's state, and waiting for it to change.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::bus::{Bus, Row};
use crate::ports::RuntimeError;

/// How often a unit is checked while no change of it is reported.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A unit's state, as far as csm depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Active,
    Stopping,
    Exited { failed: bool },
}

impl State {
    /// The state of a unit that systemd listed.
    pub(super) fn of(row: &Row) -> Self {
        match row.active_state.as_str() {
            "activating" => Self::Starting,
            "deactivating" => Self::Stopping,
            "inactive" | "failed" if row.job != 0 => Self::Starting,
            "inactive" => Self::Exited { failed: false },
            "failed" => Self::Exited { failed: true },
            // active, reloading, refreshing, maintenance
            _ => Self::Active,
        }
    }

    /// Whether processes of it run.
    pub(super) fn is_up(self) -> bool {
        matches!(self, Self::Active | Self::Stopping)
    }
}

/// Checks a unit whenever it may have changed, until a deadline.
pub(super) struct UnitWatcher {
    bus: Bus,
    unit: String,
    changes: watch::Receiver<()>,
    deadline: Instant,
    limit: Duration,
}

impl UnitWatcher {
    /// Watches a unit for this long. The first check is immediate.
    pub(super) fn new(bus: Bus, unit: String, mut changes: watch::Receiver<()>, limit: Duration) -> Self {
        changes.mark_changed();
        Self { bus, unit, changes, deadline: Instant::now() + limit, limit }
    }

    /// The unit after its next possible change; `None` when systemd has unloaded it.
    pub(super) async fn next(&mut self) -> Result<Option<Row>, RuntimeError> {
        while Instant::now() < self.deadline {
            let _ = timeout(RECHECK_INTERVAL, self.changes.changed()).await;
            match self.bus.unit(&self.unit).await {
                // csm connects again; the unit runs on meanwhile.
                Err(error) => tracing::debug!(unit = self.unit, %error, "can't query the unit"),
                found => return found,
            }
        }
        let (unit, seconds) = (&self.unit, self.limit.as_secs());
        Err(RuntimeError::TimedOut(format!(
            "timed out after {seconds} s waiting for {unit}; see \"systemctl status {unit}\""
        )))
    }
}
