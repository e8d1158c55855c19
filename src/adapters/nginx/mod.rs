//! nginx, with a configuration of our own, as this account: for machines where nobody else runs it.

mod config;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::children::Tied;
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
    child: Tied,
}

impl Nginx {
    /// Tests the configuration, starts nginx and waits until it listens.
    pub async fn start(layout: &Layout, manifest: &Manifest) -> Result<Self, NginxError> {
        let directory = layout.nginx();
        make_directory(&directory, 0o700).map_err(|source| NginxError::Write { path: directory.clone(), source })?;
        install(layout, manifest).await?;
        let configuration = directory.join("nginx.conf").display().to_string();
        let prefix = directory.display().to_string();
        let arguments = ["-p", &prefix, "-e", "stderr", "-c", &configuration, "-g", "daemon off;"];
        let mut child = Tied::spawn("nginx", "QUIT", "nginx", &arguments).map_err(NginxError::Missing)?;
        let address = manifest.front_door.listen;
        let reachable = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ended = child.wait() => {
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                let why = format!("it ended ({how}); is {address} taken? \"ss -ltnp\" tells by whom");
                return Err(NginxError::Refused(why));
            }
            () = reachable => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {
                return Err(NginxError::Refused(format!("nothing listens on {address} after 10 s")));
            }
        }
        Ok(Self { layout: layout.clone(), child })
    }

    /// Puts a new manifest's configuration into force. Open connections stay. On an error the old one does.
    pub async fn reload(&self, manifest: &Manifest) -> Result<(), NginxError> {
        install(&self.layout, manifest).await?;
        self.child.signal(rustix::process::Signal::HUP).map_err(NginxError::Missing)
    }

    /// Waits until it ends by itself, which it should not.
    pub async fn wait(&mut self) -> String {
        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Ends it.
    pub async fn stop(self) {
        self.child.stop().await;
    }
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
    let tested = Command::new("nginx")
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
