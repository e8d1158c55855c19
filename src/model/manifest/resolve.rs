//! Turns a [`ManifestFile`] into a [`Manifest`]: applies defaults, and checks fields against each other and the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::file::{AutostopFile, FrontDoorFile, ManifestFile, UpdateFile, UserFile};
use super::{Events, FrontDoor, Machine, Manifest, Owner};
use crate::model::autostop::Autostop;
use crate::model::issue::Issue;
use crate::model::label::WorkspaceId;
use crate::model::layout;
use crate::model::name::Name;
use crate::model::size::{Bytes, Cpus, human_bytes};
use crate::model::span::Span;
use crate::model::text::{AbsolutePath, Domain, ImageRef, SecretPath};
use crate::model::workspace::{Limits, Workspace};

const DEFAULT_MEMORY: Bytes = Bytes::mib(3072);
const DEFAULT_CPU: Cpus = Cpus::milli(1500);
const DEFAULT_TASKS: u32 = 4096;
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7080);
const DEFAULT_EVENTS_KEEP: Span = Span::minutes(90 * 24 * 60);
const DEFAULT_WORKSPACE_BASE: &str = "/var/lib/vscode";

/// code-server's documented minimum; below it the editor does not start.
const MIN_MEMORY: Bytes = Bytes::mib(512);

/// Environment variables that csm or code-server sets, or that would enable code-server's own password.
const RESERVED_VARIABLES: [&str; 8] =
    ["HASHED_PASSWORD", "HOME", "PASSWORD", "USER", "VSCODE_PROXY_URI", "CSM_IMAGE", "CSM_LABEL", "CSM_PACKAGES"];

/// Directories of the system, whose subdirectories can hold users' homes.
const SYSTEM_DIRECTORIES: [&str; 15] = [
    "/",
    "/home",
    "/mnt",
    "/opt",
    "/persist",
    "/srv",
    "/tmp",
    "/var",
    "/var/cache",
    "/var/empty",
    "/var/lib",
    "/var/lib/private",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// Directories of the system that can't hold users' homes at any depth: the system needs them unchanged, or empties them at boot.
const SYSTEM_TREES: [&str; 15] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/nix",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/nixos",
    "/var/run",
];

/// Applies defaults and checks the manifest. Returns `None` only if there is no usable `domain` or `workspaceBase`; the issues then
/// include the error.
pub(super) fn resolve(file: ManifestFile, machine: &Machine, issues: &mut Vec<Issue>) -> Option<Manifest> {
    let is_reported = |issues: &[Issue], path: &str| issues.iter().any(|issue| issue.path == path);
    let domain = file.domain.or_else(|| {
        if !is_reported(issues, "domain") {
            issues.push(Issue::error("domain", "", "missing", "write for example \"domain\": \"code.example.org\""));
        }
        None
    });
    let users = file.users.unwrap_or_else(|| {
        if !is_reported(issues, "users") {
            issues.push(Issue::error("users", "", "missing", "write \"users\": {} if there are no users yet"));
        }
        BTreeMap::new()
    });
    let base = workspace_base(file.workspace_base, issues)?;
    let front_door = front_door(&file.front_door, domain.as_ref(), issues);
    if file.image.is_none() && !is_reported(issues, "image") {
        check_images(&users, issues);
    }
    let (mut owners, mut workspaces) = (BTreeMap::new(), BTreeMap::new());
    let mut ports: BTreeMap<u16, String> = BTreeMap::from([(front_door.listen.port(), "frontDoor.listen".to_owned())]);
    for (name, user) in users {
        let path = format!("users.{name}");
        if name.is_reserved() {
            issues.push(Issue::error(&path, "", "the name is reserved", "give this user another name"));
        }
        check_port(&path, user.port, &mut ports, issues);
        if let Some(owner) = owner(&path, &name, &user, issues) {
            owners.insert(name.clone(), owner);
        }
        if let Some(workspace) = workspace(&path, name, user, file.image.as_ref(), &base, machine, issues) {
            workspaces.insert(workspace.id.clone(), Arc::new(workspace));
        }
    }
    let events = Events { keep: file.events.keep.unwrap_or(DEFAULT_EVENTS_KEEP) };
    Some(Manifest { domain: domain?, workspace_base: base, front_door, events, owners, workspaces })
}

