//! `csm up`: the daemon, nginx and Podman's service under one foreground process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::sense::{Daemon, Target, sense};
use super::serve::{Server, claim, serve, shutdown_signal};
use super::tasks::Supervisor;
use super::{Failure, block_on, environment, log, refuse_root};
use crate::activity::{Report, ReportResponse};
use crate::adapters::children::ChildProcess;
use crate::adapters::files::ignore_not_found;
use crate::adapters::manifest::{CheckScope, ManifestWatcher};
use crate::adapters::nginx::Nginx;
use crate::adapters::podman::PodmanRuntime;
use crate::adapters::sensor::Processes;
use crate::adapters::watch::{self, Changes};
use crate::daemon::Handle;
use crate::model::container::editor_url;
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::workspace::Timestamp;
use crate::plan::{Cause, Verb};
use tokio::task::{AbortHandle, JoinSet};

/// How long to wait before a program that exited is restarted.
const RESTART_DELAY: Duration = Duration::from_secs(2);

/// How long to wait until Podman's service listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait until all workspaces have stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    refuse_root()?;
    log();
    let (source, loaded) = ManifestWatcher::start(path, CheckScope::Files)?;
    let manifest = environment::valid(path, loaded)?;
    let layout = environment::layout()?;
    block_on(up(source, manifest, layout))
}

async fn up(source: ManifestWatcher, manifest: Manifest, layout: Layout) -> Result<ExitCode, Failure> {
    // Before anything starts: from now on a signal stops what has started.
    let mut shutdown = pin!(shutdown_signal()?);
    let lock = claim(&layout, &manifest.workspace_base, 0o710)?;
    // Watched before nginx reads the files, so that no change is missed.
    let certificate = watch_certificate(&manifest);
    let (podman, nginx) = tokio::select! {
        // The kernel kills the children that have started when csm exits.
        () = &mut shutdown => return Ok(ExitCode::SUCCESS),
        started = start_programs(&layout, &manifest) => started?,
    };
    let runtime = PodmanRuntime::new(layout.clone(), manifest.workspace_base.to_string());
    let (server, mut tasks) = serve(&layout, manifest.clone(), runtime.clone(), lock)?;
    print_addresses(&manifest);
    let server = Arc::new(server);
    tasks.spawn("the workspaces' sensors", sense_all(server.clone(), runtime, layout.clone()));
    let podman = PodmanSupervisor { layout: layout.clone(), handle: server.handle.clone(), service: Some(podman) };
    let nginx =
        NginxSupervisor { layout: layout.clone(), server: server.clone(), nginx: Some(nginx), source, certificate };
    let podman = tasks.supervise("the supervision of Podman's service", podman);
    let nginx = tasks.supervise("the supervision of nginx", nginx);
    let outcome = tokio::select! {
        () = shutdown => Ok(ExitCode::SUCCESS),
        failure = tasks.failed() => Err(failure),
    };
    match &outcome {
        Ok(_) => eprintln!("stopping"),
        // The panic hook has printed the panic, and `main` prints the failure.
        Err(_) => eprintln!("stopping; workspaces keep running"),
    }
    // The order matters: nginx stops first, so that no new request arrives; Podman's service last, because stopping needs it.
    nginx.stop().await;
    let outcome = match outcome {
        Ok(code) => tokio::select! {
            () = stop_workspaces(&server) => Ok(code),
            failure = tasks.failed() => Err(failure),
        },
        // Workspaces keep running, because this was not a shutdown; the next csm takes them over.
        failed => failed,
    };
    podman.stop().await;
    outcome
}

