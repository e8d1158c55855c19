//! `csm up`: daemon, nginx and workspaces in one foreground process.

use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use super::serve::{Served, asked_to_end, claim, serve};
use super::{Failure, block_on, environment, log, refuse_root};
use crate::adapters::children::Tied;
use crate::adapters::files::missing_is_fine;
use crate::adapters::manifest::{CheckScope, ManifestWatcher};
use crate::adapters::nginx::Nginx;
use crate::adapters::podman::PodmanRuntime;
use crate::adapters::watch::{self, Changes};
use crate::daemon::Handle;
use crate::model::container::editor_url;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::plan::{Cause, Verb};

/// How long a program that ended by itself stays down.
const PAUSE: Duration = Duration::from_secs(2);

/// How long Podman's service has to begin to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// How long workspaces have to stop.
const STOP: Duration = Duration::from_secs(30);

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    refuse_root()?;
    log();
    let (source, loaded) = ManifestWatcher::begin(path, CheckScope::Files)?;
    let manifest = environment::valid(path, loaded)?;
    let layout = environment::layout()?;
    block_on(up(source, manifest, layout))
}

async fn up(source: ManifestWatcher, manifest: Manifest, layout: Layout) -> Result<ExitCode, Failure> {
    // Before anything starts: a signal from now on stops what is there.
    let mut end = pin!(asked_to_end()?);
    let lock = claim(&layout, 0o710)?;
    // Watched before nginx reads it, as the manifest is before csm does.
    let certificate = certificate(&manifest);
    let (podman, nginx) = tokio::select! {
        // What has begun ends with csm.
        () = &mut end => return Ok(ExitCode::SUCCESS),
        begun = begin(&layout, &manifest) => begun?,
    };
    let runtime = PodmanRuntime::new(layout.clone(), manifest.workspace_base.to_string());
    let (served, mut tasks) = serve(&layout, manifest.clone(), runtime, lock)?;
    announce(&manifest);
    let mut back = Back { layout: &layout, handle: &served.handle, service: Some(podman) };
    let mut front = Front { layout: &layout, served: &served, nginx: Some(nginx), source, certificate };
    let outcome = {
        let mut kept = pin!(back.keep());
        let outcome = tokio::select! {
            () = end => Ok(ExitCode::SUCCESS),
            failure = tasks.failed() => Err(failure),
            never = front.keep() => match never {},
            never = &mut kept => match never {},
        };
        match &outcome {
            Ok(_) => eprintln!("stopping"),
            // The panic itself has been printed, and the failure is printed at the end.
            Err(_) => eprintln!("stopping; workspaces keep running"),
        }
        // In order: nobody new comes in, the workspaces stop, then what they needed.
        if let Some(nginx) = front.nginx.take() {
            nginx.stop().await;
        }
        match outcome {
            Ok(code) => tokio::select! {
                () = stop_workspaces(&served) => Ok(code),
                failure = tasks.failed() => Err(failure),
                never = &mut kept => match never {},
            },
            // Workspaces keep running: nobody asked for their end, and the next csm takes them over.
            failed => failed,
        }
    };
    if let Some(podman) = back.service {
        podman.stop().await;
    }
    outcome
}

/// Before the daemon, which starts workspaces: when one of these can't run, there is nothing to stop yet.
async fn begin(layout: &Layout, manifest: &Manifest) -> Result<(Tied, Nginx), Failure> {
    let podman = podman_service(layout).await?;
    let nginx = Nginx::start(layout, manifest).await.map_err(|error| Failure::new(error.to_string()))?;
    Ok((podman, nginx))
}

fn announce(manifest: &Manifest) {
    println!("dashboard   {}/", manifest.dashboard_origin());
    for id in manifest.workspaces.keys() {
        println!("{:<11} {}", id.to_string(), editor_url(manifest, id));
    }
    println!("Ctrl-C stops everything");
}

/// nginx and the manifest: a new manifest counts only once nginx has taken it.
struct Front<'a> {
    layout: &'a Layout,
    served: &'a Served,
    nginx: Option<Nginx>,
    source: ManifestWatcher,
    certificate: Option<(Changes, Changes)>,
}

/// Changes of the certificate's and the key's file, which nginx reads only when it is told to.
fn certificate(manifest: &Manifest) -> Option<(Changes, Changes)> {
    let (certificate, key) = manifest.front_door.tls.as_ref()?;
    Some((watch::file(certificate.path()), watch::file(key.path())))
}