fn workspace_base(given: Option<AbsolutePath>, issues: &mut Vec<Issue>) -> Option<AbsolutePath> {
    let base = match given {
        Some(base) => base,
        None => DEFAULT_WORKSPACE_BASE.parse().ok()?,
    };
    // `isOfTheSystem` in nixos-modules/lib.nix refuses the same paths. It also refuses those under /tmp and /var/tmp, where "csm up" can be
    // tried out.
    let is_system = SYSTEM_DIRECTORIES.contains(&base.as_str())
        || SYSTEM_TREES.iter().any(|directory| base.path().starts_with(directory));
    if is_system {
        issues.push(Issue::error(
            "workspaceBase",
            &base,
            "belongs to the system, and can't hold users' homes",
            format!("use a separate directory, for example \"{DEFAULT_WORKSPACE_BASE}\""),
        ));
    }
    Some(base)
}

fn front_door(file: &FrontDoorFile, domain: Option<&Domain>, issues: &mut Vec<Issue>) -> FrontDoor {
    let listen = file.listen.map_or(DEFAULT_LISTEN, |listen| listen.0);
    if listen.port() == 0 {
        issues.push(Issue::error(
            "frontDoor.listen",
            listen,
            "port 0 is not a port",
            "write for example \"127.0.0.1:7080\"",
        ));
    }
    let tls = match (&file.certificate, &file.certificate_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (given, _) => {
            let (set, missing) =
                if given.is_some() { ("certificate", "certificateKey") } else { ("certificateKey", "certificate") };
            issues.push(Issue::error(
                format!("frontDoor.{missing}"),
                "",
                format!("missing, but {set} is set"),
                "set both, or remove both to use plain HTTP",
            ));
            None
        }
    };
    if let (Some(domain), None) = (domain, &tls) {
        issues.extend(check_plain_http(listen, domain));
    }
    FrontDoor { listen, tls }
}

/// Without a certificate, only this host may reach nginx: a browser on it, or a proxy that terminates TLS.
fn check_plain_http(listen: SocketAddr, domain: &Domain) -> Option<Issue> {
    let fix = "set frontDoor.certificate and certificateKey, or use a proxy that terminates TLS on port 443";
    match (domain.is_localhost(), listen.ip().is_loopback()) {
        (true, true) => None,
        (true, false) => Some(Issue::error(
            "frontDoor.listen",
            listen,
            "names under localhost are reached only on the host itself",
            format!("write \"127.0.0.1:{}\", or set domain to a DNS name", listen.port()),
        )),
        (false, true) => Some(Issue::warning(
            "frontDoor",
            "",
            format!("browsers can sign in at https://{domain} only over TLS, but no certificate is set"),
            fix,
        )),
        (false, false) => Some(Issue::error(
            "frontDoor.listen",
            listen,
            "passwords would be sent over the network in plain text",
            fix,
        )),
    }
}

/// Without a top-level image, each user needs their own. One issue covers all users, because setting the top-level image fixes them all.
fn check_images(users: &BTreeMap<Name, UserFile>, issues: &mut Vec<Issue>) {
    // `read` has already reported and removed an invalid image.
    let reported = |name: &Name| issues.iter().any(|issue| issue.path == format!("users.{name}.image"));
    let without: Vec<&Name> =
        users.iter().filter(|(name, user)| user.image.is_none() && !reported(name)).map(|(name, _)| name).collect();
    let Some(first) = without.first() else { return };
    let who = match without.len() {
        1 => format!("users.{first} does not set one"),
        count => format!("{count} users, such as {first}, do not set one"),
    };
    issues.push(Issue::error(
        "image",
        "",
        format!("missing, and {who}"),
        "write for example \"image\": \"docker.io/codercom/code-server:latest\"",
    ));
}

