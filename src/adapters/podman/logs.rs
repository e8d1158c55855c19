//! A workspace's log from Podman: read as long as somebody listens, and with a limit to how long Podman can leave them waiting.

use futures_util::TryStreamExt as _;
use futures_util::stream::{BoxStream, StreamExt as _};
use podman_api::Podman;
use podman_api::conn::TtyChunk;
use podman_api::opts::ContainerLogsOpts;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{absent_is_fine, call, explain};
use crate::ports::RuntimeError;

/// Which part of which log.
pub(super) struct Asked {
    pub(super) container: String,
    pub(super) lines: usize,
    pub(super) follow: bool,
}

type Line = Result<String, RuntimeError>;

/// The lines asked for. Dropped, they end the connection to Podman too.
pub(super) fn lines(podman: Podman, asked: Asked) -> BoxStream<'static, Line> {
    let (tell, told) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = tell.closed() => {}
            outcome = read(&podman, &asked, &tell) => if let Err(error) = outcome {
                let _ = tell.send(Err(error)).await;
            },
        }
    });
    ReceiverStream::new(told).boxed()
}

async fn read(podman: &Podman, asked: &Asked, tell: &mpsc::Sender<Line>) -> Result<(), RuntimeError> {
    let container = podman.containers().get(&asked.container);
    // A log that is followed may be silent for hours, so this shows whether Podman answers at all.
    if !call(container.exists()).await? {
        return Err(no_log());
    }
    let options = ContainerLogsOpts::builder().stdout(true).stderr(true);
    let mut chunks = container.logs(&options.tail(asked.lines.to_string()).follow(asked.follow).build());
    loop {
        let next = chunks.try_next();
        let chunk = if asked.follow { next.await.map_err(explain) } else { call(next).await };
        let text = match chunk.map_err(absent)? {
            Some(TtyChunk::StdOut(bytes) | TtyChunk::StdErr(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Some(TtyChunk::StdIn(_)) => continue,
            None => return Ok(()),
        };
        for line in text.lines() {
            if tell.send(Ok(line.to_owned())).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn no_log() -> RuntimeError {
    RuntimeError::new("there is no log: the workspace has not run yet")
}

fn absent(error: RuntimeError) -> RuntimeError {
    absent_is_fine(Err(error)).err().unwrap_or_else(no_log)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::time::timeout;

    use super::*;

    /// Longer than anything here should take; the clock is the tests' own.
    const LONG: Duration = Duration::from_secs(3600);

    fn service() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        (directory, socket, listener)
    }

    fn ask(socket: &PathBuf, follow: bool) -> BoxStream<'static, Line> {
        lines(Podman::unix(socket), Asked { container: "csm-dan".into(), lines: 10, follow })
    }

    /// Says that the container is there, begins its log with one line, says no more, and tells when nobody listens any more.
    async fn begin(mut connection: UnixStream, gone: mpsc::Sender<()>) {
        let (mut asked, mut log) = (Vec::new(), false);
        while connection.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {
            if !asked.ends_with(b"\r\n\r\n") {
                continue;
            }
            log = !String::from_utf8_lossy(&asked).contains("/exists ");
            let answer: &[u8] = if log {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nE\r\n\x01\0\0\0\0\0\0\x06hello\n\r\n"
            } else {
                b"HTTP/1.1 204 No Content\r\n\r\n"
            };
            asked.clear();
            connection.write_all(answer).await.unwrap();
        }
        if log {
            gone.send(()).await.unwrap();
        }
    }

    fn began(listener: UnixListener) -> mpsc::Receiver<()> {
        let (tell, gone) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(begin(connection, tell.clone()));
            }
        });
        gone
    }

    #[tokio::test(start_paused = true)]
    async fn a_podman_that_hangs_is_an_error_in_time() {
        let (_directory, socket, _listener) = service();
        for follow in [false, true] {
            let first = timeout(LONG, ask(&socket, follow).next()).await.expect("an answer").expect("a line");
            assert!(first.unwrap_err().message.starts_with("podman did not answer within 20 s"), "follow: {follow}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_breaks_off_is_an_error_in_time_and_a_followed_one_may_be_silent() {
        let (_directory, socket, listener) = service();
        let _gone = began(listener);
        for follow in [false, true] {
            let mut lines = ask(&socket, follow);
            assert_eq!(lines.next().await, Some(Ok("hello".to_owned())));
            let next = timeout(LONG, lines.next()).await;
            assert_eq!(next.is_err(), follow, "{next:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_its_reader_goes_podman_is_let_go_too() {
        let (_directory, socket, listener) = service();
        let mut gone = began(listener);
        let mut lines = ask(&socket, true);
        assert_eq!(lines.next().await, Some(Ok("hello".to_owned())));
        drop(lines);
        timeout(LONG, gone.recv()).await.expect("the connection ends").expect("told");
    }
}
