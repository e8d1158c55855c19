//! Waiting for code-server to answer.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::watch;
use crate::ports::StartRequest;

/// How long code-server has before something is wrong. It takes under a second; a cold disk some more.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long to wait for an event before asking anyway.
const RESYNC: Duration = Duration::from_secs(1);

/// How long one question may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves when code-server answers on the socket that it bound, which then is where others look for it.
pub async fn published(request: &StartRequest) {
    let mut changes = watch::directory(request.bound.parent().unwrap_or(&request.bound));
    loop {
        match publish(&request.bound, &request.socket) {
            Ok(()) if healthy(&request.socket).await => return,
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(workspace = %request.spec.workspace, %error, "its socket can't be used"),
        }
        let _ = tokio::time::timeout(RESYNC, changes.recv()).await;
    }
}

/// Gives a socket a second name. The owner can put anything at the first one, such as a link to another workspace's socket, but only
/// a socket of their own gets the second, and they can't change what that is.
fn publish(bound: &Path, socket: &Path) -> io::Result<()> {
    let new = socket.with_extension("new");
    let _ = fs::remove_file(&new);
    // A link is linked itself, and not followed.
    fs::hard_link(bound, &new)?;
    let done = if fs::symlink_metadata(&new)?.file_type().is_socket() {
        fs::rename(&new, socket)
    } else {
        Err(io::Error::other("what is there is not a socket"))
    };
    // What was refused; and renaming one name of a file to another of the same does nothing.
    let _ = fs::remove_file(&new);
    done
}

/// Resolves when code-server answers on its socket. It is asked whenever something happens in the socket's directory.
pub async fn answers(socket: &Path) {
    let directory = socket.parent().unwrap_or(socket);
    let mut changes = watch::directory(directory);
    while !healthy(socket).await {
        let _ = tokio::time::timeout(RESYNC, changes.recv()).await;
    }
}

/// Whether code-server answers now. `/healthz` is no heartbeat and needs no sign-in; its text says nothing about health.
async fn healthy(socket: &Path) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, status(socket)).await, Ok(Ok(200..300)))
}

/// The status of the first response, and nothing after it: whoever owns the workspace can send anything there, without an end.
async fn status(socket: &Path) -> io::Result<u16> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).await?;
    let line = str::from_utf8(&line).map_err(io::Error::other)?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')).map(|(_, status)| status);
    status.and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other("it is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};
    use tokio::net::UnixListener as AsyncListener;

    #[test]
    fn only_a_socket_of_ones_own_gets_the_second_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let (bound, socket) = (dir.path().join("bound"), dir.path().join("http.sock"));
        let _another = UnixListener::bind(dir.path().join("another")).expect("bound");
        symlink("another", &bound).expect("linked");
        assert!(publish(&bound, &socket).is_err(), "a link to another's socket");
        fs::remove_file(&bound).expect("removed");
        fs::write(&bound, "").expect("written");
        assert!(publish(&bound, &socket).is_err(), "a file");
        fs::remove_file(&bound).expect("removed");
        assert!(publish(&bound, &socket).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        assert!(!socket.exists());

        let listener = UnixListener::bind(&bound).expect("bound");
        publish(&bound, &socket).expect("published");
        publish(&bound, &socket).expect("published again");
        fs::remove_file(&bound).expect("removed");
        symlink("another", &bound).expect("linked");
        UnixStream::connect(&socket).expect("it stays the first one");
        listener.set_nonblocking(true).expect("set");
        listener.accept().expect("that was asked");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 3, "nothing else is left");
    }

    /// Whether what responds like this is healthy, and how many bytes of it were read.
    async fn probe(response: &'static [u8], again: bool) -> (bool, usize) {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("http.sock");
        let listener = AsyncListener::bind(&socket).expect("bound");
        let owner = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("asked");
            let mut sent = 0;
            while stream.write_all(response).await.is_ok() {
                sent += response.len();
                if !again {
                    // The end comes when it was read.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    break;
                }
            }
            sent
        });
        (healthy(&socket).await, owner.await.expect("ended"))
    }

    #[tokio::test]
    async fn only_a_good_status_is_healthy() {
        for (response, expected) in [
            (b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), true),
            (b"HTTP/1.0 204 No Content\r\n\r\n", true),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            (b"SSH-2.0-OpenSSH_9.2\r\n", false),
        ] {
            assert_eq!(probe(response, false).await.0, expected, "{}", String::from_utf8_lossy(response));
        }
    }

    #[tokio::test]
    async fn what_responds_without_an_end_is_not_read_to_it() {
        let (healthy, sent) = probe(&[*b"HTTP/1.1 100 Continue\r\n\r\n"; 64].concat().leak()[..], true).await;
        assert!(!healthy && sent < 4 << 20, "{sent} bytes");
    }
}
