//! Rootless Podman through its own service on a unix socket, for hosts where systemd does not run the workspaces.
//!
//! Such containers run under conmon: they keep running when the service or csm exits.

pub mod args;
mod create;
pub mod engine;
mod libpod;
mod lifecycle;
mod logs;
mod pull;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use podman_api::Podman;
use podman_api::models::ListContainer;
use podman_api::opts::{ContainerListFilter, ContainerListOpts, EventsOpts};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::disk::{disk_free, disk_usage};
use super::slots::Slots;
use crate::model::container::{LABEL_BASE, LABEL_DIGEST, LABEL_WORKSPACE, container_name};
use crate::model::endpoint::Endpoint;
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::workspace::{Progress, Usage};
use crate::plan::{Observed, Phase};
use crate::ports::{DiskUsage, Runtime, RuntimeError, StartRequest};
use engine::Engine;
use libpod::{CALL_TIMEOUT, Condition, Libpod, explain, within};

/// Workspaces run by Podman.
#[derive(Clone)]
pub struct PodmanRuntime {
    podman: Podman,
    libpod: Libpod,
    base: String,
    layout: Layout,
    engine: Arc<OnceCell<Engine>>,
    slots: Slots,
}

impl PodmanRuntime {
    /// The runtime behind a Podman service, for the workspaces of one base directory.
    pub fn new(layout: Layout, base: String) -> Self {
        let socket = layout.podman_socket();
        let (podman, libpod) = (Podman::unix(&socket), Libpod::new(socket));
        Self { podman, libpod, base, layout, engine: Arc::default(), slots: Slots::default() }
    }

    async fn engine(&self) -> Result<&Engine, RuntimeError> {
        self.engine.get_or_try_init(|| call(Engine::ask(&self.podman))).await
    }

    async fn list(&self) -> Result<Vec<ListContainer>, RuntimeError> {
        let ours = ContainerListFilter::LabelKeyVal(LABEL_BASE.to_owned(), self.base.clone());
        let options = ContainerListOpts::builder().all(true).filter([ours]).build();
        call(self.podman.containers().list(&options)).await
    }

    async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        call(self.podman.images().get(image).exists()).await
    }

    /// A workspace's first process, if it runs.
    pub async fn first_process(&self, id: &WorkspaceId) -> Option<u32> {
        let container =
            self.list().await.ok()?.into_iter().find(|container| workspace(container).as_ref() == Some(id))?;
        container.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0)
    }

    /// Whether the workspace's socket is published. When csm is killed during a start, the container may run without that.
    fn is_published(&self, id: &WorkspaceId) -> bool {
        fs::symlink_metadata(self.layout.socket(id))
            .map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
    }
}

impl Runtime for PodmanRuntime {
    async fn observe(&self) -> Result<BTreeMap<WorkspaceId, Observed>, RuntimeError> {
        let mut observed = BTreeMap::new();
        for container in self.list().await? {
            let Some(id) = workspace(&container) else { continue };
            let labels = container.labels.unwrap_or_default();
            let since = container.started_at.and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
            let phase = match Condition::read(container.state.as_deref().unwrap_or_default()) {
                Condition::Running if !self.is_published(&id) => Phase::Starting,
                Condition::Running | Condition::Stopping => Phase::Running { since, warning: None },
                Condition::Paused => Phase::Frozen { since },
                Condition::Created => Phase::Exited { failed: false, reason: None },
                Condition::Exited => {
                    let code = container.exit_code.unwrap_or(0);
                    Phase::Exited { failed: code != 0, reason: Some(format!("exited with code {code}")) }
                }
            };
            observed.insert(id, Observed { digest: labels.get(LABEL_DIGEST).cloned(), phase });
        }
        Ok(observed)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let (tx, changes) = mpsc::channel(1);
        let podman = self.podman.clone();
        tokio::spawn(async move {
            let options = EventsOpts::builder().stream(true).build();
            while !tx.is_closed() {
                let mut events = podman.events(&options);
                while let Some(Ok(_)) = events.next().await {
                    // A full channel already contains a notification.
                    let _ = tx.try_send(());
                }
                // The connection to the service was lost. The daemon also observes everything every 30 s.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        ReceiverStream::new(changes).boxed()
    }

    async fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync,
        turn: Arc<Semaphore>,
    ) -> Result<Endpoint, RuntimeError> {
        self.start_one(request, progress, turn).await
    }

    async fn stop(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.stop_one(id).await
    }

    async fn freeze(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.set_frozen(id, true).await
    }

    async fn thaw(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.set_frozen(id, false).await
    }

    async fn remove(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.remove_one(id).await
    }

    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        logs::lines(self.libpod.clone(), logs::LogRequest { container: container_name(id), lines, follow })
    }

    async fn disk(&self, manifest: &Manifest) -> DiskUsage {
        let base = manifest.workspace_base.path().to_owned();
        let directories: Vec<_> = manifest
            .workspaces
            .values()
            .map(|workspace| (workspace.id.clone(), workspace.home.clone(), workspace.project.clone()))
            .collect();
        let measure = move || DiskUsage {
            used: directories
                .into_iter()
                .filter_map(|(id, home, project)| Some((id, disk_usage(&home, &project)?)))
                .collect(),
            free: disk_free(&base),
        };
        tokio::task::spawn_blocking(measure).await.unwrap_or_default()
    }

    async fn usage(&self) -> BTreeMap<WorkspaceId, Usage> {
        let Ok(containers) = self.list().await else { return BTreeMap::new() };
        let first: BTreeMap<WorkspaceId, i64> = containers
            .into_iter()
            .filter_map(|container| {
                let id = workspace(&container)?;
                Some((id, container.pid.filter(|pid| *pid > 0)?))
            })
            .collect();
        tokio::task::spawn_blocking(move || usage::measure(&first)).await.unwrap_or_default()
    }

    async fn unenforced(&self) -> Vec<String> {
        let engine = self.engine().await;
        engine.map(|engine| engine::unenforced(|controller| engine.controls(controller))).unwrap_or_default()
    }
}

/// Whose container it is.
fn workspace(container: &ListContainer) -> Option<WorkspaceId> {
    container.labels.as_ref()?.get(LABEL_WORKSPACE)?.parse().ok()
}

/// A call of podman-api, with the timeout.
async fn call<T>(asked: impl Future<Output = podman_api::Result<T>>) -> Result<T, RuntimeError> {
    within(CALL_TIMEOUT, async { asked.await.map_err(explain) }).await
}
