//! Which of csm's hosts a request is for. csm builds origins from the manifest and compares them; it never parses a label out of a `Host`
//! header.

use std::fmt;

use crate::model::label::{Label, WorkspaceId};
use crate::model::manifest::Manifest;

/// A host that csm serves. nginx passes its name with each request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Site {
    /// `<domain>`, the dashboard.
    Dashboard,
    /// `<label>.<domain>`, a workspace's editor or one of its ports.
    Workspace(Label),
    /// `localhost` at a workspace's `port`, for SSH tunnels.
    Loopback(WorkspaceId),
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dashboard => f.write_str("dashboard"),
            Self::Workspace(label) => write!(f, "label:{label}"),
            Self::Loopback(id) => write!(f, "port:{id}"),
        }
    }
}

impl std::str::FromStr for Site {
    type Err = ();

    /// Parses the name that nginx's server block sets.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None if text == "dashboard" => Ok(Self::Dashboard),
            Some(("label", label)) => label.parse().map(Self::Workspace).map_err(|_| ()),
            Some(("port", id)) => id.parse().map(Self::Loopback).map_err(|_| ()),
            _ => Err(()),
        }
    }
}

impl Site {
    /// The workspace that the site serves; `None` for the dashboard.
    pub fn workspace(&self) -> Option<&WorkspaceId> {
        match self {
            Self::Dashboard => None,
            Self::Workspace(label) => Some(&label.workspace),
            Self::Loopback(id) => Some(id),
        }
    }

    /// The site's origin, if the request's `Host` header is exactly this site's. nginx may have selected the server block by another
    /// name, which was in an absolute request target; for such requests this returns `None`.
    pub fn origin(&self, manifest: &Manifest, host: &str) -> Option<String> {
        let origin = match self {
            Self::Dashboard => manifest.dashboard_origin(),
            Self::Workspace(label) => manifest.origin(label),
            // The SSH tunnel can start at any port of the user's own computer.
            Self::Loopback(_) => {
                let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
                let port = port.parse::<u16>().ok().filter(|n| n.to_string() == port);
                let is_loopback = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
                return (is_loopback && port.is_some()).then(|| format!("http://{host}"));
            }
        };
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        (authority == Some(host)).then_some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Machine;

    fn manifest() -> Manifest {
        let text = r#"{"version":1,"domain":"code.localhost","image":"x","users":{"dan":{"passwordFile":"/p"}}}"#;
        Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.expect("valid")
    }

    #[test]
    fn only_the_exact_host_header_has_an_origin() {
        let site: Site = "label:dan".parse().expect("a site");
        let origin = |host: &str| site.origin(&manifest(), host);
        assert_eq!(origin("dan.code.localhost:7080").as_deref(), Some("http://dan.code.localhost:7080"));
        for host in [
            "",
            "dan.code.localhost",
            "dan.code.localhost:80",
            "dan.code.localhost.:7080",
            "DAN.code.localhost:7080",
            "alice.code.localhost:7080",
            "xdan.code.localhost:7080",
            "dan.code.localhost:7080.evil.example",
            "dan.code.localhost:07080",
            "code.localhost:7080",
            "3000--dan.code.localhost:7080",
            "evil@dan.code.localhost:7080",
        ] {
            assert_eq!(origin(host), None, "{host}");
        }
    }

    #[test]
    fn a_tunnels_origin_is_localhost_with_any_port() {
        let site: Site = "port:dan".parse().expect("a site");
        let origin = |host: &str| site.origin(&manifest(), host);
        assert_eq!(origin("localhost:9999").as_deref(), Some("http://localhost:9999"));
        assert_eq!(origin("127.0.0.1:8081").as_deref(), Some("http://127.0.0.1:8081"));
        for host in [
            "localhost.evil.example:8081",
            "evil.localhost:8081",
            "localhost:",
            "localhost:x",
            "localhost:+1",
            ":1",
            "10.0.0.1:8081",
        ] {
            assert_eq!(origin(host), None, "{host}");
        }
    }

    #[test]
    fn a_parsed_site_prints_its_input() {
        for text in ["dashboard", "label:dan", "label:3000--api--dan", "port:dan"] {
            assert_eq!(text.parse::<Site>().expect(text).to_string(), text);
        }
        for text in ["", "dan", "label:", "label:Dan", "dashboard:", "port:--"] {
            assert!(text.parse::<Site>().is_err(), "{text}");
        }
    }
}
