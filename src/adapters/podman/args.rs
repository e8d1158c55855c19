//! A container's specification as the arguments of `podman run`, for launchers that keep it in the foreground.

use super::engine::{Engine, Network};
use crate::model::container::{ContainerSpec, HOME, LABEL_DIGEST, USER};

/// The size of `/dev/shm`: browsers that run tests need more than the default of 64 MB.
pub(super) const SHM_BYTES: i64 = 256 << 20;

/// Options of pasta that close the host's loopback and its own addresses to the container.
pub(super) const PASTA: [&str; 4] = ["--map-guest-addr", "none", "--map-host-loopback", "none"];

/// The owner's account outside is the user `coder` inside.
pub(super) fn user_namespace() -> String {
    format!("uid={USER},gid={USER}")
}

pub(super) fn host_services_need_pasta(version: &str) -> String {
    format!(
        "hostServices needs Podman 5.3 or newer with pasta; this is Podman {version}: update it, or remove hostServices"
    )
}

/// The first arguments of every Podman call in a workspace's systemd unit. The account has no user manager, which Podman's systemd
/// cgroup manager would need. The container's output goes to the journal, where Podman's own events would be mixed with it.
pub const IN_UNIT: [&str; 3] = ["--cgroup-manager=cgroupfs", "--log-level=error", "--events-backend=none"];

/// The environment variable of these calls. It keeps Podman from asking logind for a session, which the account does not have: when
/// logind has lost the bus, each call would wait 25 s for a reply.
pub const NO_BUS: (&str, &str) = ("DBUS_SYSTEM_BUS_ADDRESS", "disabled:");

/// The arguments of `podman run`. With `split`, the payload goes into the unit's own cgroup, which carries the limits.
pub fn run(spec: &ContainerSpec, engine: &Engine, split: bool) -> Result<Vec<String>, String> {
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: &dyn std::fmt::Display| args.push(format!("--{name}={value}"));
    flag("name", &spec.name);
    flag("hostname", &spec.hostname);
    flag("userns", &format_args!("keep-id:{}", user_namespace()));
    flag("user", &format_args!("{USER}:{USER}"));
    flag("workdir", &HOME);
    flag("stop-timeout", &spec.stop_seconds);
    flag("shm-size", &format_args!("{SHM_BYTES}b"));
    flag("image-volume", &"ignore");
    flag("log-driver", &"passthrough");
    flag("sdnotify", &"ignore");
    flag("security-opt", &"no-new-privileges");
    match engine.network() {
        Network::Slirp4netns if spec.host_services.is_empty() => flag("network", &"slirp4netns"),
        Network::Slirp4netns => return Err(host_services_need_pasta(&engine.version)),
        Network::Pasta => {
            let services = spec.host_services.iter().fold(String::new(), |all, port| format!("{all},-T,{port}"));
            flag("network", &format_args!("pasta:{}{services}", PASTA.join(",")));
        }
    }
    if split {
        flag("cgroups", &"split");
    } else {
        for (controller, name, value) in [
            ("memory", "memory", spec.limits.memory.to_string().to_lowercase()),
            ("memory", "cgroup-conf", format!("memory.high={}", spec.limits.memory_high.get())),
            ("cpu", "cpus", spec.limits.cpu.to_string()),
            ("pids", "pids-limit", spec.limits.tasks.to_string()),
        ] {
            if engine.controls(controller) {
                flag(name, &value);
            }
        }
    }
    for (name, value) in &spec.environment {
        flag("env", &format_args!("{name}={value}"));
    }
    for (name, value) in &spec.labels {
        flag("label", &format_args!("{name}={value}"));
    }
    flag("label", &format_args!("{LABEL_DIGEST}={}", spec.digest()));
    for mount in &spec.mounts {
        let access = if mount.read_only { ",ro=true" } else { "" };
        flag("mount", &format_args!("type=bind,src={},dst={}{access}", mount.source.display(), mount.target));
    }
    let (entrypoint, command) = spec.command.split_at(1);
    flag("entrypoint", &format_args!("[\"{}\"]", entrypoint.join("")));
    let mut whole = ["run", "--rm", "--replace", "--init"].map(str::to_owned).to_vec();
    whole.append(&mut args);
    whole.push(spec.image.clone());
    whole.extend_from_slice(command);
    Ok(whole)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::container::container_spec;
    use crate::model::layout::Layout;
    use crate::model::manifest::{Machine, Manifest};

    pub(in super::super) fn engine(version: &str, controllers: &[&str]) -> Engine {
        Engine {
            version: version.to_owned(),
            controllers: controllers.iter().map(ToString::to_string).collect(),
            unified: true,
        }
    }

    pub(in super::super) fn spec() -> ContainerSpec {
        let text = include_str!("../../../tests/manifests/full.json");
        let manifest = Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.expect("valid");
        let layout = Layout { run: "/run/csm".into(), state: "/var/lib/csm".into(), share: "/usr/share/csm".into() };
        container_spec(&manifest, &manifest.workspaces[&"dan".parse().expect("an id")], &layout)
    }

    #[test]
    fn in_a_units_own_cgroup() {
        insta::assert_snapshot!(run(&spec(), &engine("5.4.2", &[]), true).expect("fits").join("\n"));
    }

    #[test]
    fn outside_a_unit_the_container_has_its_own_limits() {
        let args = run(&spec(), &engine("5.4.2", &["cpu", "memory", "pids"]), false).expect("fits");
        for expected in ["--memory=2g", "--cgroup-conf=memory.high=1610612736", "--cpus=1.5", "--pids-limit=2048"] {
            assert!(args.iter().any(|arg| arg == expected), "{expected} in {args:?}");
        }
    }

    #[test]
    fn host_services_without_pasta_are_refused() {
        assert!(run(&spec(), &engine("4.3.1", &[]), true).expect_err("refused").contains("Podman 5.3"));
    }
}