fn check_port(path: &str, port: Option<u16>, ports: &mut BTreeMap<u16, String>, issues: &mut Vec<Issue>) {
    let Some(port) = port else { return };
    let path = format!("{path}.port");
    if port < 1024 {
        issues.push(Issue::error(&path, port, "ports below 1024 need root", "choose a port from 1024"));
    }
    if let Some(other) = ports.get(&port) {
        issues.push(Issue::error(&path, port, format!("{other} already uses this port"), "choose another port"));
    } else {
        ports.insert(port, path);
    }
}

fn owner(path: &str, name: &Name, user: &UserFile, issues: &mut Vec<Issue>) -> Option<Owner> {
    let field = format!("{path}.passwordFile");
    // `read` has already reported and removed an invalid field, under the same path.
    if user.password_file.is_none() && !issues.iter().any(|issue| issue.path == field) {
        issues.push(Issue::error(
            field,
            "",
            "missing",
            "write the path of a file that contains the password or its hash from \"csm hash-password\"",
        ));
    }
    Some(Owner { name: name.clone(), password_file: user.password_file.clone()?, admin: user.admin })
}

/// Builds a user's workspace `main`.
fn workspace(
    path: &str,
    owner: Name,
    user: UserFile,
    image_for_all: Option<&ImageRef>,
    base: &AbsolutePath,
    machine: &Machine,
    issues: &mut Vec<Issue>,
) -> Option<Workspace> {
    let image = user.image.clone().or_else(|| image_for_all.cloned());
    let limits = limits(path, &user, machine, issues);
    let autostop = autostop(path, &user.autostop, &user.update, issues);
    check_environment(path, &user, issues);
    check_secret_files(path, &user, issues);
    for port in &user.host_services {
        if *port == 0 {
            issues.push(Issue::error(
                format!("{path}.hostServices"),
                port,
                "port 0 is not a port",
                "write the service's port",
            ));
        }
    }
    if let Some(packages) = user.packages.as_ref().filter(|path| !path.as_str().starts_with("/nix/store/")) {
        issues.push(Issue::error(
            format!("{path}.packages"),
            packages,
            "not in /nix/store, the only directory that is mounted for packages",
            "remove the field, or use an environment that Nix built",
        ));
    }
    Some(Workspace {
        image: image?,
        limits,
        home: layout::home(base, &owner),
        project: layout::project(base, &owner),
        id: WorkspaceId::main(owner),
        auto_start: user.auto_start,
        autostop,
        environment: user.environment,
        secret_environment: user.secret_environment,
        secret_files: user.secret_files,
        host_services: user.host_services,
        port: user.port,
        extensions: user.extensions,
        settings: user.settings,
        packages: user.packages,
    })
}

fn limits(path: &str, user: &UserFile, machine: &Machine, issues: &mut Vec<Issue>) -> Limits {
    let memory = user.memory_limit.unwrap_or(DEFAULT_MEMORY);
    let tasks = user.tasks_limit.unwrap_or(DEFAULT_TASKS);
    let cpu = user.cpu_limit.unwrap_or(DEFAULT_CPU);
    let memory_path = format!("{path}.memoryLimit");
    if memory < MIN_MEMORY {
        issues.push(Issue::error(
            &memory_path,
            memory,
            "too little memory for code-server to start",
            "write at least \"1G\"",
        ));
    } else if user.memory_limit.is_some() && memory.get() > machine.memory {
        issues.push(Issue::warning(
            &memory_path,
            memory,
            format!("the host has only {}", human_bytes(machine.memory)),
            "lower the limit so that it has an effect",
        ));
    }
    if let Some(high) = user.memory_high.filter(|high| *high > memory) {
        issues.push(Issue::error(
            format!("{path}.memoryHigh"),
            high,
            format!("the soft limit is above the hard limit, {memory}"),
            format!("write at most \"{memory}\", or raise memoryLimit"),
        ));
    }
    if user.cpu_limit.is_some() && cpu.millis() > machine.cpus.saturating_mul(1000) {
        issues.push(Issue::warning(
            format!("{path}.cpuLimit"),
            cpu,
            format!("the host has only {} CPUs", machine.cpus),
            "lower the limit so that it has an effect",
        ));
    }
    if !(64..=4_194_304).contains(&tasks) {
        issues.push(Issue::error(
            format!("{path}.tasksLimit"),
            tasks,
            "not between 64 and 4194304",
            "write a number in that range; code-server alone needs about 60, the default is 4096",
        ));
    }
    let memory_high = user.memory_high.unwrap_or(Bytes::mib((memory.get() >> 20) * 5 / 6));
    Limits { memory, memory_high, cpu, tasks }
}