/// Runs a sensor for each workspace that is up: under `csm up` there is no launcher that does it.
async fn sense_all(server: Arc<Server>, runtime: PodmanRuntime, layout: Layout) {
    let mut snapshots = server.handle.follow();
    let mut tasks = JoinSet::new();
    let mut sensors: BTreeMap<WorkspaceId, (Timestamp, AbortHandle)> = BTreeMap::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let started = |id: &WorkspaceId| snapshot.workspaces.get(id).and_then(|view| view.state.since());
        sensors.retain(|id, (since, sensor)| {
            let is_same = started(id) == Some(*since);
            if !is_same {
                sensor.abort();
            }
            is_same
        });
        for (id, view) in &snapshot.workspaces {
            if let Some(since) = view.state.since() {
                sensors.entry(id.clone()).or_insert_with(|| {
                    let work = sense_one(id.clone(), server.clone(), runtime.clone(), layout.clone());
                    (since, tasks.spawn(work))
                });
            }
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() {
                return;
            },
            // A sensor ends when its workspace is gone; the next snapshot shows that.
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn sense_one(id: WorkspaceId, server: Arc<Server>, runtime: PodmanRuntime, layout: Layout) {
    let Some(first) = runtime.first_process(&id).await else { return };
    let declared = server.manifest.borrow().workspaces.get(&id).map(|workspace| workspace.autostop.programs.clone());
    let processes = Processes::Namespace(first);
    let target = Target { id: id.clone(), processes, programs: declared.unwrap_or_default() };
    sense(target, &layout, Direct { id, handle: server.handle.clone() }).await;
}

/// Reports to the daemon in this process.
struct Direct {
    id: WorkspaceId,
    handle: Handle,
}

impl Daemon for Direct {
    async fn report(&mut self, report: Report) -> Option<ReportResponse> {
        self.handle.report(self.id.clone(), report).await.ok()
    }
}

/// Starts Podman's service and nginx. They start before the daemon: if one fails, there are no workspaces to stop.
async fn start_programs(layout: &Layout, manifest: &Manifest) -> Result<(ChildProcess, Nginx), Failure> {
    let podman = podman_service(layout).await?;
    let nginx = Nginx::start(layout, manifest).await.map_err(|error| Failure::new(error.to_string()))?;
    Ok((podman, nginx))
}

fn print_addresses(manifest: &Manifest) {
    println!("dashboard   {}/", manifest.dashboard_origin());
    for id in manifest.workspaces.keys() {
        println!("{:<11} {}", id.to_string(), editor_url(manifest, id));
    }
    println!("Ctrl-C stops everything");
}

/// Keeps nginx running and applies new manifests. A new manifest takes effect only once nginx has accepted its configuration.
struct NginxSupervisor {
    layout: Layout,
    server: Arc<Server>,
    nginx: Option<Nginx>,
    source: ManifestWatcher,
    certificate: Option<(Changes, Changes)>,
}

/// Watches the files of the certificate and its key, which nginx reads only at a reload.
fn watch_certificate(manifest: &Manifest) -> Option<(Changes, Changes)> {
    let (certificate, key) = manifest.front_door.tls.as_ref()?;
    Some((watch::file(certificate.path()), watch::file(key.path())))
}

impl Supervisor for NginxSupervisor {
    async fn supervise(&mut self) -> Infallible {
        // One future for all events: one that is dropped after each event could lose the next one.
        loop {
            self.handle_event().await;
        }
    }

    async fn stop(self) {
        if let Some(nginx) = self.nginx {
            nginx.stop().await;
        }
    }
}

impl NginxSupervisor {
    /// Waits for one event and handles it.
    async fn handle_event(&mut self) {
        let current = self.server.manifest.borrow().clone();
        let renewed = async {
            match &mut self.certificate {
                // The files are written one after the other: nginx refuses the pair until both match.
                Some((certificate, key)) => tokio::select! { () = certificate.recv() => {}, () = key.recv() => {} },
                None => std::future::pending().await,
            }
        };
        let exited = async {
            if let Some(nginx) = &mut self.nginx {
                return Some(nginx.wait().await);
            }
            tokio::time::sleep(RESTART_DELAY).await;
            None
        };
        tokio::select! {
            next = self.source.next(&current) => {
                let outcome = match next {
                    Ok(next) => self.apply(&current, next).await,
                    Err(error) => Err(error.to_string()),
                };
                match outcome {
                    Ok(()) => self.server.handle.alarm("manifest", None),
                    Err(error) => self.server.refuse(&error),
                }
            }
            () = renewed => {
                tracing::info!("the certificate has changed");
                let outcome = self.apply(&current, (*current).clone()).await;
                self.server.handle.alarm("certificate", outcome.err());
            }
            status = exited => {
                if let Some(status) = status {
                    tracing::error!(status, "nginx exited; restarting it");
                }
                self.nginx = match Nginx::start(&self.layout, &current).await {
                    Ok(nginx) => Some(nginx),
                    Err(error) => {
                        tracing::error!("{error}");
                        None
                    }
                };
            }
        }
    }

    /// Reloads nginx with the next manifest, and makes that the current one. A certificate's renewal passes the current one.
    async fn apply(&mut self, current: &Manifest, next: Manifest) -> Result<(), String> {
        if let Some(nginx) = &self.nginx {
            let failed = |error| format!("still using the previous manifest and certificate: {error}");
            nginx.reload(current, &next).await.map_err(failed)?;
        }
        if next != *current {
            self.certificate = watch_certificate(&next);
            self.server.apply(next);
        }
        Ok(())
    }
}

/// Keeps Podman's service running.
struct PodmanSupervisor {
    layout: Layout,
    handle: Handle,
    service: Option<ChildProcess>,
}

impl Supervisor for PodmanSupervisor {
    async fn supervise(&mut self) -> Infallible {
        loop {
            if let Some(service) = &mut self.service {
                let status = service.wait().await;
                tracing::error!(%status, "podman's service exited; restarting it");
            }
            self.service = None;
            let service = restart(|| podman_service(&self.layout), |alarm| self.handle.alarm("podman", alarm)).await;
            self.service = Some(service);
        }
    }

    async fn stop(self) {
        if let Some(service) = self.service {
            service.stop().await;
        }
    }
}

/// Restarts a program that exited: after [`RESTART_DELAY`], and again until it runs. Until then an alarm says why it does not.
async fn restart<T, F: Future<Output = Result<T, Failure>>>(
    start: impl Fn() -> F,
    alarm: impl Fn(Option<String>),
) -> T {
    loop {
        tokio::time::sleep(RESTART_DELAY).await;
        match start().await {
            Ok(started) => {
                alarm(None);
                return started;
            }
            Err(failure) => {
                tracing::error!("{failure}");
                alarm(Some(failure.to_string()));
            }
        }
    }
}

async fn podman_service(layout: &Layout) -> Result<ChildProcess, Failure> {
    let socket = layout.podman_socket();
    std::fs::remove_file(&socket).or_else(ignore_not_found).map_err(|error| {
        Failure::new(format!("can't remove {}: {error}; check its directory's permissions", socket.display()))
    })?;
    let address = format!("unix://{}", socket.display());
    let arguments = ["system", "service", "--time=0", &address];
    let missing = |error| Failure::new(format!("can't run podman: {error}; run \"csm doctor\" to see what is missing"));
    let mut service = ChildProcess::spawn("podman", "TERM", "podman", &arguments).map_err(missing)?;
    let mut changes = watch::directory(&layout.run);
    let listening = async {
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            let _ = tokio::time::timeout(Duration::from_secs(1), changes.recv()).await;
        }
    };
    tokio::select! {
        () = listening => return Ok(service),
        status = service.wait() => {
            return Err(Failure::new(format!("can't start podman's service: it exited ({status}); run \"csm doctor\" to see what is missing, or set RUST_LOG=debug to see its messages")));
        }
        () = tokio::time::sleep(LISTEN_TIMEOUT) => {}
    }
    // Stopped, so that the next attempt can use the socket.
    service.stop().await;
    let late = LISTEN_TIMEOUT.as_secs();
    Err(Failure::new(format!(
        "can't start podman's service: it did not listen within {late} s; run \"csm doctor\" to see what is missing"
    )))
}

async fn stop_workspaces(server: &Server) {
    let mut snapshots = server.handle.follow();
    let ids: Vec<_> = snapshots.borrow().workspaces.keys().cloned().collect();
    for id in ids {
        // A stop does nothing if the workspace is not running.
        let _ = server.handle.request(id, Verb::Stop, Cause::ShutDown).await;
    }
    let all_stopped = snapshots.wait_for(|snapshot| snapshot.workspaces.values().all(|view| !view.may_run));
    if tokio::time::timeout(STOP_TIMEOUT, all_stopped).await.is_err() {
        tracing::error!(
            "timed out after {} s waiting for workspaces to stop; the next \"csm up\" takes them over",
            STOP_TIMEOUT.as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_program_that_exited_is_restarted_until_it_runs_with_an_alarm_until_then() {
        let (tries, alarms) = (Cell::new(0), RefCell::new(Vec::new()));
        let started = tokio::time::Instant::now();
        let start = || async {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(Failure::new(format!("no {}", tries.get()))) } else { Ok("runs") }
        };
        assert_eq!(restart(start, |alarm| alarms.borrow_mut().push(alarm)).await, "runs");
        assert_eq!(*alarms.borrow(), [Some("no 1".to_owned()), Some("no 2".to_owned()), None]);
        assert_eq!(started.elapsed().as_secs(), RESTART_DELAY.as_secs() * 3);
    }
}
