//! What must lie on the disk before a workspace starts.
//!
//! The owner writes in their home while this runs, so everything below it goes through a handle that no symbolic link leads out
//! of (cap-std: `openat2` with `RESOLVE_BENEATH`).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptionsExt as _};
use serde_json::{Map, Value};

use super::files::{make_directory, missing_is_fine, nonblocking, read_secret, read_small};
use crate::model::container::{HOME, SecretCopy};
use crate::model::settings;
use crate::ports::StartRequest;

const SETTINGS: &str = ".local/share/code-server/User";
const GIVEN: &str = ".local/share/code-server/csm-settings.json";

/// Makes directories, copies secrets, merges settings. The error names what could not be done. With `credentials`, systemd has read
/// the secrets and put them there.
pub fn prepare(request: &StartRequest, secrets: &Path, credentials: Option<&Path>) -> Result<(), String> {
    let context = |what: &str, path: &Path| {
        let text = format!("can't {what} {}", path.display());
        move |error: io::Error| format!("{text}: {error}")
    };
    // The socket's directory lets nginx's group through, and nobody else.
    if let Some(directory) = request.socket.parent() {
        make_directory(directory, 0o710).map_err(context("make", directory))?;
    }
    for mount in request.spec.mounts.iter().filter(|mount| !mount.read_only) {
        make_directory(&mount.source, 0o700).map_err(context("make", &mount.source))?;
    }
    for old in [&request.bound, &request.socket] {
        fs::remove_file(old).or_else(missing_is_fine).map_err(context("remove the old", old))?;
    }
    copy_secrets(&request.secrets, secrets, credentials)?;
    let home = Dir::open_ambient_dir(&request.home, ambient_authority()).map_err(context("open", &request.home))?;
    for mount in &request.spec.mounts {
        if let Some(below) = mount.target.strip_prefix(HOME).and_then(|rest| rest.strip_prefix('/')) {
            let made = make_mount_point(&home, below, mount.source.is_dir());
            made.map_err(context("make the mount point", &request.home.join(below)))?;
        }
    }
    if let Err(error) = merge_settings(&home, &request.settings) {
        tracing::warn!(home = %request.home.display(), %error, "the declared settings were not merged");
    }
    Ok(())
}

/// Removes the copies of secrets. The directory itself may be somebody else's to make and to remove.
pub fn clear(secrets: &Path) -> io::Result<()> {
    match fs::read_dir(secrets) {
        Ok(old) => old.flatten().try_for_each(|old| fs::remove_dir_all(old.path())),
        Err(error) => missing_is_fine(error),
    }
}

fn copy_secrets(copies: &[SecretCopy], to: &Path, credentials: Option<&Path>) -> Result<(), String> {
    let failed = |error: io::Error| format!("can't write secrets below {}: {error}", to.display());
    clear(to).map_err(failed)?;
    for copy in copies {
        let source = credentials.map_or_else(|| copy.source.clone(), |directory| directory.join(copy.credential()));
        let (content, _) = read_secret(&source)
            .map_err(|error| format!("can't read the secret {}: {error}", copy.source.display()))?;
        // The module's stand-in for a file that is not there is an empty line.
        if content.is_empty() || content == b"\n" {
            let gone = if credentials.is_some() { "is empty or not there" } else { "is empty" };
            return Err(format!("the secret {} {gone}; write its value into it", copy.source.display()));
        }
        let target = to.join(&copy.name);
        target.parent().map_or(Ok(()), |directory| make_directory(directory, 0o700)).map_err(failed)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(copy.mode).open(&target).map_err(failed)?;
        file.write_all(&content).map_err(failed)?;
    }
    Ok(())
}

/// Podman would make it too, but owned by an id that the owner can't remove.
fn make_mount_point(home: &Dir, below: &str, directory: bool) -> io::Result<()> {
    if directory {
        return home.create_dir_all(below);
    }
    if let Some((parent, _)) = below.rsplit_once('/') {
        home.create_dir_all(parent)?;
    }
    if !home.try_exists(below)? {
        home.create(below)?;
    }
    Ok(())
}

fn merge_settings(home: &Dir, declared: &Map<String, Value>) -> io::Result<()> {
    let mut given: BTreeSet<String> = serde_json::from_str(&read(home, GIVEN)?).unwrap_or_default();
    let before = given.len();
    let path = format!("{SETTINGS}/settings.json");
    let Some(merged) = settings::merge(&read(home, &path)?, declared, &mut given) else {
        return if given.len() == before { Ok(()) } else { write(home, GIVEN, &serde_json::to_string(&given)?) };
    };
    home.create_dir_all(SETTINGS)?;
    write(home, &path, &merged)?;
    write(home, GIVEN, &serde_json::to_string(&given)?)
}

