//! Rootless Podman through its own service on a unix socket, for machines where systemd does not run the workspaces.
//!
//! Containers made this way run under conmon: they outlive the service and csm.

pub mod args;
mod create;
pub mod engine;
mod logs;
mod pull;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use hyper::Method;
use podman_api::Podman;
use podman_api::models::{ContainerStatus, ListContainer};
use podman_api::opts::{
    ContainerDeleteOpts, ContainerListFilter, ContainerListOpts, ContainerStopOpts, ContainerWaitOpts, EventsOpts,
};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::disk::{disk_free, disk_usage};
use super::files::missing_is_fine;
use super::prepare::prepare;
use super::{ready, unix_http};
use crate::model::container::{LABEL_BASE, LABEL_DIGEST, LABEL_WORKSPACE, container_name};
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;
use crate::model::workspace::{Progress, Usage};
use crate::plan::{Observed, Phase};
use crate::ports::{DiskUsage, Runtime, RuntimeError, StartRequest};
use engine::Engine;

/// Podman answers in milliseconds; when it does not in this time, it hangs.
const CALL: Duration = Duration::from_secs(20);

/// The first container of an image copies it for the account, whole.
const CREATE: Duration = Duration::from_secs(600);

/// What to say of a container that runs and whose editor can't be reached.
const STRANDED: &str =
    "it runs, but code-server does not answer on its socket; restart the workspace to get its editor back";

/// Workspaces run by Podman.
#[derive(Clone)]
pub struct PodmanRuntime {
    podman: Podman,
    socket: PathBuf,
    base: String,
    layout: Layout,
    engine: Arc<OnceCell<Engine>>,
}

impl PodmanRuntime {
    /// The runtime behind a Podman service, for the workspaces of one base directory.
    pub fn new(layout: Layout, base: String) -> Self {
        let socket = layout.podman_socket();
        Self { podman: Podman::unix(&socket), socket, base, layout, engine: Arc::default() }
    }

    async fn engine(&self) -> Result<&Engine, RuntimeError> {
        self.engine.get_or_try_init(|| async { call(Engine::ask(&self.podman)).await }).await
    }

    async fn list(&self) -> Result<Vec<ListContainer>, RuntimeError> {
        let ours = ContainerListFilter::LabelKeyVal(LABEL_BASE.to_owned(), self.base.clone());
        let options = ContainerListOpts::builder().all(true).filter([ours]).build();
        call(self.podman.containers().list(&options)).await
    }

    /// Removes the container, whatever its state. No error when there is none.
    async fn delete(&self, name: &str) -> Result<(), RuntimeError> {
        let options = ContainerDeleteOpts::builder().force(true).volumes(true).timeout(10).build();
        absent_is_fine(call(self.podman.containers().get(name).delete(&options)).await)
    }

    async fn make(&self, request: &StartRequest) -> Result<(), RuntimeError> {
        let spec = &request.spec;
        let engine = self.engine().await?;
        let body = create::body(spec, engine).map_err(RuntimeError::new)?;
        self.delete(&spec.name).await?;
        within(CREATE, self.create(body.to_string())).await?;
        call(self.podman.containers().get(&spec.name).start(None)).await
    }

    async fn create(&self, body: String) -> podman_api::Result<()> {
        let path = format!("/v{}/libpod/containers/create", podman_api::LATEST_API_VERSION);
        let json = [("content-type", "application/json")];
        let answer = unix_http::request(&self.socket, Method::POST, &path, &json, body).await?;
        let status = answer.status();
        let said = answer.body().await?;
        if status.is_success() {
            return Ok(());
        }
        Err(podman_api::Error::StringError(self::said(&said)?))
    }

    /// Whether the workspace's container runs.
    async fn runs(&self, id: &WorkspaceId) -> Result<bool, RuntimeError> {
        let containers = self.list().await?;
        Ok(containers.iter().any(|one| workspace(one).as_ref() == Some(id) && one.state.as_deref() == Some("running")))
    }

    /// Whether others find the workspace's socket. A csm that was killed during a start leaves a container that runs without.
    fn is_published(&self, id: &WorkspaceId) -> bool {
        fs::symlink_metadata(self.layout.socket(id))
            .map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
    }

    /// Waits for code-server, or for the container's end, whichever comes first. One that was `adopted` is not stopped when neither
    /// comes: what its owner does in it may be worth more than the editor.
    async fn await_ready(&self, request: &StartRequest, adopted: bool) -> Result<(), RuntimeError> {
        let name = &request.spec.name;
        let container = self.podman.containers().get(name);
        let ended = ContainerWaitOpts::builder().conditions([ContainerStatus::Exited]).build();
        let why = tokio::select! {
            () = ready::published(request) => return Ok(()),
            _ = container.wait(&ended) => {
                let inspected = call(container.inspect()).await.ok().and_then(|inspected| inspected.state);
                match inspected.and_then(|state| state.exit_code) {
                    Some(code) => format!("it ended at once with exit code {code}; its log tells why"),
                    None => "it ended at once; its log tells why".to_owned(),
                }
            }
            () = tokio::time::sleep(ready::PATIENCE) => {
                if adopted {
                    return Err(RuntimeError { runs_on: true, ..RuntimeError::new(STRANDED) });
                }
                format!("code-server did not answer within {} s; its log may tell why", ready::PATIENCE.as_secs())
            }
        };
        let log = self.last_lines(&request.spec.workspace).await;
        let stop = ContainerStopOpts::builder().ignore(true).timeout(5).build();
        if let Err(error) = call(container.stop(&stop)).await {
            tracing::debug!(container = name, %error, "could not stop what did not start");
        }
        Err(RuntimeError::new(why).with_log(log))
    }
}

