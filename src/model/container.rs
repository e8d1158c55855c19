//! Specifies a workspace's container in one pure function, for all runtimes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::digest::sha256_hex;
use super::label::{Label, WorkspaceId};
use super::layout::Layout;
use super::manifest::Manifest;
use super::workspace::{Limits, Workspace};

/// The home directory in the container. It belongs to the image's user `coder`, with uid and gid 1000.
pub const HOME: &str = "/home/coder";

/// The uid and gid in the container. On the host they are mapped to the owner's account.
pub const USER: u32 = 1000;

/// The container's path of the workspace's socket directory.
const RUN: &str = "/run/csm";

/// The name of code-server's socket in that directory.
pub const SOCKET: &str = "http.sock";

/// The path of code-server's socket, as the workspace's processes see it.
pub const INSIDE_SOCKET: &str = "/run/csm/http.sock";

/// The container's path of `share/workspace`.
const SHARE: &str = "/opt/code-server-multi";

/// Agents' hooks: files in `share/workspace/agents`, and where the agents look for an administrator's. Each is a file that adds to the
/// image's and the user's own configuration.
const AGENTS: &[(&str, &str)] = &[
    ("claude-code.json", "/etc/claude-code/managed-settings.d/50-code-server-multi.json"),
    ("codex.json", "/etc/codex/hooks.json"),
    ("opencode.json", "/etc/opencode/opencode.json"),
];

/// The container's path of the secret variables: a directory with a file for each variable.
const SECRETS: &str = "/run/secrets/csm";

/// The Nix store, which contains `packages` and the images that Nix builds.
const STORE: &str = "/nix/store";

/// The prefix of an image that is a file. If the file is in the Nix store, the image's programs are in the store too.
const ARCHIVE: &str = "docker-archive:";

/// Whether an image is a file, which Podman reads at every start, instead of the name of an image in Podman's storage.
pub fn is_archive(image: &str) -> bool {
    image.starts_with(ARCHIVE)
}

/// The label with the workspace's id.
pub const LABEL_WORKSPACE: &str = "io.code-server-multi.workspace";

/// The label with the base directory of the csm that a container belongs to.
pub const LABEL_BASE: &str = "io.code-server-multi.base";

/// The label with the digest of the specification that the container was created from.
pub const LABEL_DIGEST: &str = "io.code-server-multi.digest";

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The path on the host.
    pub source: PathBuf,
    /// The path in the container.
    pub target: String,
    /// Whether the workspace can only read it.
    pub read_only: bool,
}

/// A secret to copy to where the workspace reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretCopy {
    /// The file that the manifest names.
    pub source: PathBuf,
    /// The copy's path in [`Layout::secrets`].
    pub name: PathBuf,
    /// The copy's permissions.
    pub mode: u32,
}

impl SecretCopy {
    /// The name of the systemd credential that contains this secret: `environment.NAME`, `files.0`.
    pub fn credential(&self) -> String {
        self.name.to_string_lossy().replace('/', ".")
    }
}

/// The specification of a workspace's container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerSpec {
    /// The workspace that runs in it.
    pub workspace: WorkspaceId,
    /// The container's name.
    pub name: String,
    /// The hostname in the container.
    pub hostname: String,
    /// The image.
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Plain environment variables.
    pub environment: BTreeMap<String, String>,
    /// The labels that identify csm's containers.
    pub labels: BTreeMap<String, String>,
    /// The mounts, in the order in which they must be made.
    pub mounts: Vec<Mount>,
    /// The limits of memory, CPU time and processes.
    pub limits: Limits,
    /// The host's ports that the container reaches at `localhost`.
    pub host_services: Vec<u16>,
    /// Seconds between SIGTERM and SIGKILL. code-server exits within 5.
    pub stop_seconds: u32,
}

impl ContainerSpec {
    /// The digest, which shows whether a running container still matches the manifest. It does not include itself.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        sha256_hex(&json)
    }
}

/// Specifies a workspace's container. The domain comes from the manifest.
pub fn container_spec(manifest: &Manifest, workspace: &Workspace, layout: &Layout) -> ContainerSpec {
    let id = &workspace.id;
    let base = &manifest.workspace_base;
    let port_host = format!("{{{{port}}}}--{id}.{}{}", manifest.domain, manifest.port_suffix());
    let mut environment: BTreeMap<String, String> =
        workspace.environment.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    environment.extend([
        ("CSM_LABEL".to_owned(), id.to_string()),
        ("HOME".to_owned(), HOME.to_owned()),
        ("USER".to_owned(), "coder".to_owned()),
        ("VSCODE_PROXY_URI".to_owned(), format!("{}://{port_host}/", manifest.scheme())),
    ]);
    let archive = workspace.image.as_str().strip_prefix(ARCHIVE).filter(|path| Path::new(path).starts_with(STORE));
    if let Some(archive) = archive {
        // Nix's garbage collector reads the environments of processes, and keeps the store paths in them. So the programs of an
        // outdated image remain as long as a workspace uses it.
        environment.insert("CSM_IMAGE".to_owned(), archive.to_owned());
    }
    if let Some(packages) = &workspace.packages {
        environment.insert("CSM_PACKAGES".to_owned(), packages.to_string());
    }
    let mount = |source: PathBuf, target: String, read_only| Mount { source, target, read_only };
    let mut mounts = vec![
        mount(workspace.home.clone(), HOME.to_owned(), false),
        mount(workspace.project.clone(), format!("{HOME}/project"), false),
        mount(layout.inside(id), RUN.to_owned(), false),
        mount(layout.share.join("workspace"), SHARE.to_owned(), true),
    ];
    for (source, target) in AGENTS {
        mounts.push(mount(layout.share.join("workspace/agents").join(source), (*target).to_owned(), true));
    }
    if workspace.packages.is_some() || archive.is_some() {
        mounts.push(mount(STORE.into(), STORE.to_owned(), true));
    }
    if !workspace.secret_environment.is_empty() {
        mounts.push(mount(layout.secrets(id).join("environment"), SECRETS.to_owned(), true));
    }
    for (at, path) in workspace.secret_files.keys().enumerate() {
        let source = layout.secrets(id).join("files").join(at.to_string());
        mounts.push(mount(source, format!("{HOME}/{path}"), true));
    }
    ContainerSpec {
        name: container_name(id),
        hostname: id.to_string(),
        image: workspace.image.to_string(),
        command: command(manifest, workspace),
        environment,
        labels: BTreeMap::from([
            (LABEL_BASE.to_owned(), base.to_string()),
            (LABEL_WORKSPACE.to_owned(), id.to_string()),
        ]),
        mounts,
        limits: workspace.limits,
        host_services: workspace.host_services.clone(),
        stop_seconds: 10,
        workspace: id.clone(),
    }
}

