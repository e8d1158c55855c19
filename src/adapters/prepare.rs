//! Prepares a workspace's directories, secrets and settings on disk before it starts.
//!
//! The owner can change their home while this runs. So everything in it is accessed through a directory handle from which no symbolic
//! link leads out (cap-std: `openat2` with `RESOLVE_BENEATH`).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptionsExt as _};
use serde_json::{Map, Value};

use super::files::{ignore_not_found, make_directory, nonblocking, read_secret, read_small};
use crate::model::container::{HOME, SecretCopy};
use crate::model::settings;
use crate::ports::StartRequest;

/// The directory of code-server's settings, in the home.
const SETTINGS: &str = ".local/share/code-server/User";

/// The file in the home that lists the settings that csm has already merged.
const MERGED: &str = ".local/share/code-server/csm-settings.json";

/// How many levels of directories are removed from the socket's directory.
const MAX_DEPTH: u32 = 32;

/// Creates directories, copies secrets and merges settings. If `credentials` is given, systemd has put the secrets into that directory.
pub fn prepare(request: &StartRequest, secrets: &Path, credentials: Option<&Path>) -> Result<(), String> {
    let context = |what: &str, path: &Path| {
        let text = format!("can't {what} {}", path.display());
        move |error: io::Error| {
            format!("{text}: {error}; check the owner, mode and free space of the directory above it")
        }
    };
    // Only this account and nginx's group can enter the socket's directory.
    if let Some(directory) = request.socket.parent() {
        make_directory(directory, 0o710).map_err(context("create", directory))?;
    }
    // The owner may have put anything into the directory that an earlier container could write to.
    if let Some(inside) = request.bound.parent() {
        recreate(inside, |old| remove(old, MAX_DEPTH)).map_err(context("recreate", inside))?;
    }
    for mount in request.spec.mounts.iter().filter(|mount| !mount.read_only) {
        make_directory(&mount.source, 0o700).map_err(context("create", &mount.source))?;
    }
    let old = &request.socket;
    fs::remove_file(old).or_else(ignore_not_found).map_err(context("remove the old", old))?;
    copy_secrets(&request.secrets, secrets, credentials)?;
    let home = Dir::open_ambient_dir(&request.home, ambient_authority()).map_err(context("open", &request.home))?;
    for mount in &request.spec.mounts {
        if let Some(below) = mount.target.strip_prefix(HOME).and_then(|rest| rest.strip_prefix('/')) {
            let created = create_mount_point(&home, below, mount.source.is_dir());
            created.map_err(context("create the mount point", &request.home.join(below)))?;
        }
    }
    if let Err(error) = merge_settings(&home, &request.settings) {
        tracing::warn!(home = %request.home.display(), %error, "can't merge the declared settings");
    }
    Ok(())
}

/// Replaces a directory with an empty one that only its owner can enter. If `clean` can't remove the old one, for example because of
/// files of another account's ids, the old one is renamed, so that the workspace can start.
fn recreate(directory: &Path, clean: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if let Err(error) = clean(directory) {
        let new_name = (0..u32::MAX)
            .map(|number| directory.with_extension(format!("old-{number}")))
            .find(|name| fs::symlink_metadata(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound))
            .ok_or_else(|| io::Error::other("too many old directories"))?;
        fs::rename(directory, &new_name)?;
        tracing::warn!(directory = %directory.display(), new_name = %new_name.display(), %error, "can't remove the directory; renamed it");
    }
    fs::DirBuilder::new().mode(0o700).create(directory)
}

/// Removes a file, a link, or a directory with its content. `depth` limits the levels, because each takes memory and a descriptor.
fn remove(path: &Path, depth: u32) -> io::Result<()> {
    let is_directory = match fs::symlink_metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) => return ignore_not_found(error),
    };
    if !is_directory {
        return fs::remove_file(path);
    }
    empty(&Dir::open_ambient_dir(path, ambient_authority())?, depth)?;
    fs::remove_dir(path)
}

