//! `csm daemon`: the daemon alone, where systemd runs the workspaces and nginx.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::serve::{asked_to_end, claim, serve};
use super::{Failure, block_on, environment, log, refuse_root};
use crate::adapters::manifest::{CheckScope, ManifestWatcher};
use crate::adapters::systemd::SystemdRuntime;

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    refuse_root()?;
    log();
    // Certificates are nginx's to read, and secrets the launchers'.
    let (mut source, loaded) = ManifestWatcher::begin(path, CheckScope::Host)?;
    let manifest = environment::valid(path, loaded)?;
    let layout = environment::layout()?;
    block_on(async {
        let mut end = pin!(asked_to_end()?);
        // "systemctl reload". A manifest in /etc is a link to a link: no watch sees it change.
        let mut hangup =
            signal(SignalKind::hangup()).map_err(|error| Failure::new(format!("can't receive signals: {error}")))?;
        let lock = claim(&layout, 0o711)?;
        let runtime = SystemdRuntime::new();
        let (served, mut tasks) = serve(&layout, manifest, runtime.clone(), lock)?;
        tasks.spawn("the connection to systemd", async move { runtime.ended().await });
        tell(&[NotifyState::Ready]);
        let mut watchdog = tokio::time::interval(watchdog_period());
        loop {
            let current = served.manifest.borrow().clone();
            let next = tokio::select! {
                () = &mut end => {
                    // Workspaces keep running: the next daemon takes them over.
                    tell(&[NotifyState::Stopping]);
                    return Ok(ExitCode::SUCCESS);
                }
                failure = tasks.failed() => {
                    // Workspaces keep running, and systemd starts the next daemon.
                    tell(&[NotifyState::Stopping]);
                    return Err(failure);
                }
                next = source.next(&current) => next,
                _ = hangup.recv() => source.read(&current),
                _ = watchdog.tick() => {
                    // An answer from the daemon's own loop, not from this one.
                    if tokio::time::timeout(Duration::from_secs(5), served.handle.alive()).await.is_ok() {
                        tell(&[NotifyState::Watchdog]);
                    }
                    continue;
                }
            };
            match next {
                Ok(next) => {
                    tracing::info!(people = next.owners.len(), "a new manifest is in force");
                    served.adopt(next);
                    served.handle.alarm("manifest", None);
                }
                Err(refusal) => {
                    tracing::error!("{refusal}");
                    served.handle.alarm("manifest", Some(refusal.to_string()));
                }
            }
        }
    })
}

/// Tells systemd, where it is there to be told.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Half of what systemd waits; once an hour when it does not.
fn watchdog_period() -> Duration {
    let mut micros = 0;
    if sd_notify::watchdog_enabled(false, &mut micros) && micros > 1 {
        Duration::from_micros(micros / 2)
    } else {
        Duration::from_secs(3600)
    }
}
