//! Waits until code-server responds.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::watch;
use crate::ports::StartRequest;

/// How long code-server may take to respond. It usually takes less than a second, and longer from a cold disk.
pub const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// How often code-server is probed while nothing changes in its socket's directory.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves when code-server responds on the socket that it bound, after publishing that socket at the path where nginx opens it.
pub async fn published(request: &StartRequest) {
    let mut changes = watch::directory(request.bound.parent().unwrap_or(&request.bound));
    loop {
        match publish(&request.bound, &request.socket) {
            Ok(()) if healthy(&request.socket).await => return,
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(workspace = %request.spec.workspace, %error, "can't publish code-server's socket");
            }
        }
        let _ = tokio::time::timeout(RECHECK_INTERVAL, changes.recv()).await;
    }
}

/// Gives a socket a second name. The owner can put anything at the first name, such as a link to another workspace's socket. Only a
/// socket of the owner's own gets the second name, and the owner can't change what the second name refers to.
fn publish(bound: &Path, socket: &Path) -> io::Result<()> {
    let new = socket.with_extension("new");
    let _ = fs::remove_file(&new);
    // This does not follow a symbolic link: it links the link itself.
    fs::hard_link(bound, &new)?;
    let done = if fs::symlink_metadata(&new)?.file_type().is_socket() {
        fs::rename(&new, socket)
    } else {
        Err(io::Error::other(format!("{} is not a socket", bound.display())))
    };
    // Needed after a refusal, and when both names were links to the same file already: then the rename does nothing.
    let _ = fs::remove_file(&new);
    done
}

/// Resolves when code-server responds on its socket, which is probed whenever something changes in the socket's directory.
pub async fn answers(socket: &Path) {
    let directory = socket.parent().unwrap_or(socket);
    let mut changes = watch::directory(directory);
    while !healthy(socket).await {
        let _ = tokio::time::timeout(RECHECK_INTERVAL, changes.recv()).await;
    }
}

/// Whether code-server responds now. `/healthz` does not count as activity and needs no sign-in; its body says nothing about health.
pub async fn healthy(socket: &Path) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, status(socket)).await, Ok(Ok(200..300)))
}

/// The status of the first response. Nothing after it is read: the workspace's owner can send anything there, without an end.
async fn status(socket: &Path) -> io::Result<u16> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).await?;
    let line = str::from_utf8(&line).map_err(io::Error::other)?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')).map(|(_, status)| status);
    status.and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other("the response is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};
    use tokio::net::UnixListener as AsyncListener;

    #[test]
    fn only_the_owners_own_socket_gets_the_second_name() {
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
        UnixStream::connect(&socket).expect("it is still the first socket");
        listener.set_nonblocking(true).expect("set");
        listener.accept().expect("the first socket was asked");
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
                    // Returns when the client has closed the connection.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    break;
                }
            }
            sent
        });
        (healthy(&socket).await, owner.await.expect("finished"))
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
    async fn an_endless_response_is_not_read_whole() {
        let (healthy, sent) = probe(&[*b"HTTP/1.1 100 Continue\r\n\r\n"; 64].concat().leak()[..], true).await;
        assert!(!healthy && sent < 4 << 20, "{sent} bytes");
    }
}