impl Front<'_> {
    /// One future for all that happens: dropped after each event, it could take one with it.
    async fn keep(&mut self) -> Infallible {
        loop {
            self.tend().await;
        }
    }

    /// Waits for one thing to happen, and sees to it.
    async fn tend(&mut self) {
        let current = self.served.manifest.borrow().clone();
        let renewed = async {
            match &mut self.certificate {
                // One is written before the other: nginx refuses the pair until both fit.
                Some((certificate, key)) => tokio::select! { () = certificate.recv() => {}, () = key.recv() => {} },
                None => std::future::pending().await,
            }
        };
        let ended = async {
            if let Some(nginx) = &mut self.nginx {
                return Some(nginx.wait().await);
            }
            tokio::time::sleep(PAUSE).await;
            None
        };
        tokio::select! {
            next = self.source.next(&current) => {
                let outcome = match next {
                    Ok(next) => self.change(&current, next).await,
                    Err(refusal) => Err(refusal.to_string()),
                };
                if let Err(refusal) = &outcome {
                    tracing::error!("{refusal}");
                }
                self.served.handle.alarm("manifest", outcome.err());
            }
            () = renewed => {
                tracing::info!("the certificate has changed");
                let outcome = self.change(&current, (*current).clone()).await;
                self.served.handle.alarm("certificate", outcome.err());
            }
            how = ended => {
                if let Some(how) = how {
                    tracing::error!(how, "nginx ended; starting it again");
                }
                self.nginx = match Nginx::start(self.layout, &current).await {
                    Ok(nginx) => Some(nginx),
                    Err(error) => {
                        tracing::error!("{error}");
                        None
                    }
                };
            }
        }
    }

    async fn change(&mut self, current: &Manifest, next: Manifest) -> Result<(), String> {
        if let Some(nginx) = &self.nginx {
            let refused = |error| format!("what was in force before stays so: {error}");
            nginx.reload(current, &next).await.map_err(refused)?;
        }
        if next != *current {
            tracing::info!(people = next.owners.len(), "a new manifest is in force");
            self.certificate = certificate(&next);
            self.served.adopt(next);
        }
        Ok(())
    }
}

/// Podman's service.
struct Back<'a> {
    layout: &'a Layout,
    handle: &'a Handle,
    service: Option<Tied>,
}

impl Back<'_> {
    /// Starts it again whenever it ends.
    async fn keep(&mut self) -> Infallible {
        loop {
            if let Some(service) = &mut self.service {
                let how = service.wait().await;
                tracing::error!(%how, "podman's service ended; starting it again");
            }
            self.service = None;
            let service = start_again(|| podman_service(self.layout), |alarm| self.handle.alarm("podman", alarm)).await;
            self.service = Some(service);
        }
    }
}

/// Starts a program that ended: after a pause, and as often as it takes. An alarm tells why it is not there.
async fn start_again<T, F: Future<Output = Result<T, Failure>>>(
    start: impl Fn() -> F,
    alarm: impl Fn(Option<String>),
) -> T {
    loop {
        tokio::time::sleep(PAUSE).await;
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

async fn podman_service(layout: &Layout) -> Result<Tied, Failure> {
    let socket = layout.podman_socket();
    std::fs::remove_file(&socket)
        .or_else(missing_is_fine)
        .map_err(|error| Failure::new(format!("can't remove {}: {error}", socket.display())))?;
    let address = format!("unix://{}", socket.display());
    let arguments = ["system", "service", "--time=0", &address];
    let missing = |error| Failure::new(format!("can't run podman ({error}); \"csm doctor\" tells what is missing"));
    let mut service = Tied::spawn("podman", "TERM", "podman", &arguments).map_err(missing)?;
    let mut changes = watch::directory(&layout.run);
    let answers = async {
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            let _ = tokio::time::timeout(Duration::from_secs(1), changes.recv()).await;
        }
    };
    tokio::select! {
        () = answers => return Ok(service),
        how = service.wait() => {
            return Err(Failure::new(format!("podman's service ended at once ({how}); \"csm doctor\" tells what is missing, RUST_LOG=debug what it said")));
        }
        () = tokio::time::sleep(LISTEN) => {}
    }
    // Another one may take its place.
    service.stop().await;
    let late = LISTEN.as_secs();
    Err(Failure::new(format!(
        "podman's service did not begin to listen within {late} s; \"csm doctor\" tells what is missing"
    )))
}

async fn stop_workspaces(served: &Served) {
    let mut snapshots = served.handle.follow();
    let ids: Vec<_> = snapshots.borrow().workspaces.keys().cloned().collect();
    for id in ids {
        // Stopping what does not run does nothing.
        let _ = served.handle.act(id, Verb::Stop, Cause::ShutDown).await;
    }
    let all_stopped = snapshots.wait_for(|snapshot| snapshot.workspaces.values().all(|view| !view.may_run));
    if tokio::time::timeout(STOP, all_stopped).await.is_err() {
        tracing::error!("not all workspaces stopped within {} s; the next csm up takes them over", STOP.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ended_is_started_until_it_runs_with_an_alarm_meanwhile() {
        let (tries, alarms) = (Cell::new(0), RefCell::new(Vec::new()));
        let begun = tokio::time::Instant::now();
        let start = || async {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(Failure::new(format!("no {}", tries.get()))) } else { Ok("runs") }
        };
        assert_eq!(start_again(start, |alarm| alarms.borrow_mut().push(alarm)).await, "runs");
        assert_eq!(*alarms.borrow(), [Some("no 1".to_owned()), Some("no 2".to_owned()), None]);
        assert_eq!(begun.elapsed().as_secs(), PAUSE.as_secs() * 3);
    }
}
