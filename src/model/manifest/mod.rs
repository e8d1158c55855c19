//! The manifest: what is declared, complete with defaults and free of contradictions.

pub mod file;
pub mod read;
mod resolve;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use super::issue::Issue;
use super::label::{Label, WorkspaceId};
use super::name::Name;
use super::size::{Bytes, Cpus};
use super::text::{AbsolutePath, Domain, EnvName, ExtensionId, HomePath, ImageRef, SecretPath};
use file::SecretFileEntry;

/// What the machine has, for limits to be compared with.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Memory in bytes.
    pub memory: u64,
    /// The number of CPUs.
    pub cpus: u32,
}

/// A valid manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The dashboard's host name.
    pub domain: Domain,
    /// Holds `<owner>/home` and `<owner>/workspace`.
    pub workspace_base: AbsolutePath,
    /// How browsers reach this machine.
    pub front_door: FrontDoor,
    /// The owners.
    pub owners: BTreeMap<Name, Owner>,
}

/// How browsers reach this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontDoor {
    /// Where nginx listens.
    pub listen: SocketAddr,
    /// Certificate and key, or none for plain HTTP.
    pub tls: Option<(AbsolutePath, SecretPath)>,
}

/// A person, and what their `main` is made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Their name.
    pub name: Name,
    /// The file with their password.
    pub password_file: SecretPath,
    /// Whether they see and manage everyone's workspace.
    pub admin: bool,
    /// The image.
    pub image: ImageRef,
    /// Whether the workspace starts with the daemon.
    pub auto_start: bool,
    /// What the workspace can use at most.
    pub limits: Limits,
    /// Plain environment variables.
    pub environment: BTreeMap<EnvName, String>,
    /// Environment variables whose values are in files.
    pub secret_environment: BTreeMap<EnvName, SecretPath>,
    /// Secret files in the home.
    pub secret_files: BTreeMap<HomePath, SecretFileEntry>,
    /// Host ports reachable as localhost inside.
    pub host_services: Vec<u16>,
    /// A loopback port for SSH tunnels.
    pub port: Option<u16>,
    /// Extensions to install when missing.
    pub extensions: Vec<ExtensionId>,
    /// VS Code settings to begin with.
    pub settings: Map<String, Value>,
    /// A directory of Nix' store with programs.
    pub packages: Option<AbsolutePath>,
}

/// What a workspace can use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Beyond it the kernel ends a process.
    pub memory: Bytes,
    /// Beyond it the workspace is slowed down.
    pub memory_high: Bytes,
    /// CPU time.
    pub cpu: Cpus,
    /// Processes and threads.
    pub tasks: u32,
}

impl Manifest {
    /// Reads a manifest. Errors and warnings come all at once; with an error there is no manifest.
    pub fn parse(text: &str, machine: &Machine) -> (Option<Self>, Vec<Issue>) {
        let (file, mut issues) = read::read(text);
        let manifest = file.and_then(|file| resolve::resolve(file, machine, &mut issues));
        let manifest = manifest.filter(|_| !super::issue::refused(&issues));
        (manifest, issues)
    }

    /// The workspaces that are declared, each with its owner.
    pub fn workspaces(&self) -> impl Iterator<Item = (WorkspaceId, &Owner)> {
        self.owners.values().map(|owner| (WorkspaceId::main(owner.name.clone()), owner))
    }

    /// The owner of a declared workspace.
    pub fn owner_of(&self, id: &WorkspaceId) -> Option<&Owner> {
        self.owners.get(&id.owner).filter(|_| id.project.is_none())
    }

    /// `https`, or `http` where names below `localhost` are served plainly.
    pub fn scheme(&self) -> &'static str {
        if self.front_door.tls.is_none() && self.domain.is_localhost() { "http" } else { "https" }
    }

    /// What follows the host name in a browser's address: empty, or `:` and the port.
    pub fn port_suffix(&self) -> String {
        let port = self.front_door.listen.port();
        let usual = match self.scheme() {
            "http" => port == 80,
            // Without a certificate here, another proxy ends TLS, on the usual port.
            _ => port == 443 || self.front_door.tls.is_none(),
        };
        if usual { String::new() } else { format!(":{port}") }
    }

    /// The dashboard's origin: `https://code.example.org`.
    pub fn dashboard_origin(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.domain, self.port_suffix())
    }

    /// A label's origin: `https://dan.code.example.org`.
    pub fn origin(&self, label: &Label) -> String {
        format!("{}://{label}.{}{}", self.scheme(), self.domain, self.port_suffix())
    }
}

#[cfg(test)]
mod tests;