impl Runtime for PodmanRuntime {
    async fn observe(&self) -> Result<BTreeMap<WorkspaceId, Observed>, RuntimeError> {
        let mut observed = BTreeMap::new();
        for container in self.list().await? {
            let Some(id) = workspace(&container) else { continue };
            let labels = container.labels.unwrap_or_default();
            let since = container.started_at.and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
            let phase = match container.state.as_deref() {
                Some("running") if !self.is_published(&id) => Phase::Starting,
                Some("running" | "stopping") => Phase::Running { since, trouble: None },
                Some("paused") => Phase::Frozen { since },
                _ => {
                    let code = container.exit_code.unwrap_or(0);
                    Phase::Exited { failed: code != 0, why: Some(format!("exited with code {code}")) }
                }
            };
            observed.insert(id, Observed { digest: labels.get(LABEL_DIGEST).cloned(), phase });
        }
        Ok(observed)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let (tell, changes) = mpsc::channel(1);
        let podman = self.podman.clone();
        tokio::spawn(async move {
            let options = EventsOpts::builder().stream(true).build();
            while !tell.is_closed() {
                let mut events = podman.events(&options);
                while let Some(Ok(_)) = events.next().await {
                    // A full channel already holds the news.
                    let _ = tell.try_send(());
                }
                // The service went away; the slow resync covers the gap.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        ReceiverStream::new(changes).boxed()
    }

    async fn start(
        &self,
        request: StartRequest,
        progress: impl Fn(Progress) + Send + Sync + 'static,
        creations: Arc<Semaphore>,
    ) -> Result<(), RuntimeError> {
        if self.runs(&request.spec.workspace).await? {
            tracing::info!(workspace = %request.spec.workspace, "its container runs already; waiting for code-server");
            progress(Progress::Waiting);
            return self.await_ready(&request, true).await;
        }
        let secrets = self.layout.secrets(&request.spec.workspace);
        let prepared = request.clone();
        let done = tokio::task::spawn_blocking(move || prepare(&prepared, &secrets, None)).await;
        done.map_err(|error| RuntimeError::new(error.to_string()))?.map_err(RuntimeError::new)?;
        if !call(self.podman.images().get(&request.spec.image).exists()).await? {
            progress(Progress::Pulling { percent: None });
            pull::pull(&self.socket, &request.spec.image, |percent| progress(Progress::Pulling { percent })).await?;
            progress(Progress::Queued);
        }
        let _permit = creations.acquire().await;
        progress(Progress::Creating);
        self.make(&request).await?;
        progress(Progress::Waiting);
        self.await_ready(&request, false).await
    }

    async fn freeze(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        call(self.podman.containers().get(container_name(id)).pause()).await
    }

    async fn thaw(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        call(self.podman.containers().get(container_name(id)).unpause()).await
    }

    async fn stop(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        let options = ContainerStopOpts::builder().timeout(10).build();
        let stopped = absent_is_fine(call(self.podman.containers().get(container_name(id)).stop(&options)).await);
        if stopped.is_ok() {
            // What does not run needs no secrets; the next start copies them anew.
            let secrets = self.layout.secrets(id);
            if let Err(error) = fs::remove_dir_all(&secrets).or_else(missing_is_fine) {
                tracing::warn!(workspace = %id, %error, "its secrets' copies were not removed");
            }
        }
        stopped
    }

    async fn remove(&self, id: &WorkspaceId) -> Result<(), RuntimeError> {
        self.delete(&container_name(id)).await
    }

    fn logs(&self, id: &WorkspaceId, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
        logs::lines(
            self.podman.clone(),
            self.socket.clone(),
            logs::Asked { container: container_name(id), lines, follow },
        )
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

fn absent_is_fine(outcome: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match outcome {
        Err(error) if error.message.contains("no such container") || error.message.contains("no container with") => {
            Ok(())
        }
        other => other,
    }
}

async fn call<T>(asked: impl Future<Output = podman_api::Result<T>>) -> Result<T, RuntimeError> {
    within(CALL, asked).await
}

async fn within<T>(most: Duration, asked: impl Future<Output = podman_api::Result<T>>) -> Result<T, RuntimeError> {
    match tokio::time::timeout(most, asked).await {
        Ok(outcome) => outcome.map_err(explain),
        Err(_) => Err(RuntimeError::new(format!(
            "podman did not answer within {} s; see \"csm doctor\", or try \"podman ps\" as the same account",
            most.as_secs()
        ))),
    }
}

/// Podman's reason for a refusal, from the answer's body.
fn said(body: &[u8]) -> podman_api::Result<String> {
    let said: serde_json::Value = serde_json::from_slice(body)?;
    Ok(said["message"].as_str().unwrap_or("it gave no reason").to_owned())
}

fn explain(error: podman_api::Error) -> RuntimeError {
    let text = error.to_string();
    // Streams wrap Podman's own answer, which begins with the status.
    let answered = text.strip_prefix("error ").map(|rest| rest.split_once(" - ").map_or(rest, |(_, message)| message));
    RuntimeError::new(match (answered, error) {
        (Some(message), _) => format!("podman: {message}"),
        (None, podman_api::Error::Error(_)) => {
            format!("podman can't be reached ({text}); is it installed and in PATH? \"csm doctor\" tells more")
        }
        (None, _) => format!("podman: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::model::manifest::Machine;

    /// A Podman with one container, dan's, and what it was asked.
    struct Service {
        runtime: PodmanRuntime,
        request: StartRequest,
        asked: Arc<Mutex<Vec<String>>>,
        _directory: tempfile::TempDir,
    }

    /// Answers one connection after the other; `answer` gets a request's first line, and `None` is silence.
    fn serve(listener: UnixListener, answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(converse(connection, answer.clone()));
            }
        });
    }

    async fn converse(mut connection: UnixStream, answer: Arc<impl Fn(&str) -> Option<String>>) {
        let mut asked = Vec::new();
        while connection.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {
            if !asked.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut asked)).unwrap();
            let Some(body) = answer(text.lines().next().unwrap()) else { continue };
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            connection.write_all((head + &body).as_bytes()).await.unwrap();
        }
    }

    fn service(state: &'static str) -> Service {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { run: directory.path().into(), state: directory.path().into(), share: "/share".into() };
        let text = r#"{"version":1,"domain":"a.localhost","image":"x","users":{"dan":{"passwordFile":"/p"}}}"#;
        let manifest = Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
        let request = StartRequest::new(&manifest, manifest.workspaces.values().next().unwrap(), &layout);
        fs::create_dir_all(request.bound.parent().unwrap()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let note = asked.clone();
        let listener = UnixListener::bind(layout.podman_socket()).unwrap();
        serve(listener, move |line| {
            note.lock().unwrap().push(line.to_owned());
            let labels = r#"{"io.code-server-multi.workspace":"dan","io.code-server-multi.base":"/base"}"#;
            let list = format!(r#"[{{"Labels":{labels},"State":"{state}","StartedAt":5}}]"#);
            line.contains("/containers/json").then_some(list)
        });
        Service { runtime: PodmanRuntime::new(layout, "/base".into()), request, asked, _directory: directory }
    }

    impl Service {
        async fn phase(&self) -> Phase {
            self.runtime.observe().await.unwrap().remove(&"dan".parse().unwrap()).unwrap().phase
        }

        /// What was asked besides what there is.
        fn deeds(&self) -> Vec<String> {
            self.asked.lock().unwrap().iter().filter(|line| !line.contains("/containers/json")).cloned().collect()
        }
    }

    #[tokio::test]
    async fn a_start_that_was_broken_off_is_adopted() {
        let service = service("running");
        assert_eq!(service.phase().await, Phase::Starting, "nobody finds its socket");
        serve(UnixListener::bind(&service.request.bound).unwrap(), |line| {
            line.starts_with("GET /healthz ").then(String::new)
        });
        service.runtime.start(service.request.clone(), |_| (), Arc::new(Semaphore::new(1))).await.unwrap();
        UnixStream::connect(&service.request.socket).await.expect("published");
        assert_eq!(service.phase().await, Phase::Running { since: 5, trouble: None });
        let deeds = service.deeds();
        assert!(deeds.iter().all(|line| line.contains("/wait?")), "nothing but waiting: {deeds:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_adopted_and_does_not_answer_runs_on() {
        let service = service("running");
        // The kernel takes connections that nobody answers.
        let _silent = StdListener::bind(&service.request.bound).unwrap();
        let error =
            service.runtime.start(service.request.clone(), |_| (), Arc::new(Semaphore::new(1))).await.unwrap_err();
        assert!(error.runs_on && error.message.contains("code-server does not answer"), "{error:?}");
        let deeds = service.deeds();
        assert!(deeds.iter().all(|line| line.contains("/wait?")), "nothing but waiting: {deeds:?}");
    }

    #[tokio::test]
    async fn only_what_runs_is_on_its_way_up() {
        assert_eq!(service("paused").phase().await, Phase::Frozen { since: 5 });
        assert_eq!(service("stopping").phase().await, Phase::Running { since: 5, trouble: None });
        assert!(matches!(service("exited").phase().await, Phase::Exited { .. }));
    }
}
