//! The checks, one function each.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Finding;
use super::subids::{self, ENOUGH};
use crate::adapters::children::find;
use crate::adapters::podman::engine::version_number;
use crate::model::manifest::Manifest;
use crate::model::size::human_bytes;

/// The first Podman whose `keep-id` takes a uid and a gid.
const PODMAN: (u32, u32) = (4, 3);

/// Older ones leak the session to proxied ports.
const CODE_SERVER: [u32; 3] = [4, 124, 2];

/// A workspace image takes about 2 GB, and twice that for a moment.
const DISK: u64 = 5 << 30;

/// Everything about this machine and account.
pub(super) fn machine() -> Vec<Finding> {
    if rustix::process::geteuid().is_root() {
        // What root has says nothing about the account that will run workspaces.
        return vec![account()];
    }
    let info = podman_info();
    let version = info.as_ref().map_or("", |info| info["version"]["Version"].as_str().unwrap_or_default()).to_owned();
    let mut findings = vec![account(), runtime_directory(), podman(&info, &version)];
    findings.extend(["newuidmap", "newgidmap"].map(id_mapper));
    findings.extend(subids::FILES.map(|(what, path)| subordinate(what, path)));
    findings.extend([user_namespaces(), cgroups(), controllers(info.as_ref().ok())]);
    findings.extend([network(&version), storage(info.as_ref().ok()), disk(info.as_ref().ok())]);
    findings.extend([init(), nginx(), setpriv()]);
    findings
}

/// code-server's version in the images of a manifest that are here already.
pub(super) fn images(manifest: &Manifest) -> Vec<Finding> {
    let images: BTreeSet<&str> = manifest.workspaces.values().map(|workspace| workspace.image.as_str()).collect();
    images.into_iter().map(image).collect()
}

fn image(image: &str) -> Finding {
    const WHAT: &str = "image";
    let here = Command::new("podman").args(["image", "exists", image]).status().is_ok_and(|status| status.success());
    if !here {
        return Finding::good(WHAT, format!("{image} is not here yet; it is pulled at the first start"));
    }
    let arguments = ["run", "--rm", "--network=none", "--entrypoint=code-server", image, "--version"];
    let said = match output("podman", &arguments) {
        Ok(said) => said,
        Err(error) => {
            return Finding::broken(WHAT, format!("{image}: {error}"), "use an image with code-server on its PATH");
        }
    };
    // It may begin with words about a configuration file that it has just written.
    let (version, parts) = said.split_whitespace().find_map(version_in).unwrap_or_default();
    let found = format!("{image} has code-server {version}");
    if parts >= CODE_SERVER {
        Finding::good(WHAT, found)
    } else {
        let [major, minor, patch] = CODE_SERVER;
        Finding::broken(
            WHAT,
            found,
            format!("older ones than {major}.{minor}.{patch} leak the session to proxied ports; use a newer image"),
        )
    }
}

fn version_in(word: &str) -> Option<(&str, [u32; 3])> {
    let parts: Vec<u32> = word.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((word, parts.try_into().ok()?))
}

/// What a program printed, or why it could not be run, in a line.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    // A Podman that hangs must not hang the doctor.
    let done = Command::new("timeout")
        .args(["--kill-after=1", "20"])
        .arg(find(program))
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.code() {
        Some(0) => Ok(text(&done.stdout) + &text(&done.stderr)),
        Some(124 | 137) => Err(format!("{program} did not answer within 20 s")),
        Some(127) => Err(format!("{program} is not installed")),
        _ => Err(text(&done.stderr).lines().last().unwrap_or("it failed without a word").to_owned()),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    Some(find(program)).filter(|path| path.is_absolute())
}

fn podman_info() -> Result<Value, String> {
    let text = output("podman", &["info", "--format=json"])?;
    // Warnings on standard error follow the JSON.
    let json = serde_json::Deserializer::from_str(&text).into_iter().next();
    json.and_then(Result::ok).ok_or_else(|| "podman info was not understood".to_owned())
}

fn account() -> Finding {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Finding::broken(
            "account",
            "root",
            "run csm, and this check, as another account; \"make demo\" makes one",
        );
    }
    Finding::good("account", format!("{} (uid {})", subids::account_name(), uid.as_raw()))
}

