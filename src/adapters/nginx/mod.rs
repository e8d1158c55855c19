//! nginx, with a configuration of our own, as this account: for machines where nobody else runs it.

mod config;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use tokio::process::Command;

use super::children::{ChildProcess, find};
use super::files::{make_directory, write_atomically};
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;

pub use config::render;

/// Why nginx does not serve what it should.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// It is not there.
    #[error("can't run nginx ({0}); install it (Debian: apt-get install nginx-light)")]
    Missing(io::Error),
    /// It refused its configuration, or did not begin to listen.
    #[error("nginx refuses its configuration: {0}")]
    Refused(String),
    /// A file could not be written.
    #[error("can't write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A running nginx.
pub struct Nginx {
    layout: Layout,
    child: ChildProcess,
    listens: SocketAddr,
}

impl Nginx {
    /// Tests the configuration, starts nginx and waits until it listens.
    pub async fn start(layout: &Layout, manifest: &Manifest) -> Result<Self, NginxError> {
        let directory = layout.nginx();
        make_directory(&directory, 0o700).map_err(|source| NginxError::Write { path: directory.clone(), source })?;
        install(layout, manifest).await?;
        addresses(manifest).try_for_each(check_free)?;
        let configuration = directory.join("nginx.conf").display().to_string();
        let prefix = directory.display().to_string();
        let arguments = ["-p", &prefix, "-e", "stderr", "-c", &configuration, "-g", "daemon off;"];
        let mut child = ChildProcess::spawn("nginx", "QUIT", "nginx", &arguments).map_err(NginxError::Missing)?;
        let address = manifest.front_door.listen;
        let reachable = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            how = child.wait() => {
                let why = format!("it ended ({how}); RUST_LOG=debug tells what it said");
                return Err(NginxError::Refused(why));
            }
            () = reachable => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {
                return Err(NginxError::Refused(format!("nothing listens on {address} after 10 s")));
            }
        }
        Ok(Self { layout: layout.clone(), child, listens: address })
    }

    /// Puts a new manifest's configuration, or renewed certificates, into force. Open connections stay. On an error the old one does.
    pub async fn reload(&self, before: &Manifest, manifest: &Manifest) -> Result<(), NginxError> {
        // nginx's own test passes over an address that is taken; its reload then keeps the old configuration without a word.
        let had: Vec<SocketAddr> = addresses(before).collect();
        for address in addresses(manifest).filter(|address| !had.contains(address)) {
            check_free(address)?;
        }
        install(&self.layout, manifest).await?;
        self.child.signal(rustix::process::Signal::HUP).map_err(NginxError::Missing)
    }

    /// Waits until it ends by itself, which it should not, and until the next one can take its place.
    pub async fn wait(&mut self) -> String {
        let how = self.child.wait().await;
        // Workers that have lost their master go on, and hold its ports. Told to quit they give those up at once, and end when
        // the last WebSocket that they carry does.
        self.child.signal_orphans(rustix::process::Signal::QUIT);
        let free = async {
            while check_free(self.listens).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Whoever else holds the port then is named when the next one starts.
        let _ = tokio::time::timeout(Duration::from_secs(5), free).await;
        how
    }

    /// Ends it.
    pub async fn stop(self) {
        self.child.stop().await;
    }
}

/// Every address that nginx listens on.
fn addresses(manifest: &Manifest) -> impl Iterator<Item = SocketAddr> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ports = manifest.workspaces.values().filter_map(|workspace| workspace.port).map(loopback);
    std::iter::once(manifest.front_door.listen).chain(ports)
}

fn check_free(address: SocketAddr) -> Result<(), NginxError> {
    let taken = |error: io::Error| {
        NginxError::Refused(format!("can't listen on {address}: {error}; \"ss -ltnp\" tells who does"))
    };
    // As nginx does it: connections of a server that ended just now are no obstacle.
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = socket(family, SocketType::STREAM, None).and_then(|socket| {
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, 1)
    });
    bound.map_err(|error| taken(error.into()))
}

/// Writes the configuration beside the one in force, tests it, and only then swaps it in.
async fn install(layout: &Layout, manifest: &Manifest) -> Result<(), NginxError> {
    let directory = layout.nginx();
    let (next, current) = (directory.join("next.conf"), directory.join("nginx.conf"));
    let write = |path: &PathBuf, text: &str| {
        write_atomically(path, text.as_bytes(), 0o600)
            .map_err(|source| NginxError::Write { path: path.clone(), source })
    };
    let text = render(manifest, layout);
    write(&next, &text)?;
    let tested = Command::new(find("nginx"))
        .args(["-t", "-q", "-e", "stderr", "-p"])
        .arg(&directory)
        .arg("-c")
        .arg(&next)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(NginxError::Missing)?;
    if !tested.status.success() {
        let said = String::from_utf8_lossy(&tested.stderr);
        let line = said.lines().find(|line| line.contains("[emerg]")).unwrap_or(said.trim());
        return Err(NginxError::Refused(line.trim_start_matches("nginx: ").to_owned()));
    }
    write(&current, &text)
}
