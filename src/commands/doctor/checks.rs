//! The checks of `csm doctor`, one function for each.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Check;
use super::subids::{self, ENOUGH};
use crate::adapters::children::find;
use crate::adapters::podman::engine::version_number;
use crate::model::manifest::Manifest;
use crate::model::size::human_bytes;

/// The first version of Podman whose `keep-id` accepts a uid and a gid.
const MIN_PODMAN: (u32, u32) = (4, 3);

/// Older versions of code-server leak the session to proxied ports.
const MIN_CODE_SERVER: [u32; 3] = [4, 124, 2];

/// A workspace image takes about 2 GB, and twice that while it is unpacked.
const MIN_DISK: u64 = 5 << 30;

/// Checks this host and account.
pub(super) fn host() -> Vec<Check> {
    if rustix::process::geteuid().is_root() {
        // What root can do says nothing about the account that will run workspaces.
        return vec![account()];
    }
    let info = podman_info();
    let version = info.as_ref().map_or("", |info| info["version"]["Version"].as_str().unwrap_or_default()).to_owned();
    let mut checks = vec![account(), runtime_directory(), podman(&info, &version)];
    checks.extend(["newuidmap", "newgidmap"].map(id_mapper));
    checks.extend(subids::FILES.map(|(what, path)| subordinate(what, path)));
    checks.extend([user_namespaces(), cgroups(), controllers(info.as_ref().ok())]);
    checks.extend([network(&version), storage(info.as_ref().ok()), disk(info.as_ref().ok())]);
    checks.extend([init(), nginx(), setpriv()]);
    checks
}

/// Checks the version of code-server in a manifest's images, if they have been pulled.
pub(super) fn images(manifest: &Manifest) -> Vec<Check> {
    let images: BTreeSet<&str> = manifest.workspaces.values().map(|workspace| workspace.image.as_str()).collect();
    images.into_iter().map(image).collect()
}

fn image(image: &str) -> Check {
    const WHAT: &str = "image";
    if output("podman", &["image", "exists", image]).is_err() {
        return Check::ok(WHAT, format!("{image} is not pulled yet; the first start pulls it"));
    }
    let arguments = ["run", "--rm", "--network=none", "--entrypoint=code-server", image, "--version"];
    let printed = match output("podman", &arguments) {
        Ok(printed) => printed,
        Err(error) => {
            return Check::error(WHAT, format!("{image}: {error}"), "use an image with code-server on its PATH");
        }
    };
    // code-server may first report that it wrote a configuration file.
    let (version, parts) = printed.split_whitespace().find_map(parse_version).unwrap_or_default();
    let found = format!("{image} has code-server {version}");
    if parts >= MIN_CODE_SERVER {
        Check::ok(WHAT, found)
    } else {
        let [major, minor, patch] = MIN_CODE_SERVER;
        Check::error(
            WHAT,
            found,
            format!(
                "use an image with {major}.{minor}.{patch} or newer; older versions leak the session to proxied ports"
            ),
        )
    }
}

fn parse_version(word: &str) -> Option<(&str, [u32; 3])> {
    let parts: Vec<u32> = word.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((word, parts.try_into().ok()?))
}

/// Runs a program and returns what it printed, or an error of one line.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    // With a timeout, because Podman may hang.
    let done = Command::new("timeout")
        .args(["--kill-after=1", "20"])
        .arg(find(program))
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.code() {
        Some(0) => Ok(text(&done.stdout) + &text(&done.stderr)),
        Some(124 | 137) => Err(format!("{program} did not finish within 20 s")),
        Some(127) => Err(format!("{program} is not installed")),
        _ => Err(text(&done.stderr).lines().last().unwrap_or("it failed without a message").to_owned()),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    Some(find(program)).filter(|path| path.is_absolute())
}

fn podman_info() -> Result<Value, String> {
    let text = output("podman", &["info", "--format=json"])?;
    // Warnings on standard error follow the JSON.
    let json = serde_json::Deserializer::from_str(&text).into_iter().next();
    json.and_then(Result::ok).ok_or_else(|| "can't parse the JSON of \"podman info\"".to_owned())
}