fn autostop(path: &str, file: &AutostopFile, update: &UpdateFile, issues: &mut Vec<Issue>) -> Autostop {
    let path = format!("{path}.autostop");
    let default = Autostop::default();
    let autostop = Autostop {
        freeze_after: file.freeze_after.unwrap_or(default.freeze_after),
        stop_after: file.stop_after.unwrap_or(default.stop_after),
        open_tab: file.open_tab.unwrap_or(default.open_tab),
        max_lease: file.max_lease.unwrap_or(default.max_lease),
        max_runtime: file.max_runtime.unwrap_or(default.max_runtime),
        update_deadline: update.deadline.unwrap_or(default.update_deadline),
        warnings: file.warnings.as_ref().map_or(default.warnings, |given| {
            let mut spans = given.clone();
            spans.sort_unstable_by(|a, b| b.cmp(a));
            spans.dedup();
            spans
        }),
        programs: file.programs.clone(),
    };
    let (freeze, stop) = (autostop.freeze_after, autostop.stop_after);
    if let (Some(freeze_after), Some(stop_after)) = (freeze.get(), stop.get())
        && stop_after <= freeze_after
    {
        let (field, found) = if file.stop_after.is_some() { ("stopAfter", stop) } else { ("freezeAfter", freeze) };
        issues.push(Issue::error(
            format!("{path}.{field}"),
            found,
            format!("the workspace would be stopped after {stop}, before it is frozen after {freeze}"),
            "make stopAfter longer than freezeAfter, or set one of them to \"off\"",
        ));
    }
    let unused =
        file.warnings.iter().flatten().find(|span| {
            autostop.first_delay().or(autostop.max_runtime.get()).is_some_and(|delay| span.get() >= delay)
        });
    if let Some(span) = unused {
        issues.push(Issue::warning(
            format!("{path}.warnings"),
            span,
            "it is not shorter than the time without activity, so it is never announced",
            "write a shorter span, such as \"10m\"",
        ));
    }
    autostop
}

/// A secret file can't also be the directory of another one.
fn check_secret_files(path: &str, user: &UserFile, issues: &mut Vec<Issue>) {
    for file in user.secret_files.keys() {
        let directories = file.as_str().match_indices('/').map(|(end, _)| &file.as_str()[..end]);
        let is_file = |directory: &&str| directory.parse().is_ok_and(|path| user.secret_files.contains_key(&path));
        for directory in directories.filter(is_file) {
            issues.push(Issue::error(
                format!("{path}.secretFiles.{file}"),
                "",
                format!("secretFiles.{directory} is a file"),
                "give one of the two another path",
            ));
        }
    }
}

fn check_environment(path: &str, user: &UserFile, issues: &mut Vec<Issue>) {
    for (name, value) in &user.environment {
        let path = format!("{path}.environment.{name}");
        if user.secret_environment.contains_key(name) {
            issues.push(Issue::error(
                &path,
                "",
                "secretEnvironment sets the same variable",
                "keep only one of the two",
            ));
        }
        if value.contains('\0') {
            issues.push(Issue::error(&path, "", "a value can't contain a null byte", "remove the null byte"));
        }
        if value.starts_with("/run/") && value.parse::<SecretPath>().is_ok() {
            issues.push(Issue::warning(
                &path,
                value,
                "the variable is set to this path, not to the file's content",
                format!("to pass the file's content, move the path to secretEnvironment.{name}"),
            ));
        }
    }
    for (field, names) in [
        ("environment", user.environment.keys().collect::<Vec<_>>()),
        ("secretEnvironment", user.secret_environment.keys().collect()),
    ] {
        for name in names.into_iter().filter(|name| RESERVED_VARIABLES.contains(&name.as_str())) {
            issues.push(Issue::error(
                format!("{path}.{field}.{name}"),
                "",
                "csm sets this variable itself",
                "remove the variable; to set a password, use passwordFile",
            ));
        }
    }
}
