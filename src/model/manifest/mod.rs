//! The manifest: the declared configuration, validated and with defaults applied.

pub mod file;
pub mod read;
mod resolve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::issue::Issue;
use super::label::{Label, WorkspaceId};
use super::name::Name;
use super::span::Span;
use super::text::{AbsolutePath, Domain, SecretPath};
use super::workspace::Workspace;

/// The host's resources, with which declared limits are compared.
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
    /// The dashboard's hostname.
    pub domain: Domain,
    /// The directory that contains `<owner>/home` and `<owner>/workspace`.
    pub workspace_base: AbsolutePath,
    /// How browsers reach the host.
    pub front_door: FrontDoor,
    /// The events that are recorded.
    pub events: Events,
    /// The users.
    pub owners: BTreeMap<Name, Owner>,
    /// The users' workspaces.
    pub workspaces: BTreeMap<WorkspaceId, Arc<Workspace>>,
}

/// How browsers reach the host.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontDoor {
    /// The address and port that nginx listens on.
    pub listen: SocketAddr,
    /// The paths of certificate and key; `None` for plain HTTP.
    pub tls: Option<(AbsolutePath, SecretPath)>,
}

/// The events that csm records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// How long they are kept.
    pub keep: Span,
}

/// A declared user.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// The user's name.
    pub name: Name,
    /// The file that contains the user's password or its hash.
    pub password_file: SecretPath,
    /// Whether the user sees and manages all users' workspaces.
    pub admin: bool,
}

impl Manifest {
    /// Parses and validates a manifest. Returns all errors and warnings together, and no manifest if any of them is an error.
    pub fn parse(text: &str, machine: &Machine) -> (Option<Self>, Vec<Issue>) {
        let (file, mut issues) = read::read(text);
        let manifest = file.and_then(|file| resolve::resolve(file, machine, &mut issues));
        let manifest = manifest.filter(|_| !super::issue::has_errors(&issues));
        (manifest, issues)
    }

    /// The scheme in browsers' addresses: `http` if a domain under `localhost` has no certificate, otherwise `https`.
    pub fn scheme(&self) -> &'static str {
        if self.front_door.tls.is_none() && self.domain.is_localhost() { "http" } else { "https" }
    }

    /// The text after the hostname in a browser's address: empty for the scheme's default port, otherwise `:` and the port.
    pub fn port_suffix(&self) -> String {
        let port = self.front_door.listen.port();
        let is_default = match self.scheme() {
            "http" => port == 80,
            // Without a certificate, another proxy terminates TLS on port 443.
            _ => port == 443 || self.front_door.tls.is_none(),
        };
        if is_default { String::new() } else { format!(":{port}") }
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