fn runtime_directory() -> Finding {
    const WHAT: &str = "XDG_RUNTIME_DIR";
    let Some(path) = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        return Finding::broken(
            WHAT,
            "not set",
            "log in as this account (ssh, machinectl shell), or set it to a directory of mode 0700 on a tmpfs",
        );
    };
    let found = path.display().to_string();
    match fs::metadata(&path) {
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 => {
            Finding::broken(WHAT, found, "it must belong to this account alone: mode 0700")
        }
        Ok(_) => Finding::good(WHAT, found),
        Err(error) => Finding::broken(WHAT, format!("{found}: {error}"), "create it with mode 0700 on a tmpfs"),
    }
}

fn podman(info: &Result<Value, String>, version: &str) -> Finding {
    match info {
        Err(error) => Finding::broken(
            "podman",
            error.clone(),
            "apt-get install podman crun; then run \"podman info\" as this account",
        ),
        Ok(_) if version_number(version) < PODMAN => {
            Finding::broken("podman", version, format!("{}.{} or newer is needed", PODMAN.0, PODMAN.1))
        }
        Ok(_) => Finding::good("podman", version),
    }
}

fn id_mapper(program: &'static str) -> Finding {
    let Some(path) = in_path(program) else {
        return Finding::broken(
            program,
            "not installed",
            "apt-get install uidmap (NixOS: /run/wrappers/bin must be in PATH)",
        );
    };
    let setuid = fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0);
    let mut capability = [0; 64];
    let privileged = setuid || rustix::fs::getxattr(&path, "security.capability", &mut capability[..]).is_ok();
    let found = path.display().to_string();
    if privileged {
        Finding::good(program, found)
    } else {
        Finding::broken(
            program,
            format!("{found} is neither setuid nor has capabilities"),
            format!("reinstall uidmap, or chmod u+s {found}"),
        )
    }
}

fn subordinate(what: &'static str, path: &str) -> Finding {
    let own = subids::own(path);
    if let Some(why) = own.shared_why(path) {
        return Finding::broken(what, why, subids::APART);
    }
    if own.count < ENOUGH {
        let remedy = format!(
            "as root: usermod --add-{what}s {}-{} {} (a range that nobody has in {path})",
            100_000,
            100_000 + ENOUGH - 1,
            own.account
        );
        return Finding::broken(what, format!("{} ids for {}", own.count, own.account), remedy);
    }
    Finding::good(what, format!("{} ids", own.count))
}

fn user_namespaces() -> Finding {
    const WHAT: &str = "user namespaces";
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Finding::broken(
            WHAT,
            "user.max_user_namespaces is 0",
            "as root: sysctl user.max_user_namespaces=15000, and keep it in /etc/sysctl.d",
        );
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Finding::broken(
            WHAT,
            "kernel.unprivileged_userns_clone is 0",
            "as root: sysctl kernel.unprivileged_userns_clone=1",
        );
    }
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return Finding::good(WHAT, "restricted by AppArmor; Ubuntu's own podman has the profile that it needs");
    }
    Finding::good(WHAT, "allowed")
}

fn cgroups() -> Finding {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Finding::good("cgroups", "version 2");
    }
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1; \"make demo\" as root gets along with private mounts";
    Finding::broken("cgroups", "version 1, or hybrid: crun starts nothing there", remedy)
}

fn controllers(info: Option<&Value>) -> Finding {
    const WHAT: &str = "limits";
    let known: Vec<&str> = info
        .and_then(|info| info["host"]["cgroupControllers"].as_array())
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let missing: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(|name| !known.contains(name)).collect();
    if missing.is_empty() {
        return Finding::good(WHAT, "memory, CPU and tasks are enforced");
    }
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let held = held_by_version_1(&table);
    let remedy = if missing.iter().any(|name| held.contains(*name)) {
        "cgroups of version 1 hold them: boot with systemd.unified_cgroup_hierarchy=1"
    } else {
        "as root: loginctl enable-linger for this account, and Delegate=cpu memory pids in user@.service.d; then log in anew"
    };
    Finding::lacking(WHAT, format!("not enforced for want of the cgroup controllers: {}", missing.join(", ")), remedy)
}

