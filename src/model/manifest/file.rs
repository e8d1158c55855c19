//! The manifest's file format: JSON, version 1. The doc comments of these types are the text of `docs/manifest.md`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::name::Name;
use crate::model::secret_file::{self, SecretFileEntry};
use crate::model::size::{Bytes, Cpus};
use crate::model::span::{Delay, Span};
use crate::model::text::{AbsolutePath, Domain, EnvName, ExtensionId, HomePath, ImageRef, ProgramName, SecretPath};

/// Declares the domain, how browsers reach it, and the users, each of whom gets a workspace.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ManifestFile {
    /// The JSON Schema with which text editors validate the file. csm ignores this field.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The version of this file format: `1`.
    #[schemars(required, range(min = 1, max = 1))]
    pub version: Option<u64>,
    /// The dashboard's DNS name. Each workspace has a subdomain of it: `https://<owner>.<domain>`. Point the DNS records `<domain>` and
    /// `*.<domain>` at this host. Names under `localhost` need no DNS records.
    #[schemars(required, example = "code.example.org")]
    pub domain: Option<Domain>,
    /// The directory that contains `<owner>/home` and `<owner>/workspace`. Default: `/var/lib/vscode`.
    #[schemars(example = "/var/lib/vscode")]
    pub workspace_base: Option<AbsolutePath>,
    /// The image of all users who do not set their own. Any image with `code-server` and `sh` on its `PATH` works.
    #[schemars(example = "docker.io/codercom/code-server:latest")]
    pub image: Option<ImageRef>,
    /// How browsers reach the host; see below.
    #[serde(default)]
    pub front_door: FrontDoorFile,
    /// The events that csm records; see below.
    #[serde(default)]
    pub events: EventsFile,
    /// The users, by name; see below for their fields. A name has 1 to 20 lower-case letters, digits and single dashes, and starts
    /// with a letter. The names admin, csm, localhost, mail, main, root, wpad and www are reserved.
    #[schemars(required)]
    pub users: Option<BTreeMap<Name, UserFile>>,
}

/// How browsers reach the host. nginx uses TLS if `certificate` and `certificateKey` are set. Without them it uses plain HTTP on a
/// loopback address, for names under `localhost` or behind another proxy that terminates TLS on port 443.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FrontDoorFile {
    /// The address and port that nginx listens on. Default: `127.0.0.1:7080`.
    #[schemars(with = "Option<String>", example = "0.0.0.0:443")]
    pub listen: Option<Listen>,
    /// The certificate for `<domain>` and `*.<domain>` with its chain, in PEM format.
    #[schemars(example = "/var/lib/acme/code.example.org/fullchain.pem")]
    pub certificate: Option<AbsolutePath>,
    /// The certificate's private key, in PEM format.
    #[schemars(example = "/var/lib/acme/code.example.org/key.pem")]
    pub certificate_key: Option<SecretPath>,
}

/// The events that csm records: what happened to workspaces, sign-ins, and changes of the manifest. `docs/events.md` lists them.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EventsFile {
    /// How long events are kept. Of more than 1,000,000 events the oldest are deleted earlier. Default: `90d`.
    #[schemars(example = "90d")]
    pub keep: Option<Span>,
}

/// An IP address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Listen(pub std::net::SocketAddr);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(|_| {
            serde::de::Error::custom("not an address and a port; write it as \"127.0.0.1:7080\" or \"[::]:443\"")
        })
    }
}