/// The name of a workspace's container.
pub fn container_name(id: &WorkspaceId) -> String {
    format!("csm-{id}")
}

/// The secrets to copy before the workspace starts.
pub fn secret_copies(workspace: &Workspace) -> Vec<SecretCopy> {
    let variables = workspace.secret_environment.iter().map(|(name, source)| SecretCopy {
        source: source.path().to_owned(),
        name: PathBuf::from("environment").join(name.as_str()),
        mode: 0o400,
    });
    let files = workspace.secret_files.values().enumerate().map(|(at, entry)| SecretCopy {
        source: entry.source.path().to_owned(),
        name: PathBuf::from("files").join(at.to_string()),
        mode: entry.mode.bits(),
    });
    variables.chain(files).collect()
}

/// The container's command: `share/workspace/start` installs extensions, exports the secrets and then executes code-server.
fn command(manifest: &Manifest, workspace: &Workspace) -> Vec<String> {
    let id = &workspace.id;
    let mut command = vec![format!("{SHARE}/start")];
    command.extend(workspace.extensions.iter().map(ToString::to_string));
    command.push("--".to_owned());
    let flags = [
        "--auth=none",
        "--disable-telemetry",
        "--disable-update-check",
        "--disable-getting-started-override",
        "--disable-workspace-trust",
    ];
    command.extend(flags.map(str::to_owned));
    command.push(format!("--socket={RUN}/{SOCKET}"));
    // Any page can link to a folder: without this flag, the editor's own address would open that folder from then on.
    command.push("--ignore-last-opened".to_owned());
    // nginx has another account; of other accounts, only nginx's can enter the socket's directory.
    command.push("--socket-mode=666".to_owned());
    command.push(format!("--app-name={id} · {}", manifest.domain));
    // This matches any domain and port after the label, because nginx and the daemon have checked them. A fixed domain would be outdated
    // when the front door's address changes while the workspace runs: code-server would then serve the editor, instead of the port, on a
    // port's hostname.
    command.push(format!("--proxy-domain={{{{port}}}}--{id}.{{{{host}}}}"));
    command.push(format!("{HOME}/project"));
    command
}

/// The address of a workspace's editor.
pub fn editor_url(manifest: &Manifest, id: &WorkspaceId) -> String {
    format!("{}/", manifest.origin(&Label::editor(id.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Machine;

    fn layout() -> Layout {
        Layout { run: "/run/csm".into(), state: "/var/lib/csm".into(), share: "/usr/share/csm".into() }
    }

    fn specs() -> Vec<ContainerSpec> {
        let text = include_str!("../../tests/manifests/full.json");
        let machine = Machine { memory: 8 << 30, cpus: 4 };
        let manifest = Manifest::parse(text, &machine).0.expect("valid");
        manifest.workspaces.values().map(|workspace| container_spec(&manifest, workspace, &layout())).collect()
    }

    #[test]
    fn what_a_workspace_looks_like() {
        insta::assert_json_snapshot!(specs());
    }

    #[test]
    fn an_image_of_the_store_comes_with_the_store_and_is_named_for_garbage_collection() {
        let spec = |image: &str| {
            let text = format!(
                r#"{{"version": 1, "domain": "code.localhost", "image": "{image}", "users": {{"dan": {{"passwordFile": "/x"}}}}}}"#
            );
            let machine = Machine { memory: 8 << 30, cpus: 4 };
            let manifest = Manifest::parse(&text, &machine).0.expect("valid");
            let (_, workspace) = manifest.workspaces.first_key_value().expect("one");
            container_spec(&manifest, workspace, &layout())
        };
        let has_store = |spec: &ContainerSpec| spec.mounts.iter().any(|mount| mount.target == STORE && mount.read_only);
        let stored = spec("docker-archive:/nix/store/abc-image.tar");
        assert!(has_store(&stored));
        assert_eq!(stored.environment["CSM_IMAGE"], "/nix/store/abc-image.tar");
        let other = spec("docker-archive:/srv/image.tar");
        assert!(!has_store(&other));
        assert!(!other.environment.contains_key("CSM_IMAGE"));
    }

    #[test]
    fn the_digest_changes_with_what_runs_and_with_nothing_else() {
        let [alice, dan] = &specs()[..] else { panic!("two owners") };
        assert_eq!(alice.digest(), alice.clone().digest());
        assert_ne!(alice.digest(), dan.digest());
    }

    #[test]
    fn a_spec_contains_no_path_of_a_secrets_source() {
        let json = serde_json::to_string(&specs()).expect("serializes");
        assert!(!json.contains("/run/secrets/dan"), "{json}");
    }
}