/// The controllers with a hierarchy of version 1, which no cgroup of version 2 can have: of `/proc/cgroups`.
fn held_by_version_1(table: &str) -> BTreeSet<&str> {
    let rows = table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace());
    rows.filter_map(|mut fields| Some((fields.next()?, fields.next()?)))
        .filter(|row| row.1 != "0")
        .map(|row| row.0)
        .collect()
}

fn network(version: &str) -> Finding {
    const WHAT: &str = "network";
    if version_number(version) >= (5, 3) {
        return match in_path("pasta") {
            Some(path) => Finding::good(WHAT, path.display().to_string()),
            None => Finding::broken(WHAT, "pasta is not installed", "apt-get install passt"),
        };
    }
    if in_path("slirp4netns").is_none() {
        return Finding::broken(WHAT, "slirp4netns is not installed", "apt-get install slirp4netns");
    }
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::lacking(
            WHAT,
            "slirp4netns; hostServices needs pasta",
            "update to Podman 5.3 or newer if you want hostServices",
        ),
        Err(error) => Finding::broken(
            WHAT,
            format!("slirp4netns can't open /dev/net/tun: {error}"),
            "as root: modprobe tun, and chmod 0666 /dev/net/tun",
        ),
    }
}

fn storage(info: Option<&Value>) -> Finding {
    let driver = info.and_then(|info| info["store"]["graphDriverName"].as_str()).unwrap_or("unknown");
    if driver == "vfs" {
        let remedy =
            "write [storage] driver = \"overlay\" to ~/.config/containers/storage.conf, then podman system reset";
        return Finding::lacking("storage", "vfs: each container is a full copy of its image", remedy);
    }
    Finding::good("storage", driver)
}

fn disk(info: Option<&Value>) -> Finding {
    let root = info.and_then(|info| info["store"]["graphRoot"].as_str()).unwrap_or("/");
    let free = crate::adapters::disk::disk_free(Path::new(root)).unwrap_or(0);
    let found = format!("{} free below {root}", human_bytes(free));
    if free < DISK {
        return Finding::lacking("disk", found, format!("an image needs about {}; make room", human_bytes(DISK)));
    }
    Finding::good("disk", found)
}

fn init() -> Finding {
    let places = ["/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/libexec/catatonit/catatonit"];
    let there = places.iter().map(PathBuf::from).find(|path| path.exists()).or_else(|| in_path("catatonit"));
    match there {
        Some(path) => Finding::good("catatonit", path.display().to_string()),
        // NixOS' podman knows its own.
        None if Path::new("/nix/store").exists() => Finding::good("catatonit", "Podman's own"),
        None => {
            Finding::broken("catatonit", "not installed", "apt-get install catatonit; workspaces need an init process")
        }
    }
}

fn nginx() -> Finding {
    let said = match output("nginx", &["-V"]) {
        Ok(said) => said,
        Err(error) => return Finding::broken("nginx", error, "apt-get install nginx-light"),
    };
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("nginx/")).unwrap_or("unknown").to_owned();
    let missing: Vec<&str> = ["http_auth_request_module", "http_ssl_module", "http_v2_module"]
        .into_iter()
        .filter(|module| !said.contains(module))
        .collect();
    if missing.is_empty() {
        Finding::good("nginx", version)
    } else {
        Finding::broken(
            "nginx",
            format!("{version} without {}", missing.join(", ")),
            "install a build with them: Debian's nginx-light",
        )
    }
}

fn setpriv() -> Finding {
    match in_path("setpriv") {
        Some(path) => Finding::good("setpriv", path.display().to_string()),
        None => Finding::broken("setpriv", "not installed", "apt-get install util-linux"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_of_hybrid_machines_are_held_by_version_1() {
        let hybrid = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t18\t1\npids\t0\t1\t1\n";
        assert_eq!(held_by_version_1(hybrid), BTreeSet::from(["cpu", "memory"]));
        assert_eq!(held_by_version_1(""), BTreeSet::new());
    }
}
