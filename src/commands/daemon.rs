//! `csm daemon`: only the daemon; systemd runs the workspaces and nginx.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::serve::{claim, serve, shutdown_signal, signal_failure};
use super::{Failure, block_on, environment, log, refuse_root};
use crate::adapters::manifest::{CheckScope, ManifestWatcher};
use crate::adapters::systemd::SystemdRuntime;

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    refuse_root()?;
    log();
    // This account can't read certificates and secrets: nginx reads the certificates, systemd the secrets.
    let (mut source, loaded) = ManifestWatcher::start(path, CheckScope::Host)?;
    let manifest = environment::valid(path, loaded)?;
    let layout = environment::layout()?;
    block_on(async {
        let mut shutdown = pin!(shutdown_signal()?);
        // "systemctl reload" sends SIGHUP. On NixOS a manifest in /etc is a link to another link, whose changes inotify does not report.
        let mut hangup = signal(SignalKind::hangup()).map_err(signal_failure)?;
        let lock = claim(&layout, &manifest.workspace_base, 0o711)?;
        let runtime = SystemdRuntime::new();
        let (server, mut tasks) = serve(&layout, manifest, runtime.clone(), lock)?;
        tasks.spawn("the connection to systemd", async move { runtime.ended().await });
        notify_systemd(&[NotifyState::Ready]);
        let mut watchdog = tokio::time::interval(watchdog_period());
        loop {
            let current = server.manifest.borrow().clone();
            let next = tokio::select! {
                () = &mut shutdown => {
                    // Workspaces keep running: the next daemon takes them over.
                    notify_systemd(&[NotifyState::Stopping]);
                    return Ok(ExitCode::SUCCESS);
                }
                failure = tasks.failed() => {
                    // Workspaces keep running, and systemd starts the next daemon.
                    notify_systemd(&[NotifyState::Stopping]);
                    return Err(failure);
                }
                next = source.next(&current) => next,
                _ = hangup.recv() => source.read(&current),
                _ = watchdog.tick() => {
                    // Only if the daemon's own loop responds: this one proves nothing about it.
                    if tokio::time::timeout(Duration::from_secs(5), server.handle.ping()).await.is_ok() {
                        notify_systemd(&[NotifyState::Watchdog]);
                    }
                    continue;
                }
            };
            match next {
                Ok(next) => {
                    server.apply(next);
                    server.handle.alarm("manifest", None);
                }
                Err(error) => server.refuse(&error.to_string()),
            }
        }
    })
}

/// Notifies systemd of this process's state. Does nothing if systemd did not start it.
pub(super) fn notify_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "can't notify systemd");
    }
}

/// How often to notify systemd's watchdog: twice in its timeout, or hourly if the watchdog is off.
fn watchdog_period() -> Duration {
    let mut micros = 0;
    if sd_notify::watchdog_enabled(false, &mut micros) && micros > 1 {
        Duration::from_micros(micros / 2)
    } else {
        Duration::from_secs(3600)
    }
}
