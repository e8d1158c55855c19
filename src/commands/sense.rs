//! Runs a workspace's sensor: reports to the daemon, serves the workspace's own socket, and shows the verdict in its terminals.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::activity::{Claim, Report, ReportResponse, Verdict};
use crate::adapters::files::ignore_not_found;
use crate::adapters::sensor::shown::Shown;
use crate::adapters::sensor::{Processes, Sensor};
use crate::http::control::{ClaimRequest, Control, serve_control};
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::text::ProgramName;

/// The time between reports when the daemon does not respond.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// The most claims of agents that wait for a daemon that does not respond.
const MAX_WAITING: usize = 64;

const UNREACHABLE: &str = "can't ask csm: it does not respond; try again in a minute";

/// Takes reports to the daemon.
pub(super) trait Daemon: Send {
    /// Sends a report; `None` if the daemon does not respond.
    fn report(&mut self, report: Report) -> impl Future<Output = Option<ReportResponse>> + Send;
}

/// What is sensed.
pub(super) struct Target {
    pub(super) id: WorkspaceId,
    pub(super) processes: Processes,
    pub(super) programs: Vec<ProgramName>,
}

/// Runs the sensor until it is dropped.
pub(super) async fn sense(target: Target, layout: &Layout, daemon: impl Daemon) {
    let (claims_tx, claims) = mpsc::channel(16);
    let (status, status_rx) = watch::channel(None);
    let control = Control { claims: claims_tx, status: status_rx };
    let inside = layout.inside(&target.id);
    let programs = target.programs.iter().map(ToString::to_string);
    let shown = Shown::open(&inside).inspect_err(|error| {
        tracing::warn!(workspace = %target.id, %error, "can't show the verdict in the workspace's terminals");
    });
    let sensing = Sensing {
        sensor: Sensor::new(target.processes, programs),
        daemon,
        status,
        shown: shown.ok(),
        waiting: Vec::new(),
    };
    let path = layout.control_socket(&target.id);
    match listen(&path) {
        Ok(listener) => {
            tokio::join!(serve_control(listener, control), sensing.run(claims));
        }
        Err(error) => {
            tracing::warn!(workspace = %target.id, %error, "can't listen on {}", path.display());
            sensing.run(claims).await;
        }
    }
}

/// Listens on the workspace's own socket. Its mode is left as it is: on the host the workspace's processes are this account's, and the
/// workspace can put a link in the place of the socket before its mode is changed.
fn listen(path: &Path) -> io::Result<UnixListener> {
    std::fs::remove_file(path).or_else(ignore_not_found)?;
    UnixListener::bind(path)
}

struct Sensing<D> {
    sensor: Sensor,
    daemon: D,
    status: watch::Sender<Option<Verdict>>,
    shown: Option<Shown>,
    /// Agents' claims that the daemon has not received.
    waiting: Vec<Claim>,
}

impl<D: Daemon> Sensing<D> {
    async fn run(mut self, mut claims: mpsc::Receiver<ClaimRequest>) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    let report = Report { sample: Some(self.sensor.sample()), claims: std::mem::take(&mut self.waiting) };
                    let again = report.claims.clone();
                    let response = self.report(report).await;
                    if response.is_none() {
                        self.waiting = again;
                    }
                    next = Instant::now() + response.map_or(RETRY_INTERVAL, |it| Duration::from_secs(it.next_report.max(1)));
                }
                request = claims.recv() => match request {
                    Some(request) => self.claim(request).await,
                    // Nothing serves the socket; the samples go on.
                    None => sleep_until(next).await,
                },
            }
        }
    }

    async fn report(&mut self, report: Report) -> Option<ReportResponse> {
        let response = self.daemon.report(report).await?;
        self.status.send_replace(Some(response.verdict.clone()));
        self.show(&response);
        Some(response)
    }

    /// Passes a claim on. An agent's process is looked for first: the daemon can't see it.
    async fn claim(&mut self, ClaimRequest { claim, reply }: ClaimRequest) {
        let claim = match claim {
            Claim::Agent { id, name, state, pid } => {
                let pid = pid.filter(|pid| self.sensor.watch_agent(&id, *pid));
                Claim::Agent { id, name, state, pid }
            }
            lease @ Claim::Lease { .. } => lease,
        };
        let report = Report { sample: None, claims: vec![claim.clone()] };
        let outcome = if let Some(response) = self.report(report).await {
            response.refused.into_iter().next().map_or(Ok(response.verdict), Err)
        } else {
            if matches!(claim, Claim::Agent { .. }) && self.waiting.len() < MAX_WAITING {
                self.waiting.push(claim);
            }
            Err(UNREACHABLE.to_owned())
        };
        // The program may have gone away.
        let _ = reply.send(outcome);
    }

    fn show(&self, response: &ReportResponse) {
        let Some(shown) = &self.shown else { return };
        // The workspace may have made this impossible; only its own terminals show less then.
        let _ = shown.show("status", Some(&response.verdict.to_string()));
        let announcement = response.announcement.as_deref();
        if announcement.is_some() || response.verdict.next.is_none_or(|next| next.seconds > 900) {
            let _ = shown.show("announcement", announcement);
        }
    }
}
