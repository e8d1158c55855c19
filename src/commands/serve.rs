//! What `up` and `daemon` share: the daemon, its sockets, and the current manifest.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::tasks::Tasks;
use super::{Failure, random_failure};
use crate::adapters::event_log::EventLog;
use crate::adapters::state::State;
use crate::adapters::{activity_socket, files, machine};
use crate::daemon::{Daemon, Handle};
use crate::http::{self, App, Socket};
use crate::model::event::{Fact, Kind, Line};
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::text::AbsolutePath;
use crate::ports::Runtime;

/// The running daemon.
pub(super) struct Server {
    /// Sends commands to the daemon.
    pub(super) handle: Handle,
    /// The current manifest.
    pub(super) manifest: watch::Sender<Arc<Manifest>>,
    _lock: std::fs::File,
}

/// Creates the directories and takes the lock, so that a second csm can't use them. `mode` is the runtime directory's: it decides which
/// accounts reach the sockets in it. Users' files must be elsewhere.
pub(super) fn claim(layout: &Layout, base: &AbsolutePath, mode: u32) -> Result<std::fs::File, Failure> {
    for directory in [&layout.run, &layout.state] {
        if directory.starts_with(base.path()) || base.path().starts_with(directory) {
            return Err(Failure::new(format!(
                "can't use {}: it and workspaceBase, {base}, overlap; set workspaceBase to a separate directory",
                directory.display()
            )));
        }
    }
    let failed = |path: &Path, error: std::io::Error| {
        let path = path.display();
        Failure::new(format!("can't create {path}: {error}; let this account write to the directory above it"))
    };
    for (directory, mode) in [(&layout.run, mode), (&layout.state, 0o700)] {
        files::make_directory(directory, mode).map_err(|error| failed(directory, error))?;
    }
    let path = layout.lock();
    let lock = std::fs::File::create(&path).map_err(|error| failed(&path, error))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(format!(
            "can't use {}: another csm uses it; stop that one first, or ask it with \"csm status\"",
            layout.run.display()
        ))
    })?;
    Ok(lock)
}

/// How long requests wait for the runtime's first observation. After that, responses show what is known until then.
const FIRST_OBSERVATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the daemon and its sockets, for the workspaces of this runtime. The sockets accept connections immediately, and respond after
/// the first observation. The work is done by the tasks: if one of them ends, csm must exit.
pub(super) fn serve(
    layout: &Layout,
    manifest: Manifest,
    runtime: impl Runtime,
    lock: std::fs::File,
) -> Result<(Server, Tasks), Failure> {
    let random = machine::random().map_err(random_failure)?;
    let (state, stored) =
        State::open(&layout.database(), random, machine::now()).map_err(|error| Failure::new(error.to_string()))?;
    let state = state.with_event_log(EventLog::open());
    let (sender, receiver) = watch::channel(Arc::new(manifest));
    let current = receiver.borrow().clone();
    let (daemon, handle) = Daemon::new(runtime.clone(), state.clone(), machine::now, layout.clone(), current);
    handle.record(Fact::new(Kind::CsmStarted { version: Line::new(env!("CARGO_PKG_VERSION")) }));
    let app = App::new(receiver, handle.clone(), runtime, (state.clone(), stored), layout.clone(), machine::now);
    let mut tasks = Tasks::default();
    for (socket, path, mode) in [
        (Socket::Front, layout.front_socket(), 0o660),
        (Socket::Question, layout.question_socket(), 0o660),
        (Socket::Api, layout.api_socket(), 0o600),
    ] {
        let listener = http::listen(&path, mode).map_err(|error| {
            Failure::new(format!("can't listen on {}: {error}; check its directory's permissions", path.display()))
        })?;
        let (app, handle) = (app.clone(), handle.clone());
        let name = format!("the server on {}", path.display());
        tasks.spawn(name, async move {
            let _ = tokio::time::timeout(FIRST_OBSERVATION_TIMEOUT, handle.first_observation()).await;
            if let Err(error) = http::serve(socket, listener, app).await {
                tracing::error!(socket = %path.display(), %error, "can't serve the socket any more");
            }
        });
    }
    let path = layout.activity_socket();
    // Every account may connect: the kernel says which one did.
    let listener = http::listen(&path, 0o666).map_err(|error| {
        Failure::new(format!("can't listen on {}: {error}; check its directory's permissions", path.display()))
    })?;
    let reports = handle.clone();
    let report = move |id, report| {
        let handle = reports.clone();
        async move { handle.report(id, report).await.ok() }
    };
    tasks.spawn(format!("the server on {}", path.display()), activity_socket::serve(listener, report));
    tasks.spawn("the comparison of sessions with passwords", app.revoke_forever());
    tasks.spawn("the state database's thread", async move { state.ended().await });
    tasks.spawn("the daemon's loop", daemon.run(std::future::pending()));
    Ok((Server { handle, manifest: sender, _lock: lock }, tasks))
}

impl Server {
    /// Makes a manifest the current one, for the pages and the daemon.
    pub(super) fn apply(&self, manifest: Manifest) {
        self.handle.record(Fact::new(Kind::ManifestApplied { users: manifest.owners.len() }));
        let manifest = Arc::new(manifest);
        self.handle.set_manifest(manifest.clone());
        self.manifest.send_replace(manifest);
    }

    /// Shows the admins why a manifest was refused, and records it.
    pub(super) fn refuse(&self, error: &str) {
        self.handle.record(Fact::new(Kind::ManifestRefused { failure: Line::new(error) }));
        self.handle.alarm("manifest", Some(error.to_owned()));
    }
}

/// Describes a signal that can't be received.
pub(super) fn signal_failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("can't receive signals: {error}; check the account's limit of open files"))
}

/// Resolves on SIGINT or SIGTERM. Once this has been called, neither kills the process, even before the future is polled.
pub(super) fn shutdown_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signal_failure)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(signal_failure)?;
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
    async fn a_panic_in_the_daemons_loop_is_csms_failure() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { run: directory.path().into(), state: directory.path().into(), share: "/share".into() };
        let text = r#"{"version":1,"domain":"a.localhost","image":"x","users":{"dan":{"passwordFile":"/p"}}}"#;
        let manifest = Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
        let lock = claim(&layout, &manifest.workspace_base, 0o700).unwrap();
        let runtime = Fake::default();
        runtime.world().changes_panic = true;
        let (_server, mut tasks) = serve(&layout, manifest, runtime, lock).unwrap();
        let failure = tokio::time::timeout(Duration::from_secs(60), tasks.failed()).await.expect("the task ended");
        assert!(failure.to_string().contains("the daemon's loop panicked: on purpose; "), "{failure}");
    }

    #[test]
    fn users_files_and_csms_own_are_in_separate_directories() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        let layout = Layout { run: at("run"), state: at("data/state"), share: "/share".into() };
        let claimed = |base: &str| claim(&layout, &at(base).to_str().unwrap().parse().unwrap(), 0o700);
        for base in ["data", "data/state", "data/state/homes", "run/homes"] {
            let failure = claimed(base).unwrap_err().to_string();
            assert!(failure.contains("overlap; set workspaceBase to a separate directory"), "{base}: {failure}");
        }
        assert!(!at("data").exists(), "nothing is created");
        assert!(claimed("data/homes").is_ok());
    }

    #[tokio::test]
    async fn a_signal_before_the_first_poll_is_not_lost() {
        for early in [Signal::INT, Signal::TERM] {
            let shutdown = shutdown_signal().unwrap();
            kill_process(getpid(), early).unwrap();
            tokio::time::timeout(Duration::from_secs(10), shutdown).await.expect("the signal was received");
        }
    }
}
