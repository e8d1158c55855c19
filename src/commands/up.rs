//! `csm up`: daemon, nginx and workspaces in one foreground process.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::environment::Against;
use super::serve::{ManifestSource, Served, asked_to_end, claim, serve};
use super::{Failure, block_on, environment, log, refuse_root};
use crate::adapters::children::Tied;
use crate::adapters::nginx::Nginx;
use crate::adapters::watch::{self, Changes};
use crate::daemon::Verb;
use crate::model::container::editor_url;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;

/// How long a program that ended by itself stays down.
const PAUSE: Duration = Duration::from_secs(2);

/// How long workspaces have to stop.
const STOP: Duration = Duration::from_secs(30);

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    refuse_root()?;
    let manifest = environment::load_valid(path, Against::Files)?;
    let layout = environment::layout()?;
    log();
    block_on(up(path, manifest, layout))
}

async fn up(path: &Path, manifest: Manifest, layout: Layout) -> Result<ExitCode, Failure> {
    // Before anything starts: a signal from now on stops what is there.
    let end = asked_to_end();
    tokio::pin!(end);
    let lock = claim(&layout, 0o710)?;
    let mut podman = podman_service(&layout).await?;
    let source = ManifestSource::new(path.to_owned(), Against::Files);
    let served = serve(&layout, manifest.clone(), lock)?;
    let nginx = Nginx::start(&layout, &manifest).await.map_err(|error| Failure::new(error.to_string()))?;
    announce(&manifest);
    let mut front =
        Front { layout: &layout, served: &served, nginx: Some(nginx), source, certificate: certificate(&manifest) };
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended,
            () = front.tend() => {}
            how = podman.wait() => {
                let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::error!(%how, "podman's service ended; starting it again");
                tokio::time::sleep(PAUSE).await;
                podman = podman_service(&layout).await?;
            }
        }
    };
    eprintln!("stopping");
    // In order: nobody new comes in, the workspaces stop, then what they needed.
    if let Some(nginx) = front.nginx.take() {
        nginx.stop().await;
    }
    stop_workspaces(&served).await;
    podman.stop().await;
    ended.map(|()| ExitCode::SUCCESS)
}

fn announce(manifest: &Manifest) {
    println!("dashboard   {}/", manifest.dashboard_origin());
    for (id, _) in manifest.workspaces() {
        println!("{:<11} {}", id.to_string(), editor_url(manifest, &id));
    }
    println!("Ctrl-C stops everything");
}

/// nginx and the manifest: a new manifest counts only once nginx has taken it.
struct Front<'a> {
    layout: &'a Layout,
    served: &'a Served,
    nginx: Option<Nginx>,
    source: ManifestSource,
    certificate: Option<(Changes, Changes)>,
}

/// Changes of the certificate's and the key's file, which nginx reads only when it is told to.
fn certificate(manifest: &Manifest) -> Option<(Changes, Changes)> {
    let (certificate, key) = manifest.front_door.tls.as_ref()?;
    Some((watch::file(certificate.path()), watch::file(key.path())))
}

impl Front<'_> {
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
                    Err(refusal) => Err(refusal),
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

async fn podman_service(layout: &Layout) -> Result<Tied, Failure> {
    let socket = layout.podman_socket();
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::new(format!("can't remove {}: {error}", socket.display())));
        }
        _ => {}
    }
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
        () = answers => Ok(service),
        how = service.wait() => {
            let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Failure::new(format!("podman's service ended at once ({how}); \"csm doctor\" tells what is missing, RUST_LOG=debug what it said")))
        }
        () = tokio::time::sleep(Duration::from_secs(30)) => {
            Err(Failure::new("podman's service did not begin to listen within 30 s; \"csm doctor\" tells what is missing"))
        }
    }
}

async fn stop_workspaces(served: &Served) {
    let mut snapshots = served.handle.follow();
    let ids: Vec<_> = snapshots.borrow().workspaces.keys().cloned().collect();
    for id in ids {
        // Stopping what does not run does nothing.
        let _ = served.handle.act(id, Verb::Stop, "csm up ended".to_owned()).await;
    }
    let all_stopped = snapshots.wait_for(|snapshot| snapshot.workspaces.values().all(|view| view.is_down()));
    if tokio::time::timeout(STOP, all_stopped).await.is_err() {
        tracing::error!("not all workspaces stopped within {} s; the next csm up takes them over", STOP.as_secs());
    }
}
