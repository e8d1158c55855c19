//! What a workspace printed, from systemd's journal.

use std::process::Stdio;

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::adapters::children::LineReader;
use crate::ports::RuntimeError;

/// The last lines of the entries that match, such as `_SYSTEMD_UNIT=x.service`, then, with `follow`, new ones. Dropping the stream kills
/// journalctl too.
pub(super) fn lines(matches: String, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = tx.closed() => {}
            outcome = read(&matches, lines, follow, &tx) => if let Err(error) = outcome {
                let _ = tx.send(Err(RuntimeError::Refused(error))).await;
            },
        }
    });
    ReceiverStream::new(rx).boxed()
}

async fn read(
    matches: &str,
    lines: usize,
    follow: bool,
    tx: &mpsc::Sender<Result<String, RuntimeError>>,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("can't read the journal: {error}");
    let mut journal = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--all", "--output=cat", &format!("--lines={lines}"), matches])
        .args(follow.then_some("--follow"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(stdout) = journal.stdout.take() {
        let mut reader = LineReader::new(stdout);
        while let Some(complete) = reader.next().await.map_err(failed)? {
            for line in complete {
                if tx.send(Ok(line)).await.is_err() {
                    // The log's reader has left.
                    return Ok(());
                }
            }
        }
    }
    let output = journal.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("can't read the journal: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