fn empty(directory: &Dir, depth: u32) -> io::Result<()> {
    for entry in directory.entries()? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            entry.remove_file()?;
            continue;
        }
        let deeper = depth.checked_sub(1).ok_or_else(|| io::Error::other("it has too many levels"))?;
        empty(&entry.open_dir()?, deeper)?;
        directory.remove_dir(entry.file_name())?;
    }
    Ok(())
}

/// Removes the copies of secrets, but not their directory, which systemd may have created.
pub fn clear(secrets: &Path) -> io::Result<()> {
    match fs::read_dir(secrets) {
        Ok(old) => old.flatten().try_for_each(|old| fs::remove_dir_all(old.path())),
        Err(error) => ignore_not_found(error),
    }
}

fn copy_secrets(copies: &[SecretCopy], to: &Path, credentials: Option<&Path>) -> Result<(), String> {
    let failed = |error: io::Error| {
        format!("can't write secrets in {}: {error}; check that it belongs to this account", to.display())
    };
    clear(to).map_err(failed)?;
    for copy in copies {
        let source = credentials.map_or_else(|| copy.source.clone(), |directory| directory.join(copy.credential()));
        let (content, _) = read_secret(&source).map_err(|error| {
            format!("can't read the secret {}: {error}; check its path and mode", copy.source.display())
        })?;
        // If the file is missing, the module's unit passes a credential that is only a newline.
        if content.is_empty() || content == b"\n" {
            let problem = if credentials.is_some() { "it is empty or missing" } else { "it is empty" };
            return Err(format!("can't use the secret {}: {problem}; write its value into it", copy.source.display()));
        }
        let target = to.join(&copy.name);
        target.parent().map_or(Ok(()), |directory| make_directory(directory, 0o700)).map_err(failed)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(copy.mode).open(&target).map_err(failed)?;
        file.write_all(&content).map_err(failed)?;
    }
    Ok(())
}

/// Creates a mount point. Podman would create it as well, but owned by an id whose files the owner can't remove.
fn create_mount_point(home: &Dir, below: &str, directory: bool) -> io::Result<()> {
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
    let mut given: BTreeSet<String> = serde_json::from_str(&read(home, MERGED)?).unwrap_or_default();
    let before = given.len();
    let path = format!("{SETTINGS}/settings.json");
    let Some(merged) = settings::merge(&read(home, &path)?, declared, &mut given) else {
        return if given.len() == before { Ok(()) } else { write(home, MERGED, &serde_json::to_string(&given)?) };
    };
    home.create_dir_all(SETTINGS)?;
    write(home, &path, &merged)?;
    write(home, MERGED, &serde_json::to_string(&given)?)
}

/// Reads a small file in the home; a missing one is empty. Does not wait for a FIFO or read a device, which the owner may have put there.
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

