//! Runs nginx with csm's configuration as this account, for hosts where systemd does not run it.

mod config;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use tokio::process::Command;

use super::children::{ChildProcess, find, output_within};
use super::files::{make_directory, write_atomically};
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;

pub use config::render;

/// How long nginx may test its configuration.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why nginx can't be started or reloaded.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// nginx can't be run.
    #[error("can't run nginx: {0}; install it (Debian: apt-get install nginx-light)")]
    Missing(io::Error),
    /// nginx refused its configuration, or does not listen.
    #[error("can't apply nginx's configuration: {0}")]
    Refused(String),
    /// A file can't be written.
    #[error("can't write {path}: {source}; check its directory's permissions and the free disk space")]
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
    address: SocketAddr,
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
            status = child.wait() => {
                let problem = format!("nginx exited ({status}); set RUST_LOG=debug to see its messages");
                return Err(NginxError::Refused(problem));
            }
            () = reachable => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {
                return Err(NginxError::Refused(format!("nginx did not listen on {address} within 10 s; set RUST_LOG=debug to see its messages")));
            }
        }
        Ok(Self { layout: layout.clone(), child, address })
    }

    /// Applies a new manifest's configuration, or renewed certificates. Open connections stay open. On an error nginx keeps the current
    /// configuration.
    pub async fn reload(&self, current: &Manifest, manifest: &Manifest) -> Result<(), NginxError> {
        // nginx's test does not notice an address in use, and a reload would then keep the old configuration without an error.
        let bound: Vec<SocketAddr> = addresses(current).collect();
        for address in addresses(manifest).filter(|address| !bound.contains(address)) {
            check_free(address)?;
        }
        install(&self.layout, manifest).await?;
        self.child.signal(rustix::process::Signal::HUP).map_err(NginxError::Missing)
    }

    /// Waits until nginx exits unexpectedly and its port is free again. Returns its exit status as text.
    pub async fn wait(&mut self) -> String {
        let status = self.child.wait().await;
        // Workers continue without their master and keep its ports open. On SIGQUIT they close those immediately, and exit when their
        // last WebSocket closes.
        self.child.signal_orphans(rustix::process::Signal::QUIT);
        let port_free = async {
            while check_free(self.address).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // If the port is still in use then, the next start reports that.
        let _ = tokio::time::timeout(Duration::from_secs(5), port_free).await;
        status
    }

    /// Stops nginx.
    pub async fn stop(self) {
        self.child.stop().await;
    }
}

/// The addresses that nginx listens on.
fn addresses(manifest: &Manifest) -> impl Iterator<Item = SocketAddr> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ports = manifest.workspaces.values().filter_map(|workspace| workspace.port).map(loopback);
    std::iter::once(manifest.front_door.listen).chain(ports)
}

fn check_free(address: SocketAddr) -> Result<(), NginxError> {
    let in_use = |error: io::Error| {
        NginxError::Refused(format!("can't listen on {address}: {error}; run \"ss -ltnp\" to see which program does"))
    };
    // With SO_REUSEADDR, like nginx, so that lingering connections of a server that has just exited don't matter.
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = socket(family, SocketType::STREAM, None).and_then(|socket| {
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, 1)
    });
    bound.map_err(|error| in_use(error.into()))
}

/// Writes the configuration to another file, lets nginx test it, and replaces the current one only if the test passes.
async fn install(layout: &Layout, manifest: &Manifest) -> Result<(), NginxError> {
    let directory = layout.nginx();
    let (next, current) = (directory.join("next.conf"), directory.join("nginx.conf"));
    let write = |path: &PathBuf, text: &str| {
        write_atomically(path, text.as_bytes(), 0o600)
            .map_err(|source| NginxError::Write { path: path.clone(), source })
    };
    let text = render(manifest, layout);
    write(&next, &text)?;
    let mut nginx = Command::new(find("nginx"));
    nginx.args(["-t", "-q", "-e", "stderr", "-p"]).arg(&directory).arg("-c").arg(&next);
    let tested = run_test(nginx).await?;
    if !tested.status.success() {
        let stderr = String::from_utf8_lossy(&tested.stderr);
        let line = stderr.lines().find(|line| line.contains("[emerg]")).unwrap_or(stderr.trim());
        return Err(NginxError::Refused(line.trim_start_matches("nginx: ").to_owned()));
    }
    write(&current, &text)
}

async fn run_test(nginx: Command) -> Result<Output, NginxError> {
    output_within(TEST_TIMEOUT, nginx).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => NginxError::Refused(format!(
            "{error}; run it to see what it waits for, and check that the certificate and its key are ordinary files"
        )),
        _ => NginxError::Missing(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_test_of_the_configuration_that_hangs_is_an_error() {
        let mut nginx = Command::new("sleep");
        nginx.arg("1000");
        let error = run_test(nginx).await.unwrap_err().to_string();
        let expected = "can't apply nginx's configuration: \"sleep 1000\" did not exit within 30 s; run it to see";
        assert!(error.starts_with(expected), "{error}");
    }
}
