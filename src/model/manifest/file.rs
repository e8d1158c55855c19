//! The manifest as it is written: JSON, version 1. Its doc comments are the text of `docs/manifest.md`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::name::Name;
use crate::model::secret_file::SecretFileEntry;
use crate::model::size::{Bytes, Cpus};
use crate::model::text::{AbsolutePath, Domain, EnvName, ExtensionId, HomePath, ImageRef, SecretPath};

/// What is declared: the domain, how people reach it, and who has a workspace.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ManifestFile {
    /// A JSON Schema for editors to check against. Ignored.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The version of this format: `1`.
    #[schemars(required, range(min = 1, max = 1))]
    pub version: Option<u64>,
    /// The DNS name that the dashboard has, and below which each workspace has its own: `https://<owner>.<domain>`. A
    /// wildcard DNS record `*.<domain>` points to this machine. Names below `localhost` need none.
    #[schemars(required, example = "code.example.org")]
    pub domain: Option<Domain>,
    /// The directory that holds `<owner>/home` and `<owner>/workspace`. Default: `/var/lib/vscode`.
    #[schemars(example = "/var/lib/vscode")]
    pub workspace_base: Option<AbsolutePath>,
    /// The image for everyone who has none of their own. Any image with `code-server` and `sh` on its `PATH` works.
    #[schemars(example = "docker.io/codercom/code-server:latest")]
    pub image: Option<ImageRef>,
    /// How browsers reach this machine; see below.
    #[serde(default)]
    pub front_door: FrontDoorFile,
    /// The people, by name, each a user as below. A name is 1 to 20 lower-case letters, digits and single dashes, a letter first;
    /// admin, csm, localhost, mail, main, root, wpad and www are reserved.
    #[schemars(required)]
    pub users: Option<BTreeMap<Name, UserFile>>,
}

/// How browsers reach this machine: over TLS when both files are given. Plain HTTP serves names below `localhost`, or another
/// proxy in front that ends TLS on port 443.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FrontDoorFile {
    /// The address and port that nginx listens on. Default: `127.0.0.1:7080`.
    #[schemars(with = "Option<String>", example = "0.0.0.0:443")]
    pub listen: Option<Listen>,
    /// The certificate for `<domain>` and `*.<domain>`, with its chain, in PEM.
    #[schemars(example = "/var/lib/acme/code.example.org/fullchain.pem")]
    pub certificate: Option<AbsolutePath>,
    /// The certificate's private key in PEM.
    #[schemars(example = "/var/lib/acme/code.example.org/key.pem")]
    pub certificate_key: Option<SecretPath>,
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

/// A person and their workspace.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserFile {
    /// A file with the password, or its argon2 hash as `csm hash-password` prints it. Only its owner should be able to read it.
    #[schemars(required, example = "/run/secrets/code-server-dan")]
    pub password_file: Option<SecretPath>,
    /// Whether this person sees and manages everyone's workspace. Nobody but its owner ever gets into a workspace. Default: `false`.
    #[serde(default)]
    pub admin: bool,
    /// This person's image. Default: the `image` for all.
    #[schemars(example = "docker.io/codercom/code-server:latest")]
    pub image: Option<ImageRef>,
    /// Whether the workspace starts with the daemon, before anybody visits. Default: `false`.
    #[serde(default)]
    pub auto_start: bool,
    /// The most memory that the workspace can have; beyond it the kernel ends a process. Default: `3G`.
    #[schemars(example = "3G")]
    pub memory_limit: Option<Bytes>,
    /// Beyond this much memory the workspace is slowed down and must give some back. Default: five sixths of `memoryLimit`, `2560M` for `3G`.
    #[schemars(example = "2560M")]
    pub memory_high: Option<Bytes>,
    /// How many CPUs' worth of time the workspace can use. Default: `1.5`.
    #[schemars(example = "1.5")]
    pub cpu_limit: Option<Cpus>,
    /// How many processes and threads the workspace can have. Default: `4096`.
    #[schemars(range(min = 64, max = 4_194_304), example = 4096)]
    pub tasks_limit: Option<u32>,
    /// Environment variables of the workspace. Not for secrets: everyone who reads the manifest sees them.
    #[schemars(example = serde_json::json!({ "EDITOR": "nano" }))]
    #[serde(default)]
    pub environment: BTreeMap<EnvName, String>,
    /// Environment variables whose values are in files: name → path. Read at each start; never in the manifest, in arguments or in
    /// `podman inspect`.
    #[schemars(example = serde_json::json!({ "ANTHROPIC_API_KEY": "/run/secrets/dan-anthropic" }))]
    #[serde(default)]
    pub secret_environment: BTreeMap<EnvName, SecretPath>,
    /// Secret files that appear in the home: path below the home → where it comes from. Read at each start.
    #[schemars(example = serde_json::json!({ ".netrc": { "source": "/run/secrets/dan-netrc", "mode": "0400" } }))]
    #[serde(default)]
    pub secret_files: BTreeMap<HomePath, SecretFileEntry>,
    /// TCP ports of the host's loopback that the workspace reaches as its own `localhost`. Needs Podman 5.3 or newer with pasta.
    #[schemars(example = serde_json::json!([5432]))]
    #[serde(default)]
    pub host_services: Vec<u16>,
    /// A port on 127.0.0.1 that shows this workspace too, with the same sign-in: for SSH tunnels. From 1024.
    #[schemars(range(min = 1024), example = 8081)]
    pub port: Option<u16>,
    /// VS Code extensions that are installed when missing: `publisher.name`, or the path of a `.vsix` in the image.
    #[schemars(example = serde_json::json!(["rust-lang.rust-analyzer"]))]
    #[serde(default)]
    pub extensions: Vec<ExtensionId>,
    /// VS Code settings to begin with. Each is written once into the person's own settings, and never over what they chose.
    #[schemars(example = serde_json::json!({ "editor.fontSize": 15 }))]
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// A directory in `/nix/store` whose `bin` comes first on the workspace's `PATH`. The workspace then gets all of `/nix/store`,
    /// read-only. The NixOS module's `packages` makes one.
    #[schemars(example = "/nix/store/00000000000000000000000000000000-code-server-multi-packages")]
    pub packages: Option<AbsolutePath>,
}
