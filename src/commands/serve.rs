//! What `up` and `daemon` have in common: the daemon, its pages, and a manifest that is read again when it changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::tasks::Tasks;
use crate::adapters::state::State;
use crate::adapters::{files, machine};
use crate::daemon::{Daemon, Handle};
use crate::http::{self, App, Socket};
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::ports::Runtime;

/// A daemon at work.
pub(super) struct Served {
    /// The way to it.
    pub(super) handle: Handle,
    /// The manifest in force.
    pub(super) manifest: watch::Sender<Arc<Manifest>>,
    _lock: std::fs::File,
}

/// Makes the directories and takes the lock, so that no second csm uses them. `mode`: who may pass through the runtime directory.
pub(super) fn claim(layout: &Layout, mode: u32) -> Result<std::fs::File, Failure> {
    for (directory, mode) in [(&layout.run, mode), (&layout.state, 0o700)] {
        files::make_directory(directory, mode)
            .map_err(|error| Failure::new(format!("can't make {}: {error}", directory.display())))?;
    }
    let path = layout.lock();
    let lock = std::fs::File::create(&path)
        .map_err(|error| Failure::new(format!("can't make {}: {error}", path.display())))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(format!(
            "another csm uses {}; stop it first, or work with it: \"csm status\"",
            layout.run.display()
        ))
    })?;
    Ok(lock)
}

/// How long callers wait for a runtime that does not tell what runs; after that they get the picture as far as it is known.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Starts daemon and pages, for workspaces that this runtime runs. Calls are taken at once, and answered when it is known what runs.
/// What does the work are the tasks: when one of them ends, csm has to.
pub(super) fn serve(
    layout: &Layout,
    manifest: Manifest,
    runtime: impl Runtime,
    lock: std::fs::File,
) -> Result<(Served, Tasks), Failure> {
    let random = machine::random().map_err(|error| {
        Failure::new(format!("can't get random bytes from the kernel: {error}; check that getrandom is allowed here"))
    })?;
    let (state, kept) =
        State::open(&layout.database(), random, machine::now()).map_err(|error| Failure::new(error.to_string()))?;
    let (sender, receiver) = watch::channel(Arc::new(manifest));
    let current = receiver.borrow().clone();
    let (daemon, handle) = Daemon::new(runtime.clone(), state.clone(), machine::now, layout.clone(), current);
    let app = App::new(receiver, handle.clone(), runtime, (state.clone(), kept), layout.clone(), machine::now);
    let mut tasks = Tasks::default();
    for (socket, path, mode) in [
        (Socket::Front, layout.front_socket(), 0o660),
        (Socket::Question, layout.question_socket(), 0o660),
        (Socket::Api, layout.api_socket(), 0o600),
    ] {
        let listener = http::listen(&path, mode)
            .map_err(|error| Failure::new(format!("can't listen on {}: {error}", path.display())))?;
        let (app, handle) = (app.clone(), handle.clone());
        let name = format!("the server on {}", path.display());
        tasks.spawn(name, async move {
            let _ = tokio::time::timeout(FIRST_LOOK, handle.observed()).await;
            if let Err(error) = http::serve(socket, listener, app).await {
                tracing::error!(socket = %path.display(), %error, "no longer served");
            }
        });
    }
    tasks.spawn("the comparison of sessions with passwords", app.revoke_forever());
    tasks.spawn("the state database's thread", async move { state.ended().await });
    tasks.spawn("the daemon's loop", daemon.run(std::future::pending()));
    Ok((Served { handle, manifest: sender, _lock: lock }, tasks))
}

impl Served {
    /// Puts a manifest into force, here and in the daemon.
    pub(super) fn adopt(&self, manifest: Manifest) {
        let manifest = Arc::new(manifest);
        self.handle.set_manifest(manifest.clone());
        self.manifest.send_replace(manifest);
    }
}

/// Resolves on SIGINT or SIGTERM. From the call on, not from the first poll, neither ends the process by itself.
pub(super) fn asked_to_end() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::new(format!("can't receive signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;
    use crate::model::manifest::Machine;
    use crate::ports::fake::Fake;

    #[tokio::test]
    async fn csm_fails_with_the_daemons_loop_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { run: directory.path().into(), state: directory.path().into(), share: "/share".into() };
        let text = r#"{"version":1,"domain":"a.localhost","image":"x","users":{"dan":{"passwordFile":"/p"}}}"#;
        let manifest = Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
        let lock = claim(&layout, 0o700).unwrap();
        let fatal = Fake::default();
        fatal.world().changes_panic = true;
        let (_served, mut tasks) = serve(&layout, manifest, fatal, lock).unwrap();
        let failure = tokio::time::timeout(Duration::from_secs(60), tasks.failed()).await.expect("it is noticed");
        assert!(failure.to_string().contains("the daemon's loop panicked: on purpose; "), "{failure}");
    }

    #[tokio::test]
    async fn a_signal_before_anybody_waits_for_it_is_kept() {
        for early in [Signal::INT, Signal::TERM] {
            let end = asked_to_end().unwrap();
            kill_process(getpid(), early).unwrap();
            tokio::time::timeout(Duration::from_secs(10), end).await.expect("it was asked to end");
        }
    }
}
