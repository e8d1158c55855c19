//! The socket on which launchers report their workspaces' activity to the daemon: a line of JSON for each report, and one for each
//! response. Every account can connect; the kernel says which one did, and each account can report only about its own workspaces.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::activity::{Report, ReportResponse};
use crate::model::label::WorkspaceId;
use crate::model::launch::account_name;

/// The longest line. A report with every field at its bound is a third of it.
const MAX_LINE: u64 = 64 << 10;

/// The most connections at a time. Each launcher has one.
const MAX_CONNECTIONS: usize = 4096;

/// The least time between two reports of a connection.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// How long a launcher waits for the daemon's response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A report with the workspace that it is about.
#[derive(Serialize, Deserialize)]
struct Line {
    workspace: WorkspaceId,
    #[serde(flatten)]
    report: Report,
}

/// Serves the socket indefinitely. `report` passes a report on; `None` ends the connection.
pub async fn serve<F>(listener: UnixListener, report: impl Fn(WorkspaceId, Report) -> F + Clone + Send + 'static)
where
    F: Future<Output = Option<ReportResponse>> + Send,
{
    let permits = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept a launcher's connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let report = report.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(stream, report).await {
                tracing::debug!(%error, "a launcher's connection ended");
            }
        });
    }
}

async fn converse<F>(stream: UnixStream, report: impl Fn(WorkspaceId, Report) -> F) -> io::Result<()>
where
    F: Future<Output = Option<ReportResponse>>,
{
    let uid = stream.peer_cred()?.uid();
    let accounts = tokio::fs::read_to_string("/etc/passwd").await?;
    let account = account_of(&accounts, uid).ok_or_else(|| io::Error::other(format!("uid {uid} has no account")))?;
    let mut lines = BufReader::new(stream);
    while let Some(line) = read_line(&mut lines).await? {
        let Line { workspace, report: it } = serde_json::from_slice(&line)?;
        if account_name(&workspace.owner) != account {
            return Err(io::Error::other(format!("account {account} reports about workspace {workspace}")));
        }
        let Some(response) = report(workspace, it).await else { return Ok(()) };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        lines.get_mut().write_all(&text).await?;
        tokio::time::sleep(MIN_INTERVAL).await;
    }
    Ok(())
}

/// The name of the account with this uid.
fn account_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The next line; `None` at the end. A line that is too long is an error.
async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::other("the line is too long, or incomplete")),
    }
}

/// A launcher's connection to the daemon. It connects when it is needed, again after an error.
pub struct Reporter {
    socket: PathBuf,
    workspace: WorkspaceId,
    stream: Option<BufReader<UnixStream>>,
}

impl Reporter {
    /// A reporter for this workspace.
    pub fn new(socket: &Path, workspace: WorkspaceId) -> Self {
        Self { socket: socket.to_owned(), workspace, stream: None }
    }

    /// Sends a report, and returns the daemon's response. The daemon may be restarting: then this is an error.
    pub async fn report(&mut self, report: Report) -> io::Result<ReportResponse> {
        let line = Line { workspace: self.workspace.clone(), report };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let stream = self.stream.take();
        let (response, stream) = timeout(RESPONSE_TIMEOUT, exchange(stream, &self.socket, &text))
            .await
            .map_err(|_| io::Error::other("csm did not respond in time"))??;
        self.stream = Some(stream);
        Ok(response)
    }
}

async fn exchange(
    stream: Option<BufReader<UnixStream>>,
    socket: &Path,
    text: &[u8],
) -> io::Result<(ReportResponse, BufReader<UnixStream>)> {
    if let Some(mut stream) = stream
        && let Ok(response) = exchange_on(&mut stream, text).await
    {
        return Ok((response, stream));
    }
    // The daemon was restarted since the last report.
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    Ok((exchange_on(&mut stream, text).await?, stream))
}

async fn exchange_on(stream: &mut BufReader<UnixStream>, text: &[u8]) -> io::Result<ReportResponse> {
    stream.get_mut().write_all(text).await?;
    let line = read_line(stream).await?.ok_or_else(|| io::Error::other("csm closed the connection"))?;
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::activity::{Sample, Verdict};

    type Received = Arc<Mutex<Vec<(WorkspaceId, Report)>>>;

    /// A daemon that collects reports, and the workspace of the account that runs this test, if its name allows that.
    fn daemon(directory: &Path) -> (PathBuf, Received) {
        let (socket, received) = (directory.join("activity.sock"), Received::default());
        let listener = UnixListener::bind(&socket).expect("bound");
        let into = received.clone();
        tokio::spawn(serve(listener, move |id, report| {
            into.lock().expect("unpoisoned").push((id, report));
            async {
                Some(ReportResponse {
                    verdict: Verdict::default(),
                    announcement: None,
                    refused: Vec::new(),
                    next_report: 30,
                })
            }
        }));
        (socket, received)
    }

    #[tokio::test]
    async fn an_account_cannot_report_about_another_owners_workspace() {
        let directory = tempfile::tempdir().expect("a directory");
        let (socket, received) = daemon(directory.path());
        // The account of this test is not called csm-dan.
        let mut reporter = Reporter::new(&socket, "dan".parse().expect("an id"));
        let report = Report { sample: Some(Sample::default()), claims: Vec::new() };
        assert!(reporter.report(report).await.is_err());
        assert!(received.lock().expect("unpoisoned").is_empty());
    }

    #[tokio::test]
    async fn endless_lines_and_nonsense_end_the_connection() {
        let directory = tempfile::tempdir().expect("a directory");
        let (socket, received) = daemon(directory.path());
        for bytes in [vec![b'x'; 100 << 10], b"{\n".to_vec(), vec![0xff, b'\n'], b"{\"workspace\":\"../x\"}\n".to_vec()]
        {
            let mut stream = UnixStream::connect(&socket).await.expect("connected");
            // The daemon may close the connection before it has read everything.
            let _ = stream.write_all(&bytes).await;
            let mut rest = Vec::new();
            let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it is closed");
            assert!(rest.is_empty(), "{rest:?}");
        }
        assert!(received.lock().expect("unpoisoned").is_empty());
    }

    #[test]
    fn accounts_are_found_by_their_exact_uid() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbad line\ncsm-dan:x:990:990::/x:/bin/sh\ncsm-eve:x:99:99::/x:/bin/sh\n";
        assert_eq!(account_of(passwd, 990), Some("csm-dan"));
        assert_eq!(account_of(passwd, 99), Some("csm-eve"));
        assert_eq!(account_of(passwd, 9), None);
    }
}
