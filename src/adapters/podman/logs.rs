//! A workspace's log from Podman: read until its reader leaves, with a limit for how long Podman may not respond.
//!
//! It is read in pieces, because podman-api would collect a whole line in memory, however long that is.

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::unix_http::HttpResponse;
use super::libpod::{CALL_TIMEOUT, Libpod, unreachable, within};
use crate::model::printed::Lines;
use crate::ports::RuntimeError;

/// Which lines of which container's log.
pub(super) struct LogRequest {
    pub(super) container: String,
    pub(super) lines: usize,
    pub(super) follow: bool,
}

type Line = Result<String, RuntimeError>;

/// The requested lines. Dropping the stream closes the connection to Podman too.
pub(super) fn lines(libpod: Libpod, request: LogRequest) -> BoxStream<'static, Line> {
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = tx.closed() => {}
            outcome = read(&libpod, &request, &tx) => if let Err(error) = outcome {
                let _ = tx.send(Err(error)).await;
            },
        }
    });
    ReceiverStream::new(rx).boxed()
}

async fn read(libpod: &Libpod, request: &LogRequest, tx: &mpsc::Sender<Line>) -> Result<(), RuntimeError> {
    let LogRequest { container, lines, follow } = request;
    // A log that is followed may have no new line for hours, so this call shows whether Podman responds.
    if libpod.container(container).await?.is_none() {
        return Err(no_log());
    }
    let opened = in_time(*follow, libpod.log(container, *lines, *follow)).await;
    let mut answer = match opened {
        Err(RuntimeError::NotFound(_)) => return Err(no_log()),
        opened => opened?,
    };
    let mut frames = Frames::default();
    let next = async |answer: &mut HttpResponse| answer.next_bytes().await.map_err(|error| unreachable(&error));
    while let Some(bytes) = in_time(*follow, next(&mut answer)).await? {
        for line in frames.push(&bytes) {
            if tx.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Applies the timeout, unless the log is followed.
async fn in_time<T>(follow: bool, asked: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
    if follow { asked.await } else { within(CALL_TIMEOUT, asked).await }
}

/// Bytes of a frame's head: one for the stream, three zeros, and four for how many bytes follow.
const HEAD: usize = 8;

/// Splits Podman's frames into lines. A frame contains one or more lines, and the last one may have no newline.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    /// How many bytes of this frame have not been read yet.
    left: usize,
    lines: Lines,
}

impl Frames {
    fn push(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at((HEAD - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(head);
                bytes = rest;
                if let [_, _, _, _, size @ ..] = self.head.as_slice()
                    && let Ok(size) = <[u8; 4]>::try_from(size)
                {
                    self.left = u32::from_be_bytes(size) as usize;
                    self.head.clear();
                }
            } else {
                let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
                lines.extend(self.lines.push(part));
                (self.left, bytes) = (self.left - part.len(), rest);
                if self.left == 0 {
                    lines.extend(self.lines.finish());
                }
            }
        }
        lines
    }
}

fn no_log() -> RuntimeError {
    RuntimeError::NotFound("can't read the log: the workspace has not run yet; start it first".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::time::timeout;

    use super::*;

    /// Longer than any step of these tests takes. Their clock is paused, so this does not slow them.
    const LONG: Duration = Duration::from_secs(3600);

    fn service() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        (directory, socket, listener)
    }

    fn ask(socket: &Path, follow: bool) -> BoxStream<'static, Line> {
        lines(Libpod::new(socket.to_owned()), LogRequest { container: "csm-dan".into(), lines: 10, follow })
    }

    /// Says that the container is there, sends one line of its log and nothing more, and reports when its reader leaves.
    async fn begin(mut connection: UnixStream, gone: mpsc::Sender<()>) {
        let (mut asked, mut log) = (Vec::new(), false);
        while connection.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {
            if !asked.ends_with(b"\r\n\r\n") {
                continue;
            }
            log = !String::from_utf8_lossy(&asked).contains("/json ");
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
        let (tx, gone) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(begin(connection, tx.clone()));
            }
        });
        gone
    }

    #[tokio::test(start_paused = true)]
    async fn a_podman_that_hangs_is_an_error_in_time() {
        let (_directory, socket, _listener) = service();
        for follow in [false, true] {
            let first = timeout(LONG, ask(&socket, follow).next()).await.expect("an answer").expect("a line");
            assert!(matches!(first, Err(RuntimeError::TimedOut(_))), "follow: {follow}: {first:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_stalls_times_out_unless_it_is_followed() {
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
    async fn when_its_reader_leaves_the_connection_to_podman_is_closed() {
        let (_directory, socket, listener) = service();
        let mut gone = began(listener);
        let mut lines = ask(&socket, true);
        assert_eq!(lines.next().await, Some(Ok("hello".to_owned())));
        drop(lines);
        timeout(LONG, gone.recv()).await.expect("the connection is closed").expect("reported");
    }

    #[test]
    fn a_frame_without_an_end_is_bounded_while_it_is_read_and_shows_its_escapes() {
        let frame = |size: u32, text: &[u8]| [&[1, 0, 0, 0], size.to_be_bytes().as_slice(), text].concat();
        let mut frames = Frames::default();
        assert_eq!(frames.push(&frame(9 << 20, b"\x1b[2J")), Vec::<String>::new());
        for _ in 0..9 << 10 {
            assert!(frames.push(&[b'<'; 1 << 10]).len() <= 1);
        }
        let mut frames = Frames::default();
        let printed = [frame(6, b"a\x1b\nb\nc"), frame(0, b""), frame(2, b"d\n"), frame(1, b"e")].concat();
        let lines: Vec<String> = printed.iter().flat_map(|byte| frames.push(&[*byte])).collect();
        assert_eq!(lines, [r"a\u{1b}", "b", "c", "d", "e"], "wherever it is split");
        assert_eq!(Frames::default().push(&printed), lines);
    }

    #[tokio::test]
    async fn nine_megabytes_in_one_line_are_four_kilobytes() {
        let (_directory, socket, listener) = service();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") && connection.read_buf(&mut asked).await.unwrap() > 0 {}
                let log = [b"\x01\0\0\0\0\x90\0\0".as_slice(), &vec![b'<'; 9 << 20]].concat();
                let answer = if String::from_utf8_lossy(&asked).contains("/json ") {
                    b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
                } else {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", log.len());
                    [head.into_bytes(), log].concat()
                };
                connection.write_all(&answer).await.unwrap();
            }
        });
        let lines: Vec<Line> = ask(&socket, false).collect().await;
        let [Ok(line)] = lines.as_slice() else { panic!("{}", lines.len()) };
        assert!(line.len() < 5000 && line.ends_with(" bytes cut)"), "{line}");
    }
}
