//! The manifest: what is declared, complete with defaults and free of contradictions.

pub mod file;
pub mod read;
mod resolve;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::issue::Issue;
use super::label::{Label, WorkspaceId};
use super::name::Name;
use super::text::{AbsolutePath, Domain, SecretPath};
use super::workspace::Workspace;

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
    /// The users.
    pub owners: BTreeMap<Name, Owner>,
    /// Their workspaces.
    pub workspaces: BTreeMap<WorkspaceId, Workspace>,
}

/// How browsers reach this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontDoor {
    /// Where nginx listens.
    pub listen: SocketAddr,
    /// Certificate and key, or none for plain HTTP.
    pub tls: Option<(AbsolutePath, SecretPath)>,
}

/// A declared user.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// Their name.
    pub name: Name,
    /// The file with their password.
    pub password_file: SecretPath,
    /// Whether they see and manage all users' workspaces.
    pub admin: bool,
}

impl Manifest {
    /// Reads a manifest. Errors and warnings come all at once; with an error there is no manifest.
    pub fn parse(text: &str, machine: &Machine) -> (Option<Self>, Vec<Issue>) {
        let (file, mut issues) = read::read(text);
        let manifest = file.and_then(|file| resolve::resolve(file, machine, &mut issues));
        let manifest = manifest.filter(|_| !super::issue::refused(&issues));
        (manifest, issues)
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