/// Writes a file in the home atomically.
fn write(home: &Dir, path: &str, content: &str) -> io::Result<()> {
    let temporary = format!("{path}.csm");
    home.remove_file(&temporary).or_else(ignore_not_found)?;
    // Always a new file, because the owner may have created one with this name.
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
    fn settings_are_merged_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("opened");
        merge_settings(&home, &declared()).expect("merged");
        let file = dir.path().join(SETTINGS).join("settings.json");
        assert!(fs::read_to_string(&file).expect("there").contains("\"a\": 1"));
        fs::write(&file, "{}").expect("written");
        merge_settings(&home, &declared()).expect("merged");
        assert_eq!(fs::read_to_string(&file).expect("there"), "{}", "the owner removed it");
    }

    /// A workspace's directories, and its owner's request to start.
    fn request(dir: &Path) -> StartRequest {
        use crate::model::layout::Layout;
        use crate::model::manifest::{Machine, Manifest};
        let text = format!(
            r#"{{"version":1,"domain":"a.localhost","image":"x","workspaceBase":"{}","users":{{"dan":{{"passwordFile":"/p"}}}}}}"#,
            dir.join("base").display()
        );
        let manifest = Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.expect("valid");
        let layout = Layout { run: dir.join("run"), state: dir.join("state"), share: dir.join("share") };
        StartRequest::new(&manifest, manifest.workspaces.values().next().expect("one"), &layout)
    }

    #[test]
    fn a_workspace_starts_whatever_its_owner_left_in_the_sockets_directory() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let request = request(dir.path());
        let (bound, inside) = (&request.bound, request.bound.parent().expect("a parent"));
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).expect("made");
        fs::write(kept.join("file"), "kept").expect("written");
        let left: [&dyn Fn(); 7] = [
            &|| {},
            &|| fs::create_dir(bound).expect("a directory in the socket's place"),
            &|| fs::create_dir_all(bound.join("x/y")).expect("with something in it"),
            &|| {
                fs::create_dir(bound).expect("made");
                fs::write(bound.join("x"), "").expect("written");
                fs::set_permissions(bound, fs::Permissions::from_mode(0o500)).expect("one that is read-only");
            },
            &|| symlink(&kept, bound).expect("a link in the socket's place"),
            &|| symlink(&kept, inside.join("link")).expect("a link beside it"),
            &|| {
                let mut deep = Dir::open_ambient_dir(inside, ambient_authority()).expect("opened");
                for _ in 0..MAX_DEPTH + 8 {
                    deep.create_dir("d").expect("made");
                    deep = deep.open_dir("d").expect("many levels");
                }
            },
        ];
        for (at, leave) in left.iter().enumerate() {
            prepare(&request, &dir.path().join("secrets"), None).unwrap_or_else(|error| panic!("{at}: {error}"));
            let meta = fs::metadata(inside).expect("there");
            assert_eq!(
                (fs::read_dir(inside).expect("listed").count(), meta.permissions().mode() & 0o777),
                (0, 0o700),
                "{at}"
            );
            leave();
        }
        prepare(&request, &dir.path().join("secrets"), None).expect("prepared");
        assert_eq!(fs::read_to_string(kept.join("file")).expect("there"), "kept", "no link was followed");
        // The last one is nested too deeply to be removed.
        assert!(inside.with_extension("old-0").is_dir());
    }

    #[test]
    fn a_directory_that_can_not_be_removed_is_renamed() {
        let dir = tempfile::tempdir().expect("a directory");
        let inside = dir.path().join("inside");
        for at in 0..3 {
            fs::create_dir_all(inside.join(format!("of-another-id-{at}"))).expect("made");
            recreate(&inside, |_| Err(io::ErrorKind::PermissionDenied.into())).expect("recreated");
            assert_eq!(fs::read_dir(&inside).expect("listed").count(), 0);
            assert!(dir.path().join(format!("inside.old-{at}/of-another-id-{at}")).is_dir());
        }
        fs::remove_dir(&inside).expect("removed");
        symlink(dir.path(), &inside).expect("linked");
        recreate(&inside, |old| remove(old, MAX_DEPTH)).expect("recreated");
        assert!(fs::symlink_metadata(&inside).expect("there").is_dir());
    }

    #[test]
    fn fifos_and_files_without_end_are_not_read() {
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
        assert!(create_mount_point(&home, ".local/x/y", false).is_err());
        assert!(create_mount_point(&home, "project/y", true).is_err());
        assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
    }

    #[test]
    fn each_start_copies_the_secrets_again_with_their_modes() {
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
            assert!(error.contains("source: it is empty or missing"), "{error}");
        }
        let missing = SecretCopy { source: dir.path().join("none"), ..copy };
        let error = copy_secrets(&[missing], &to, None).expect_err("refused");
        assert!(error.contains("none") && !error.contains("canary"), "{error}");
    }
}
