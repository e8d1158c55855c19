//! What a workspace printed, from systemd's journal.

use std::process::Stdio;

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::model::printed::Lines;
use crate::ports::RuntimeError;

/// How many bytes are read at a time.
const READ_SIZE: usize = 16 << 10;

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
    if let Some(stdout) = journal.stdout.take()
        && !send_lines(stdout, tx).await.map_err(failed)?
    {
        return Ok(());
    }
    let output = journal.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("can't read the journal: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Sends the output line by line, until its end. Returns false when the reader has left.
async fn send_lines(
    mut printed: impl AsyncRead + Unpin,
    tx: &mpsc::Sender<Result<String, RuntimeError>>,
) -> std::io::Result<bool> {
    let (mut lines, mut buffer) = (Lines::default(), vec![0; READ_SIZE]);
    loop {
        let count = printed.read(&mut buffer).await?;
        let complete = if count == 0 { Vec::from_iter(lines.finish()) } else { lines.push(&buffer[..count]) };
        for line in complete {
            if tx.send(Ok(line)).await.is_err() {
                return Ok(false);
            }
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_while_they_are_read_and_show_their_escapes() {
        let (tx, mut rx) = mpsc::channel(64);
        let printed = [b"\x1b[2J\n".as_slice(), &vec![b'<'; 9 << 20], b"\nend"].concat();
        assert!(send_lines(printed.as_slice(), &tx).await.unwrap());
        drop(tx);
        let mut lines = Vec::new();
        while let Some(line) = rx.recv().await {
            lines.push(line.unwrap());
        }
        assert_eq!((lines.len(), lines[0].as_str(), lines[2].as_str()), (3, r"\u{1b}[2J", "end"));
        assert!(lines[1].len() < 5000 && lines[1].ends_with(" bytes cut)"), "{}", lines[1]);
    }
}