fn account() -> Check {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Check::error(
            "account",
            "root",
            "run csm, and this check, as another account; \"make demo\" creates one",
        );
    }
    Check::ok("account", format!("{} (uid {})", subids::account_name(), uid.as_raw()))
}

fn runtime_directory() -> Check {
    const WHAT: &str = "XDG_RUNTIME_DIR";
    let Some(path) = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        return Check::error(
            WHAT,
            "not set",
            "log in as this account (ssh, machinectl shell), or set it to a directory of mode 0700 on a tmpfs",
        );
    };
    let found = path.display().to_string();
    match fs::metadata(&path) {
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 => {
            Check::error(WHAT, found, "as root: chown it to this account, and chmod 0700")
        }
        Ok(_) => Check::ok(WHAT, found),
        Err(error) => Check::error(WHAT, format!("{found}: {error}"), "create it with mode 0700 on a tmpfs"),
    }
}

fn podman(info: &Result<Value, String>, version: &str) -> Check {
    match info {
        Err(error) => Check::error(
            "podman",
            error.clone(),
            "apt-get install podman crun; then run \"podman info\" as this account",
        ),
        Ok(_) if version_number(version) < MIN_PODMAN => {
            Check::error("podman", version, format!("install Podman {}.{} or newer", MIN_PODMAN.0, MIN_PODMAN.1))
        }
        Ok(_) => Check::ok("podman", version),
    }
}

fn id_mapper(program: &'static str) -> Check {
    let Some(path) = in_path(program) else {
        return Check::error(
            program,
            "not installed",
            "apt-get install uidmap (NixOS: put /run/wrappers/bin into PATH)",
        );
    };
    let setuid = fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0);
    let mut capability = [0; 64];
    let privileged = setuid || rustix::fs::getxattr(&path, "security.capability", &mut capability[..]).is_ok();
    let found = path.display().to_string();
    if privileged {
        Check::ok(program, found)
    } else {
        Check::error(
            program,
            format!("{found} is neither setuid nor has capabilities"),
            format!("reinstall uidmap, or chmod u+s {found}"),
        )
    }
}

fn subordinate(what: &'static str, path: &str) -> Check {
    let own = subids::own(path);
    if let Some(why) = own.shared_why(path) {
        return Check::error(what, why, subids::APART);
    }
    if own.count < ENOUGH {
        let fix = format!(
            "as root: usermod --add-{what}s {}-{} {} (or another range that no account has in {path})",
            100_000,
            100_000 + ENOUGH - 1,
            own.account
        );
        return Check::error(what, format!("{} ids for {}", own.count, own.account), fix);
    }
    Check::ok(what, format!("{} ids", own.count))
}

fn user_namespaces() -> Check {
    const WHAT: &str = "user namespaces";
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Check::error(
            WHAT,
            "user.max_user_namespaces is 0",
            "as root: sysctl user.max_user_namespaces=15000, and write it to a file in /etc/sysctl.d",
        );
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Check::error(
            WHAT,
            "kernel.unprivileged_userns_clone is 0",
            "as root: sysctl kernel.unprivileged_userns_clone=1",
        );
    }
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return Check::ok(WHAT, "restricted by AppArmor; Ubuntu's podman package has the profile that allows them");
    }
    Check::ok(WHAT, "allowed")
}

fn cgroups() -> Check {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Check::ok("cgroups", "version 2");
    }
    let fix = "boot with systemd.unified_cgroup_hierarchy=1, or run \"make demo\" as root, which uses private mounts";
    Check::error("cgroups", "version 1, or hybrid: crun can't start containers", fix)
}

fn controllers(info: Option<&Value>) -> Check {
    const WHAT: &str = "limits";
    let known: Vec<&str> = info
        .and_then(|info| info["host"]["cgroupControllers"].as_array())
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let missing: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(|name| !known.contains(name)).collect();
    if missing.is_empty() {
        return Check::ok(WHAT, "memory, CPU and tasks are enforced");
    }
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let in_version_1 = version_1_controllers(&table);
    let fix = if missing.iter().any(|name| in_version_1.contains(*name)) {
        "boot with systemd.unified_cgroup_hierarchy=1; version 1 cgroups use these controllers"
    } else {
        "as root: loginctl enable-linger for this account, and Delegate=cpu memory pids in user@.service.d; then log in again"
    };
    Check::warning(WHAT, format!("not enforced; missing cgroup controllers: {}", missing.join(", ")), fix)
}

