//! What a workspace printed, from systemd's journal.

use std::process::Stdio;

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::ports::RuntimeError;

/// The last lines of what matches, such as `_SYSTEMD_UNIT=x.service`, then, with `follow`, those to come. Dropped, it ends journalctl too.
pub(super) fn lines(matches: String, lines: usize, follow: bool) -> BoxStream<'static, Result<String, RuntimeError>> {
    let (tell, told) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = tell.closed() => {}
            outcome = read(&matches, lines, follow, &tell) => if let Err(error) = outcome {
                let _ = tell.send(Err(RuntimeError::new(error))).await;
            },
        }
    });
    ReceiverStream::new(told).boxed()
}

async fn read(
    matches: &str,
    lines: usize,
    follow: bool,
    tell: &mpsc::Sender<Result<String, RuntimeError>>,
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
        let mut printed = BufReader::new(stdout).split(b'\n');
        while let Some(line) = printed.next_segment().await.map_err(failed)? {
            if tell.send(Ok(String::from_utf8_lossy(&line).into_owned())).await.is_err() {
                return Ok(());
            }
        }
    }
    let ended = journal.wait_with_output().await.map_err(failed)?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("can't read the journal: {}", String::from_utf8_lossy(&ended.stderr).trim()))
}