/// A small file below the home; one that is not there is empty. The owner may have put a FIFO there, or something without end.
fn read(home: &Dir, path: &str) -> io::Result<String> {
    let mut options = cap_std::fs::OpenOptions::new();
    options.read(true).custom_flags(nonblocking());
    let file = match home.open_with(path, &options) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let content = read_small(file.into_std()).map_err(|error| io::Error::other(format!("{path}: {error}")))?;
    String::from_utf8(content).map_err(|error| io::Error::other(format!("{path}: {error}")))
}

/// Whole or not at all, below the home.
fn write(home: &Dir, path: &str, content: &str) -> io::Result<()> {
    let temporary = format!("{path}.csm");
    home.remove_file(&temporary).or_else(missing_is_fine)?;
    // A new file, whatever the owner had there.
    let mut file = home.open_with(&temporary, cap_std::fs::OpenOptions::new().write(true).create_new(true))?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    home.rename(&temporary, home, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn declared() -> Map<String, Value> {
        Map::from_iter([("a".to_owned(), Value::from(1))])
    }

    #[test]
    fn settings_arrive_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("opened");
        merge_settings(&home, &declared()).expect("merged");
        let file = dir.path().join(SETTINGS).join("settings.json");
        assert!(fs::read_to_string(&file).expect("there").contains("\"a\": 1"));
        fs::write(&file, "{}").expect("written");
        merge_settings(&home, &declared()).expect("merged");
        assert_eq!(fs::read_to_string(&file).expect("there"), "{}", "the person took it out");
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("opened");
        let settings = dir.path().join(SETTINGS);
        fs::create_dir_all(&settings).expect("made");
        let fifo = |name: &str| {
            rustix::fs::mknodat(rustix::fs::CWD, settings.join(name), rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .expect("made");
        };
        fifo("settings.json.csm");
        merge_settings(&home, &declared()).expect("merged in spite of it");
        fs::remove_file(settings.join("settings.json")).expect("removed");
        fifo("settings.json");
        assert!(merge_settings(&home, &declared()).is_err());
        fs::remove_file(settings.join("settings.json")).expect("removed");
        fs::File::create(settings.join("settings.json")).and_then(|file| file.set_len(1 << 40)).expect("made");
        assert!(merge_settings(&home, &declared()).is_err());
    }

    #[test]
    fn no_link_of_the_owner_leads_out_of_the_home() {
        let outside = tempfile::tempdir().expect("a directory");
        let dir = tempfile::tempdir().expect("a directory");
        let home = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("opened");
        symlink(outside.path(), dir.path().join(".local")).expect("linked");
        symlink(outside.path(), dir.path().join("project")).expect("linked");
        assert!(merge_settings(&home, &declared()).is_err());
        assert!(make_mount_point(&home, ".local/x/y", false).is_err());
        assert!(make_mount_point(&home, "project/y", true).is_err());
        assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
    }

    #[test]
    fn secrets_are_copied_anew_with_their_modes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let source = dir.path().join("source");
        fs::write(&source, "canary").expect("written");
        let to = dir.path().join("secrets");
        fs::create_dir_all(to.join("environment")).expect("made");
        fs::write(to.join("environment/OLD"), "old").expect("written");
        let copy = SecretCopy { source, name: "environment/NEW".into(), mode: 0o400 };
        copy_secrets(std::slice::from_ref(&copy), &to, None).expect("copied");
        let meta = fs::metadata(to.join("environment/NEW")).expect("there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o400);
        assert!(!to.join("environment/OLD").exists());
        let credentials = dir.path().join("credentials");
        fs::create_dir(&credentials).expect("made");
        fs::write(credentials.join("environment.NEW"), "from systemd").expect("written");
        copy_secrets(std::slice::from_ref(&copy), &to, Some(&credentials)).expect("copied");
        assert_eq!(fs::read_to_string(to.join("environment/NEW")).expect("there"), "from systemd");
        for nothing in ["", "\n"] {
            fs::write(credentials.join("environment.NEW"), nothing).expect("written");
            let error = copy_secrets(std::slice::from_ref(&copy), &to, Some(&credentials)).expect_err("refused");
            assert!(error.contains("source is empty or not there"), "{error}");
        }
        let missing = SecretCopy { source: dir.path().join("none"), ..copy };
        let error = copy_secrets(&[missing], &to, None).expect_err("refused");
        assert!(error.contains("none") && !error.contains("canary"), "{error}");
    }
}
