//! What this host's Podman can do.

use podman_api::Podman;

/// How containers reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// pasta, with the host's loopback closed. Needs Podman 5.3, the first that can close every way to it.
    Pasta,
    /// slirp4netns, which closes the host's loopback by default.
    Slirp4netns,
}

/// A Podman installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Its version: `4.3.1`.
    pub version: String,
    /// The cgroup controllers that it may use for this account.
    pub controllers: Vec<String>,
    /// Whether the host has cgroups version 2.
    pub unified: bool,
}

impl Engine {
    /// Asks the service.
    pub async fn ask(podman: &Podman) -> podman_api::Result<Self> {
        let info = podman.info().await?;
        let host = info.host.as_ref();
        Ok(Self {
            version: info.version.and_then(|version| version.version).unwrap_or_default(),
            controllers: host.and_then(|host| host.cgroup_controllers.clone()).unwrap_or_default(),
            unified: host.and_then(|host| host.cgroup_version.as_deref()) == Some("v2"),
        })
    }

    /// The network that its version supports.
    pub fn network(&self) -> Network {
        if version_number(&self.version) >= (5, 3) { Network::Pasta } else { Network::Slirp4netns }
    }

    /// Whether a cgroup controller can be used.
    pub fn controls(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// A notice that names the limits which can't be enforced, because their cgroup controllers are missing.
pub fn unenforced(controls: impl Fn(&str) -> bool) -> Vec<String> {
    let missing: Vec<&str> = [("memory", "memory"), ("cpu", "CPU"), ("pids", "tasks")]
        .into_iter()
        .filter(|(controller, _)| !controls(controller))
        .map(|(_, limit)| limit)
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "limits not enforced: {}: the cgroup controllers are missing; run \"csm doctor\" to see the fix",
        missing.join(", ")
    )]
}

/// Major and minor.
pub fn version_number(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_choose_the_network() {
        for (version, network) in [
            ("4.3.1", Network::Slirp4netns),
            ("5.2.5", Network::Slirp4netns),
            ("5.3.0", Network::Pasta),
            ("5.4.2", Network::Pasta),
            ("6.0.0-rc1", Network::Pasta),
            ("", Network::Slirp4netns),
        ] {
            let engine = Engine { version: version.into(), controllers: vec![], unified: true };
            assert_eq!(engine.network(), network, "{version}");
        }
    }
}
