//! `csm launch`: one workspace in the foreground, as a systemd unit runs it.
//!
//! The launcher sends READY to systemd itself, when code-server responds: Podman does not support `Type=notify` together with `User=`.
//! It reports its progress as the unit's status text, which the daemon reads. Its exit codes are those of [`Exit`].

use std::convert::Infallible;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sd_notify::NotifyState;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::daemon::notify_systemd;
use super::doctor::subids::refuse_shared;
use super::sense::{Daemon, Target, sense};
use super::{Failure, block_on, environment, log, refuse_root};
use crate::activity::{Report, ReportResponse};
use crate::adapters::activity_socket::Reporter;
use crate::adapters::cgroup::UnitCgroup;
use crate::adapters::disk::DiskMeter;
use crate::adapters::manifest::CheckScope;
use crate::adapters::podman::args;
use crate::adapters::podman::engine::Engine;
use crate::adapters::prepare::{clear, prepare};
use crate::adapters::ready;
use crate::adapters::sensor::Processes;
use crate::model::container::is_archive;
use crate::model::label::WorkspaceId;
use crate::model::launch::{Exit, Status, describe_exit};
use crate::model::layout::Layout;
use crate::model::workspace::{Progress, Workspace};
use crate::ports::StartRequest;

/// How long to wait for a container to exit before leaving it to systemd, which kills the unit's processes.
const EXIT_TIMEOUT: Duration = Duration::from_secs(15);

/// How often csm checks whether the kernel has killed a process at the memory limit. The kernel could notify csm of that, but it would also
/// notify of each time that the workspace reaches its limit, up to a hundred times a second. A launcher that handles those needs memory
/// too, and would keep the workspace at its limit.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Why a workspace did not start, or stopped running.
struct Reason(Exit, String);

pub(super) fn run(path: &Path, id: &WorkspaceId) -> Result<ExitCode, Failure> {
    refuse_root()?;
    log();
    match attempt(path, id) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Reason(exit, why)) => {
            tracing::error!(workspace = %id, "{why}");
            report(&Status::Failed(why));
            Ok(ExitCode::from(exit as u8))
        }
    }
}

fn attempt(path: &Path, id: &WorkspaceId) -> Result<(), Reason> {
    let config = |failure: Failure| Reason(Exit::Config, failure.to_string());
    refuse_shared().map_err(|why| Reason(Exit::Config, why))?;
    let manifest = environment::load_valid(path, CheckScope::Host).map_err(config)?;
    let layout = environment::layout().map_err(config)?;
    let workspace = manifest.workspaces.get(id).ok_or_else(|| {
        let known = crate::model::text::join_words(manifest.owners.keys());
        Reason(
            Exit::Config,
            format!("{} declares no workspace \"{id}\"; use one of its users: {known}", path.display()),
        )
    })?;
    let request = StartRequest::new(&manifest, workspace, &layout);
    let credentials = environment::path_variable("CREDENTIALS_DIRECTORY");
    let secrets = layout.secrets(id);
    let prepared = make_home().and_then(|()| prepare(&request, &secrets, credentials.as_deref()));
    let outcome = match prepared {
        Ok(()) => block_on(async { Ok(launch(&request, workspace, &layout).await) }).map_err(config).flatten(),
        Err(why) => Err(Reason(Exit::Config, why)),
    };
    // A workspace that does not run needs no secrets; the next start copies them again.
    if let Err(error) = clear(&secrets) {
        tracing::error!(workspace = %id, %error, "can't remove the copies of the secrets");
    }
    outcome
}

/// Creates the directory that Podman keeps its storage in: one for each workspace of an owner.
fn make_home() -> Result<(), String> {
    let Some(home) = environment::path_variable("HOME") else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home);
    made.map_err(|error| {
        format!("can't create {}: {error}; the directory above must belong to this account", home.display())
    })
}

fn report(status: &Status) {
    notify_systemd(&[NotifyState::Status(&status.to_string())]);
}

async fn launch(request: &StartRequest, workspace: &Workspace, layout: &Layout) -> Result<(), Reason> {
    // The unit's own cgroup carries the limits.
    let split = in_unit();
    let engine = if split { version().await } else { info().await }?;
    fetch(&request.spec.image).await?;
    report(&Status::Starting(Progress::Creating));
    let arguments = args::run(&request.spec, &engine, split).map_err(|why| Reason(Exit::Config, why))?;
    let (found, payload) = oneshot::channel();
    let sensing = async {
        // Without a unit there is no cgroup to look into.
        if let Ok(cgroup) = payload.await {
            let processes = Processes::Cgroup(cgroup);
            let target = Target { id: workspace.id.clone(), processes, programs: workspace.autostop.programs.clone() };
            let reporter = Reporter::new(&layout.activity_socket(), workspace.id.clone());
            sense(target, layout, reporter).await;
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        outcome = supervise(arguments, request, found) => outcome,
        never = sensing => match never {},
    }
}

impl Daemon for Reporter {
    async fn report(&mut self, report: Report) -> Option<ReportResponse> {
        // The daemon may be restarting, or an older one that has no such socket.
        let failed = |error: &std::io::Error| tracing::debug!(%error, "can't report the workspace's activity");
        self.report(report).await.inspect_err(failed).ok()
    }
}

/// Whether systemd runs this process.
fn in_unit() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

fn podman() -> Command {
    let mut podman = Command::new("podman");
    podman.kill_on_drop(true);
    if in_unit() {
        podman.args(args::IN_UNIT).envs([args::NO_BUS]);
    }
    podman
}

fn missing(error: impl std::fmt::Display) -> Reason {
    Reason(Exit::Config, format!("can't run podman: {error}; run \"csm doctor\" to see what is missing"))
}

async fn version() -> Result<Engine, Reason> {
    let asked = podman().arg("--version").output().await.map_err(missing)?;
    let said = String::from_utf8_lossy(&asked.stdout);
    let version = said.split_ascii_whitespace().last().unwrap_or_default().to_owned();
    Ok(Engine { version, controllers: Vec::new(), unified: true })
}

async fn info() -> Result<Engine, Reason> {
    let asked = podman().args(["info", "--format=json"]).output().await.map_err(missing)?;
    let said = String::from_utf8_lossy(&asked.stderr);
    let info: serde_json::Value = serde_json::from_slice(&asked.stdout).map_err(|_| missing(said.trim()))?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let controllers = info["host"]["cgroupControllers"].as_array();
    Ok(Engine {
        version: text(&info["version"]["Version"]),
        controllers: controllers.into_iter().flatten().map(text).collect(),
        unified: info["host"]["cgroupVersion"] == "v2",
    })
}

/// Pulls the image unless Podman has it.
async fn fetch(image: &str) -> Result<(), Reason> {
    let here = async || podman().args(["image", "exists", image]).status().await.map_err(missing);
    if is_archive(image) || here().await?.success() {
        return Ok(());
    }
    report(&Status::Starting(Progress::Pulling { percent: None }));
    let pulled = podman().args(["pull", "--quiet", image]).stdout(Stdio::null()).output().await.map_err(missing)?;
    if pulled.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&pulled.stderr);
    let why = said.lines().last().unwrap_or("podman gave no reason").trim_start_matches("Error: ");
    Err(Reason(
        Exit::Image,
        format!("can't pull image {image}: {why}; check its name, and that this host reaches the registry"),
    ))
}

