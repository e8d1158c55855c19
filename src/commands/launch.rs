//! `csm launch`: one workspace in the foreground, as a systemd unit runs it.
//!
//! It tells systemd READY itself, when code-server answers: Podman does not support `Type=notify` together with `User=`.

use std::path::Path;
use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, block_on, environment, log, refuse_root};
use crate::adapters::podman::args;
use crate::adapters::podman::engine::Engine;
use crate::adapters::prepare::{clear, prepare};
use crate::adapters::ready;
use crate::model::label::WorkspaceId;
use crate::ports::StartRequest;

pub(super) fn run(path: &Path, id: &WorkspaceId) -> Result<ExitCode, Failure> {
    refuse_root()?;
    let manifest = environment::load_valid(path, environment::Against::Machine)?;
    let layout = environment::layout()?;
    log();
    let owner = manifest.owner_of(id).ok_or_else(|| {
        Failure::new(format!(
            "{} declares no workspace \"{id}\"; its users are {}",
            path.display(),
            crate::model::text::listed(manifest.owners.keys())
        ))
    })?;
    let request = StartRequest::new(&manifest, owner, &layout);
    let credentials = environment::given("CREDENTIALS_DIRECTORY");
    prepare(&request, &layout.secrets(id), credentials.as_deref()).map_err(Failure::new)?;
    let ended = block_on(async {
        // Under systemd the unit's own cgroup carries the limits.
        let split = std::env::var_os("INVOCATION_ID").is_some();
        let arguments = args::run(&request.spec, &engine().await?, split).map_err(Failure::new)?;
        supervise(arguments, &request).await
    });
    // What does not run needs no secrets; the next start copies them anew.
    clear(&layout.secrets(id)).map_err(|error| Failure::new(format!("can't remove the secrets' copies: {error}")))?;
    ended
}

async fn engine() -> Result<Engine, Failure> {
    let missing = |error| Failure::new(format!("can't run podman ({error}); \"csm doctor\" tells what is missing"));
    let asked = Command::new("podman").args(["info", "--format=json"]).output().await.map_err(missing)?;
    let info: serde_json::Value = serde_json::from_slice(&asked.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&asked.stderr);
        Failure::new(format!("podman info failed: {}; \"csm doctor\" tells what is missing", said.trim()))
    })?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let controllers = info["host"]["cgroupControllers"].as_array();
    Ok(Engine {
        version: text(&info["version"]["Version"]),
        controllers: controllers.into_iter().flatten().map(text).collect(),
        unified: info["host"]["cgroupVersion"] == "v2",
    })
}

async fn supervise(arguments: Vec<String>, request: &StartRequest) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::new(format!("can't run podman: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut podman = Command::new("podman").args(arguments).kill_on_drop(true).spawn().map_err(failed)?;
    let pid = podman.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    let mut ready = false;
    loop {
        tokio::select! {
            status = podman.wait() => {
                let code = status.map_err(failed)?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                // 143: it ended because it was asked to.
                return Ok(if code == 143 { ExitCode::SUCCESS } else { ExitCode::from(code) });
            }
            () = ready::published(request), if !ready => {
                ready = true;
                tracing::info!(workspace = %request.spec.workspace, "ready");
                if let Err(error) = sd_notify::notify(false, &[NotifyState::Ready]) {
                    tracing::warn!(%error, "systemd could not be told");
                }
            }
            _ = terminate.recv() => forward(pid),
            _ = interrupt.recv() => forward(pid),
        }
    }
}

fn forward(pid: Option<rustix::process::Pid>) {
    if let Some(pid) = pid {
        // It may have just ended; then there is nobody to tell.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}
