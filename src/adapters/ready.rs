//! Waiting for code-server to answer.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::unix_http;
use super::watch;
use crate::ports::StartRequest;

/// How long code-server has before something is wrong. It takes under a second; a cold disk some more.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long to wait for an event before asking anyway.
const RESYNC: Duration = Duration::from_secs(1);

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
pub async fn healthy(socket: &Path) -> bool {
    let asked = unix_http::request(socket, Method::GET, "/healthz", &[], "");
    matches!(tokio::time::timeout(Duration::from_secs(2), asked).await, Ok(Ok(answer)) if answer.status().is_success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};

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
}