async fn supervise(
    arguments: Vec<String>,
    request: &StartRequest,
    found: oneshot::Sender<PathBuf>,
) -> Result<(), Reason> {
    let mut found = Some(found);
    let mut terminate = signal(SignalKind::terminate()).map_err(missing)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(missing)?;
    let cgroup = UnitCgroup::own();
    let mut made = cgroup.as_ref().map(UnitCgroup::changes);
    let mut memory_check = interval(MEMORY_CHECK_INTERVAL);
    memory_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let killed = || cgroup.as_ref().map_or(0, UnitCgroup::killed);
    let digest = request.spec.digest();
    let mut run = podman().args(arguments).spawn().map_err(missing)?;
    let mut published = pin!(ready::published(request));
    // When the container appeared, whether code-server has responded, and the number of killed processes that was last sent to systemd.
    let (mut since, mut ready, mut last_sent) = (None, false, 0);
    let mut disk = DiskMeter::new(&request.home, &request.project);
    let ready_status = |killed, disk| Status::Ready { digest: digest.clone(), killed, disk };
    // When the container is to be killed, after it was asked to stop.
    let mut kill_at: Option<Instant> = None;
    loop {
        let changed = async {
            match &mut made {
                Some(made) => made.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = run.wait() => {
                let code = status.map_err(missing)?.code().unwrap_or(1);
                if kill_at.is_some() || code == 0 {
                    return Ok(());
                }
                let (exit, why) = describe_exit(code, killed() > 0, request.spec.limits.memory);
                return Err(Reason(exit, why));
            }
            () = &mut published, if !ready => {
                ready = true;
                last_sent = killed();
                let status = ready_status(last_sent, None).to_string();
                notify_systemd(&[NotifyState::Ready, NotifyState::Status(&status)]);
                disk.tick(cgroup.as_ref());
                tracing::info!(workspace = %request.spec.workspace, "ready");
            }
            () = changed => {
                if let Some(payload) = cgroup.as_ref().and_then(UnitCgroup::payload) {
                    if let Some(found) = found.take() {
                        let _ = found.send(payload);
                    }
                    (since, made) = (Some(Instant::now()), None);
                    if !ready {
                        report(&Status::Starting(Progress::Waiting));
                    }
                }
            }
            _ = memory_check.tick(), if ready && kill_at.is_none() => {
                let now = killed();
                if now != last_sent {
                    last_sent = now;
                    report(&ready_status(last_sent, disk.bytes));
                }
                disk.tick(cgroup.as_ref());
            }
            () = disk.measured() => report(&ready_status(last_sent, disk.bytes)),
            () = sleep_until(since.unwrap_or_else(Instant::now) + ready::READY_TIMEOUT), if since.is_some() && !ready && kill_at.is_none() => {
                terminate_and_wait(&mut run).await;
                let late = ready::READY_TIMEOUT.as_secs();
                return Err(Reason(Exit::Silent, format!("code-server did not respond within {late} s; see the log")));
            }
            () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                // code-server waits for connections that browsers leave open. If this hangs, systemd kills the whole unit.
                kill_at = Some(Instant::now() + EXIT_TIMEOUT);
                let kill = podman().args(["kill", &request.spec.name]).status();
                let _ = timeout(EXIT_TIMEOUT, kill).await;
            }
            Some(()) = async { tokio::select! { it = terminate.recv() => it, it = interrupt.recv() => it } } => {
                kill_at = Some(Instant::now() + Duration::from_secs(request.spec.stop_seconds.into()));
                notify_systemd(&[NotifyState::Stopping, NotifyState::Status(&Status::Stopping.to_string())]);
                forward(&run);
            }
        }
    }
}

async fn terminate_and_wait(podman: &mut Child) {
    forward(podman);
    // systemd kills what still runs after that, with the unit.
    let _ = timeout(EXIT_TIMEOUT, podman.wait()).await;
}

/// Sends SIGTERM to Podman, which forwards it to the container's first process.
fn forward(podman: &Child) {
    if let Some(pid) = podman.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // It may have exited just now.
        let _ = kill_process(pid, Signal::TERM);
    }
}