/// The controllers that `/proc/cgroups` lists in a version 1 hierarchy. Version 2 cgroups can't use them.
fn version_1_controllers(table: &str) -> BTreeSet<&str> {
    let rows = table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace());
    rows.filter_map(|mut fields| Some((fields.next()?, fields.next()?)))
        .filter(|row| row.1 != "0")
        .map(|row| row.0)
        .collect()
}

fn network(version: &str) -> Check {
    const WHAT: &str = "network";
    if version_number(version) >= (5, 3) {
        return match in_path("pasta") {
            Some(path) => Check::ok(WHAT, path.display().to_string()),
            None => Check::error(WHAT, "pasta is not installed", "apt-get install passt"),
        };
    }
    if in_path("slirp4netns").is_none() {
        return Check::error(WHAT, "slirp4netns is not installed", "apt-get install slirp4netns");
    }
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::warning(
            WHAT,
            "slirp4netns; hostServices needs pasta",
            "install Podman 5.3 or newer to use hostServices",
        ),
        Err(error) => Check::error(
            WHAT,
            format!("slirp4netns can't open /dev/net/tun: {error}"),
            "as root: modprobe tun, and chmod 0666 /dev/net/tun",
        ),
    }
}

fn storage(info: Option<&Value>) -> Check {
    let driver = info.and_then(|info| info["store"]["graphDriverName"].as_str()).unwrap_or("unknown");
    if driver == "vfs" {
        let fix = "write [storage] driver = \"overlay\" to ~/.config/containers/storage.conf, then podman system reset";
        return Check::warning("storage", "vfs: each container is a full copy of its image", fix);
    }
    Check::ok("storage", driver)
}

fn disk(info: Option<&Value>) -> Check {
    let root = info.and_then(|info| info["store"]["graphRoot"].as_str()).unwrap_or("/");
    let free = crate::adapters::disk::disk_free(Path::new(root)).unwrap_or(0);
    let found = format!("{} free in {root}", human_bytes(free));
    if free < MIN_DISK {
        return Check::warning(
            "disk",
            found,
            format!("free some disk space: an image needs about {}", human_bytes(MIN_DISK)),
        );
    }
    Check::ok("disk", found)
}

fn init() -> Check {
    let places = ["/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/libexec/catatonit/catatonit"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists()).or_else(|| in_path("catatonit"));
    match found {
        Some(path) => Check::ok("catatonit", path.display().to_string()),
        // On NixOS, Podman is built with its own path to catatonit.
        None if Path::new("/nix/store").exists() => Check::ok("catatonit", "included in NixOS's Podman"),
        None => Check::error(
            "catatonit",
            "not installed",
            "apt-get install catatonit; it is the init process of workspaces",
        ),
    }
}

fn nginx() -> Check {
    let printed = match output("nginx", &["-V"]) {
        Ok(printed) => printed,
        Err(error) => return Check::error("nginx", error, "apt-get install nginx-light"),
    };
    let version =
        printed.split_whitespace().find_map(|word| word.strip_prefix("nginx/")).unwrap_or("unknown").to_owned();
    let missing: Vec<&str> = ["http_auth_request_module", "http_ssl_module", "http_v2_module"]
        .into_iter()
        .filter(|module| !printed.contains(module))
        .collect();
    if missing.is_empty() {
        Check::ok("nginx", version)
    } else {
        Check::error(
            "nginx",
            format!("{version}, without {}", missing.join(", ")),
            "install a build that has them, such as Debian's nginx-light",
        )
    }
}

fn setpriv() -> Check {
    match in_path("setpriv") {
        Some(path) => Check::ok("setpriv", path.display().to_string()),
        None => Check::error("setpriv", "not installed", "apt-get install util-linux"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_hosts_controllers_are_in_version_1() {
        let hybrid = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t18\t1\npids\t0\t1\t1\n";
        assert_eq!(version_1_controllers(hybrid), BTreeSet::from(["cpu", "memory"]));
        assert_eq!(version_1_controllers(""), BTreeSet::new());
    }
}
