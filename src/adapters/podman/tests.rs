use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::adapters::unix_http;
use crate::model::container::Mount;
use crate::model::manifest::Machine;
use crate::ports::contract::{self, Stage};

/// A Podman with one container, dan's, if any.
#[derive(Clone)]
struct Service {
    runtime: PodmanRuntime,
    request: StartRequest,
    world: Arc<Mutex<World>>,
    /// A create call takes one permit; Podman creates nothing before.
    creations: Arc<Semaphore>,
    _directory: Arc<tempfile::TempDir>,
}

struct World {
    /// What libpod calls the container's state, if there is one.
    state: Option<&'static str>,
    /// The calls that change something.
    asked: Vec<String>,
    hangs: bool,
}

type Response = (u16, String);

/// Accepts connections and responds to each request's first line; `None` sends no response.
fn serve<F: Future<Output = Option<Response>> + Send + 'static>(
    listener: UnixListener,
    answer: impl Fn(String) -> F + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(converse(connection, answer.clone()));
        }
    });
}

async fn converse<F: Future<Output = Option<Response>>>(mut connection: UnixStream, answer: Arc<impl Fn(String) -> F>) {
    let mut asked = Vec::new();
    while connection.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {
        let text = String::from_utf8(asked.clone()).unwrap();
        if !text.contains("\r\n\r\n") {
            continue;
        }
        asked.clear();
        let Some((status, body)) = answer(text.lines().next().unwrap().to_owned()).await else { continue };
        let type_and_length = format!("content-type: application/json\r\ncontent-length: {}", body.len());
        let head = format!("HTTP/1.1 {status} Status\r\n{type_and_length}\r\n\r\n");
        if connection.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

fn service(state: impl Into<Option<&'static str>>) -> Service {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let at = directory.path();
    let layout = Layout { run: at.join("run"), state: at.into(), share: "/share".into() };
    fs::create_dir(&layout.run).unwrap();
    let base = at.join("base");
    let text = format!(
        r#"{{"version":1,"domain":"a.localhost","image":"x","workspaceBase":"{}","users":{{"dan":{{"passwordFile":"/p"}}}}}}"#,
        base.display()
    );
    let manifest = Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
    let request = StartRequest::new(&manifest, manifest.workspaces.values().next().unwrap(), &layout);
    fs::create_dir_all(request.bound.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(layout.podman_socket()).unwrap();
    let service = Service {
        runtime: PodmanRuntime::new(layout, "/base".into()),
        request,
        world: Arc::new(Mutex::new(World { state: state.into(), asked: Vec::new(), hangs: false })),
        creations: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        _directory: directory,
    };
    let answering = service.clone();
    serve(listener, move |line| {
        let service = answering.clone();
        async move { service.respond(&line).await }
    });
    service
}

impl Service {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    async fn respond(&self, line: &str) -> Option<Response> {
        if self.world().hangs {
            return None;
        }
        let (method, path) = line.split_once(" /").unwrap();
        let action = path.split(['/', '?', ' ']).nth(if path.contains("/csm-dan") { 4 } else { 3 }).unwrap();
        if line.contains("/containers/json") || action == "json" {
            let state = self.world().state;
            let labels = r#"{"io.code-server-multi.workspace":"dan","io.code-server-multi.base":"/base"}"#;
            return Some(match state {
                Some(state) if action == "json" && path.contains("/csm-dan") => {
                    (200, format!(r#"{{"State":{{"Status":"{state}","ExitCode":3}}}}"#))
                }
                Some(state) => {
                    (200, format!(r#"[{{"Labels":{labels},"State":"{state}","StartedAt":5,"ExitCode":3}}]"#))
                }
                None if path.contains("/csm-dan") => (404, r#"{"message":"no such container"}"#.into()),
                None => (200, "[]".into()),
            });
        }
        if path.contains("/info") {
            return Some((200, "{}".into()));
        }
        if path.contains("/images/") {
            return Some((204, String::new()));
        }
        let action = if method == "DELETE" { "delete" } else { action };
        self.world().asked.push(action.to_owned());
        if action == "create" {
            self.creations.acquire().await.unwrap().forget();
        }
        self.act(action)
    }

    /// Behaves as Podman 4.3.1 does.
    fn act(&self, action: &str) -> Option<Response> {
        let mut world = self.world();
        let refusal = |message: &str| Some((500, format!(r#"{{"message":"{message}"}}"#)));
        world.state = match (action, world.state) {
            ("create", None) => Some("created"),
            ("start", Some("created" | "exited")) => {
                serve_health(&self.request);
                Some("running")
            }
            ("pause", Some("running")) => Some("paused"),
            ("unpause", Some("paused")) => Some("running"),
            ("stop", Some("paused")) => return refusal("is running or paused, refusing to clean up"),
            ("stop", Some("created" | "exited")) => return Some((304, String::new())),
            ("stop", Some(_)) => Some("exited"),
            ("delete", Some(_)) => None,
            ("wait", Some(_)) => return None,
            (_, None) => return Some((404, r#"{"message":"no such container"}"#.into())),
            _ => return refusal("container state improper"),
        };
        Some((204, String::new()))
    }

    async fn start(&self) -> Result<Endpoint, RuntimeError> {
        self.runtime.start(self.request.clone(), |_| (), Arc::new(Semaphore::new(1))).await
    }

    fn id(&self) -> WorkspaceId {
        self.request.spec.workspace.clone()
    }

    async fn phase(&self) -> Phase {
        self.runtime.observe().await.unwrap().remove(&self.id()).unwrap().phase
    }

    /// The calls that change something, without those that wait.
    fn writes(&self) -> Vec<String> {
        self.world().asked.iter().filter(|action| *action != "wait").cloned().collect()
    }
}

fn serve_health(request: &StartRequest) {
    serve(UnixListener::bind(&request.bound).unwrap(), async |line| {
        line.starts_with("GET /healthz ").then(|| (200, String::new()))
    });
}

#[tokio::test]
async fn a_start_that_was_interrupted_is_adopted() {
    let service = service("running");
    assert_eq!(service.phase().await, Phase::Starting, "its socket is not published");
    serve_health(&service.request);
    let endpoint = service.start().await.unwrap();
    UnixStream::connect(&endpoint.socket).await.expect("published");
    assert_eq!(service.phase().await, Phase::Running { since: 5, warning: None });
    assert_eq!(service.writes(), Vec::<String>::new(), "nothing but waiting");
}

#[tokio::test(start_paused = true)]
async fn an_adopted_workspace_that_does_not_respond_runs_on() {
    let service = service("running");
    // The kernel accepts connections that no program serves.
    let _silent = StdListener::bind(&service.request.bound).unwrap();
    let error = service.start().await.unwrap_err();
    assert!(matches!(error, RuntimeError::StillRunning(_)), "{error:?}");
    assert_eq!(service.writes(), Vec::<String>::new(), "nothing but waiting");
}

#[tokio::test]
async fn only_a_running_container_is_starting() {
    assert_eq!(service("paused").phase().await, Phase::Frozen { since: 5 });
    assert_eq!(service("stopping").phase().await, Phase::Running { since: 5, warning: None });
    assert!(matches!(service("created").phase().await, Phase::Exited { failed: false, .. }));
    assert!(matches!(service("exited").phase().await, Phase::Exited { failed: true, .. }));
}

#[tokio::test]
async fn a_frozen_workspace_is_thawed_before_it_is_stopped() {
    let service = service("paused");
    service.runtime.stop(&service.id()).await.unwrap();
    assert_eq!(service.writes(), ["unpause", "stop"]);
}

#[tokio::test]
async fn a_start_replaces_any_container_that_is_left() {
    for (state, writes) in [
        (None, &["delete", "create", "start"][..]),
        (Some("created"), &["delete", "create", "start"]),
        (Some("exited"), &["delete", "create", "start"]),
        (Some("removing"), &["delete", "create", "start"]),
        (Some("stopping"), &["stop", "delete", "create", "start"]),
    ] {
        let service = service(state);
        service.start().await.unwrap_or_else(|error| panic!("{state:?}: {error:?}"));
        assert_eq!(service.writes(), writes, "{state:?}");
    }
    let frozen = service("paused");
    serve_health(&frozen.request);
    frozen.start().await.unwrap();
    assert_eq!(frozen.writes(), ["unpause"], "what is frozen is thawed");
}

#[tokio::test]
async fn a_stop_waits_for_what_a_dropped_start_creates_and_it_never_runs() {
    let service = service(None);
    service.creations.forget_permits(Semaphore::MAX_PERMITS);
    let is_creating = async {
        while !service.writes().contains(&"create".to_owned()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        started = service.start() => panic!("{started:?}"),
        () = is_creating => {}
    }
    let id = service.id();
    let mut stop = std::pin::pin!(service.runtime.stop(&id));
    // Lets every other task that is ready run first.
    for _ in 0..1000 {
        assert!(futures_util::poll!(&mut stop).is_pending(), "Podman is still creating it");
        tokio::task::yield_now().await;
    }
    service.creations.add_permits(1);
    stop.await.unwrap();
    assert_eq!(service.writes(), ["delete", "create"]);
    assert_eq!(service.world().state, Some("created"));
}

#[tokio::test]
async fn a_creation_waits_for_its_permit_and_a_pull_does_not() {
    let service = service(None);
    let turn = Arc::new(Semaphore::new(0));
    let (steps, mut rx) = mpsc::unbounded_channel();
    let start = service.runtime.start(service.request.clone(), move |step| drop(steps.send(step)), turn.clone());
    let watch = async {
        assert_eq!(rx.recv().await, Some(Progress::Queued));
        assert_eq!(service.writes(), Vec::<String>::new(), "nothing is created before its turn");
        turn.add_permits(1);
    };
    let (started, ()) = tokio::join!(start, watch);
    started.unwrap();
    assert_eq!(turn.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_call_to_a_podman_that_hangs_times_out() {
    let service = service("running");
    service.world().hangs = true;
    let (runtime, id) = (&service.runtime, &service.id());
    let outcomes = [
        service.start().await.map(drop),
        runtime.stop(id).await,
        runtime.freeze(id).await,
        runtime.thaw(id).await,
        runtime.remove(id).await,
        runtime.observe().await.map(drop),
    ];
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(RuntimeError::TimedOut(_)))), "{outcomes:?}");
}

#[tokio::test]
async fn a_podman_that_can_not_be_reached_is_not_taken_for_a_refusal() {
    let service = service(None);
    fs::remove_file(service.runtime.layout.podman_socket()).unwrap();
    let outcomes = [
        service.start().await.map(drop),
        service.runtime.stop(&service.id()).await,
        service.runtime.observe().await.map(drop),
    ];
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(RuntimeError::Unavailable(_)))), "{outcomes:?}");
}

/// The account's own Podman, with an image that contains only links into `/usr`, which is the host's.
struct RealPodman {
    runtime: PodmanRuntime,
    request: StartRequest,
}

impl Stage for RealPodman {
    type Runtime = PodmanRuntime;

    fn runtime(&self) -> &PodmanRuntime {
        &self.runtime
    }

    fn request(&self) -> StartRequest {
        self.request.clone()
    }

    async fn exit(&self, code: u8) {
        unix_http::tests::ask_to_exit(&self.request.socket, code).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Podman's service: tests/e2e/contract runs it"]
async fn podman_keeps_the_contract() {
    let directory = |variable| PathBuf::from(std::env::var_os(variable).expect("tests/e2e/contract sets it"));
    let (at, base) = (directory("CSM_CONTRACT_RUN"), directory("CSM_CONTRACT_BASE"));
    let layout = Layout { run: at.clone(), state: at.join("state"), share: at.join("share") };
    let text = format!(
        r#"{{"version":1,"domain":"a.localhost","image":"localhost/csm-contract:latest","workspaceBase":"{}","users":{{"contract":{{"passwordFile":"/p"}}}}}}"#,
        base.display()
    );
    let manifest = Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
    let mut request = StartRequest::new(&manifest, manifest.workspaces.values().next().unwrap(), &layout);
    let program = include_str!("../../../tests/e2e/lib/contract.pl");
    request.spec.command =
        ["/usr/bin/perl", "-e", program, "--", "--socket=/run/csm/http.sock"].map(str::to_owned).to_vec();
    // Its program needs none of csm's own files.
    request.spec.mounts.retain(|mount| !mount.source.starts_with(&layout.share));
    request.spec.mounts.push(Mount { source: "/usr".into(), target: "/usr".into(), read_only: true });
    let runtime = PodmanRuntime::new(layout, manifest.workspace_base.to_string());
    contract::check(&RealPodman { runtime, request }).await;
}
