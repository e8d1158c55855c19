//! `csm daemon`: the daemon alone, for an nginx that somebody else runs.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;

use super::serve::{ManifestSource, asked_to_end, claim, serve};
use super::{Failure, block_on, environment, log, refuse_root};

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    refuse_root()?;
    let manifest = environment::load_valid(path)?;
    let layout = environment::layout()?;
    log();
    block_on(async {
        let end = asked_to_end();
        tokio::pin!(end);
        let lock = claim(&layout)?;
        let mut source = ManifestSource::new(path.to_owned());
        let served = serve(&layout, manifest, lock)?;
        tell(&[NotifyState::Ready]);
        let mut watchdog = tokio::time::interval(watchdog_period());
        loop {
            let current = served.manifest.borrow().clone();
            tokio::select! {
                ended = &mut end => {
                    // Workspaces keep running: the next daemon takes them over.
                    tell(&[NotifyState::Stopping]);
                    return ended.map(|()| ExitCode::SUCCESS);
                }
                next = source.next(&current) => match next {
                    Ok(next) => {
                        served.adopt(next);
                        served.handle.alarm("manifest", None);
                    }
                    Err(refusal) => {
                        tracing::error!("{refusal}");
                        served.handle.alarm("manifest", Some(refusal));
                    }
                },
                _ = watchdog.tick() => {
                    // An answer from the daemon's own loop, not from this one.
                    if tokio::time::timeout(Duration::from_secs(5), served.handle.alive()).await.is_ok() {
                        tell(&[NotifyState::Watchdog]);
                    }
                }
            }
        }
    })
}

fn tell(states: &[NotifyState<'_>]) {
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