/// A user and their workspace.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserFile {
    /// A file that contains the password, or its argon2 hash from `csm hash-password`; a content that begins with `$` must be such a hash.
    /// Make it readable only for the account that runs csm.
    #[schemars(required, example = "/run/secrets/code-server-dan")]
    pub password_file: Option<SecretPath>,
    /// Whether this user sees and manages all users' workspaces. Only its owner can open a workspace. Default: `false`.
    #[serde(default)]
    pub admin: bool,
    /// This user's image. Default: the top-level `image`.
    #[schemars(example = "docker.io/codercom/code-server:latest")]
    pub image: Option<ImageRef>,
    /// Whether the workspace starts when csm starts, without waiting for the owner's visit. Default: `false`.
    #[serde(default)]
    pub auto_start: bool,
    /// Hard memory limit; above it the kernel kills a process. Default: `3G`.
    #[schemars(example = "3G")]
    pub memory_limit: Option<Bytes>,
    /// Soft memory limit; above it the kernel slows the workspace down and reclaims its memory. Default: five sixths of `memoryLimit`,
    /// which is `2560M` for `3G`.
    #[schemars(example = "2560M")]
    pub memory_high: Option<Bytes>,
    /// How many CPUs the workspace can use. Default: `1.5`.
    #[schemars(example = "1.5")]
    pub cpu_limit: Option<Cpus>,
    /// How many processes and threads the workspace can have. Default: `4096`.
    #[schemars(range(min = 64, max = 4_194_304), example = 4096)]
    pub tasks_limit: Option<u32>,
    /// Environment variables of the workspace. Do not put secrets in them: anyone who can read the manifest can read them.
    #[schemars(example = serde_json::json!({ "EDITOR": "nano" }))]
    #[serde(default)]
    pub environment: BTreeMap<EnvName, String>,
    /// Environment variables whose values are read from files at each start: name → path. The values are never in the manifest, in
    /// command-line arguments or in `podman inspect`.
    #[schemars(example = serde_json::json!({ "ANTHROPIC_API_KEY": "/run/secrets/dan-anthropic" }))]
    #[serde(default)]
    pub secret_environment: BTreeMap<EnvName, SecretPath>,
    /// Secret files that are mounted read-only in the workspace's home: path relative to the home → source. csm copies them from their
    /// sources at each start.
    #[schemars(example = serde_json::json!({ ".netrc": { "source": "/run/secrets/dan-netrc", "mode": "0400" } }))]
    #[serde(default, deserialize_with = "secret_file::deserialize_all")]
    pub secret_files: BTreeMap<HomePath, SecretFileEntry>,
    /// TCP ports of the host's loopback that the workspace reaches on its own `localhost`. Needs Podman 5.3 or newer with pasta.
    #[schemars(example = serde_json::json!([5432]))]
    #[serde(default)]
    pub host_services: Vec<u16>,
    /// A port on 127.0.0.1 at which nginx also serves this workspace, with the same sign-in, for SSH tunnels. At least 1024.
    #[schemars(range(min = 1024), example = 8081)]
    pub port: Option<u16>,
    /// VS Code extensions to install if they are missing: `publisher.name`, or the path of a `.vsix` file in the image.
    #[schemars(example = serde_json::json!(["rust-lang.rust-analyzer"]))]
    #[serde(default)]
    pub extensions: Vec<ExtensionId>,
    /// Initial VS Code settings. csm adds each of them once to the user's own settings, and never overwrites a user's setting.
    #[schemars(example = serde_json::json!({ "editor.fontSize": 15 }))]
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// When the workspace is frozen and stopped while nobody uses it; see below.
    #[serde(default)]
    pub autostop: AutostopFile,
    /// When a changed configuration is applied; see below.
    #[serde(default)]
    pub update: UpdateFile,
    /// A directory in `/nix/store` whose `bin` comes first on the workspace's `PATH`. All of `/nix/store` is then mounted read-only in
    /// the workspace. The NixOS module's option `packages` creates this directory.
    #[schemars(example = "/nix/store/00000000000000000000000000000000-code-server-multi-packages")]
    pub packages: Option<AbsolutePath>,
}

/// When a changed configuration is applied to a workspace that runs. It shows "update pending", and applies the change at its next start: when
/// its owner or an admin restarts it, or when it is idle, because it is then stopped instead of frozen.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpdateFile {
    /// The time after the change at which the workspace is restarted even if it is used. It is announced like a stop. Default: `off`.
    #[schemars(example = "7d")]
    pub deadline: Option<Delay>,
}

/// When a workspace that nobody uses is frozen and stopped. A frozen workspace uses no CPU, and continues within a moment when its owner opens
/// it. While anything works in a workspace, or its owner uses it, neither happens; `csm status` and the dashboard show what keeps it. Each span is
/// written as `30m`, `8h` or `1h 30m`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AutostopFile {
    /// The time without activity after which the workspace is frozen; `off` to never freeze it. Default: `30m`.
    #[schemars(example = "30m")]
    pub freeze_after: Option<Delay>,
    /// The time without activity after which the workspace is stopped; the time that it has been frozen counts too. `off` to never stop
    /// it. Default: `8h`.
    #[schemars(example = "8h")]
    pub stop_after: Option<Delay>,
    /// How long an open browser tab counts as activity after its owner last typed in a terminal or opened the workspace; `off` for no
    /// limit. Default: `4h`.
    #[schemars(example = "4h")]
    pub open_tab: Option<Delay>,
    /// How long agents, programs and leases can keep the workspace after its owner last used it. Default: `24h`.
    #[schemars(example = "24h")]
    pub max_lease: Option<Span>,
    /// The time after which the workspace is stopped even if it is used, counted from its start. Default: `off`.
    #[schemars(example = "12h")]
    pub max_runtime: Option<Delay>,
    /// How long before it is frozen or stopped this is announced. Default: `["10m", "2m"]`.
    #[schemars(example = serde_json::json!(["10m", "2m"]))]
    pub warnings: Option<Vec<Span>>,
    /// Names of more programs that count as activity while they use CPU, in addition to compilers and build tools.
    #[schemars(example = serde_json::json!(["blender"]))]
    #[serde(default)]
    pub programs: Vec<ProgramName>,
}
