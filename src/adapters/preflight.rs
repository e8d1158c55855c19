//! Checks the files that a manifest names, and the port that it listens on.

use std::io;
use std::path::Path;

use super::files::read_secret;
use super::passwords;
use crate::model::issue::Issue;
use crate::model::manifest::Manifest;

/// The issues of the files and the port.
pub fn check_files(manifest: &Manifest) -> Vec<Issue> {
    let mut issues = Vec::new();
    for owner in manifest.owners.values() {
        let path = format!("users.{}", owner.name);
        check_password(&format!("{path}.passwordFile"), owner.password_file.path(), &mut issues);
    }
    for workspace in manifest.workspaces.values() {
        let path = format!("users.{}", workspace.id.owner);
        for (name, file) in &workspace.secret_environment {
            check_secret(&format!("{path}.secretEnvironment.{name}"), file.path(), &mut issues);
        }
        for (name, entry) in &workspace.secret_files {
            check_secret(&format!("{path}.secretFiles.{name}.source"), entry.source.path(), &mut issues);
        }
    }
    let listen = manifest.front_door.listen;
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if let Some(first) = first.trim().parse::<u16>().ok().filter(|first| listen.port() < *first) {
        let fix = format!(
            "as root: sysctl net.ipv4.ip_unprivileged_port_start={}, or let another proxy listen on that port",
            listen.port()
        );
        let problem = format!("\"csm up\" can't listen below port {first}: only root can");
        issues.push(Issue::warning("frontDoor.listen", listen, problem, fix));
    }
    if let Some((certificate, key)) = &manifest.front_door.tls {
        for (field, file) in [("certificate", certificate.path()), ("certificateKey", key.path())] {
            check_secret(&format!("frontDoor.{field}"), file, &mut issues);
        }
    }
    issues
}

fn check_password(path: &str, file: &Path, issues: &mut Vec<Issue>) {
    match read_secret(file) {
        Ok((content, world_readable)) => {
            if let Err(unusable) = passwords::check(&content) {
                issues.push(Issue::error(path, file.display(), unusable.to_string(), passwords::FIX));
            }
            if world_readable {
                let fix = format!("chmod 0600 {}", file.display());
                issues.push(Issue::warning(
                    path,
                    file.display(),
                    "every account of this host can read the password",
                    fix,
                ));
            }
        }
        Err(error) => issues.push(unreadable(path, file, &error)),
    }
}

fn check_secret(path: &str, file: &Path, issues: &mut Vec<Issue>) {
    if let Err(error) = read_secret(file) {
        issues.push(unreadable(path, file, &error));
    }
}

fn unreadable(path: &str, file: &Path, error: &io::Error) -> Issue {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "create it, or correct the path",
        io::ErrorKind::PermissionDenied => "let the account that runs csm read it",
        _ => "set the path of a regular file that this account can read",
    };
    Issue::error(path, file.display(), format!("can't read the file: {error}"), fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Machine;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn check(write: impl FnOnce(&Path)) -> Vec<Issue> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("p");
        write(&file);
        let text = format!(
            r#"{{"version":1,"domain":"a.localhost","image":"x","users":{{"dan":{{"passwordFile":"{}"}}}}}}"#,
            file.display()
        );
        let manifest = Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.expect("valid");
        check_files(&manifest)
    }

    fn one(write: impl FnOnce(&Path), error: bool, says: &str) {
        let issues = check(write);
        assert_eq!(issues.len(), 1, "{issues:?}");
        assert_eq!(issues[0].is_error(), error);
        assert_eq!(issues[0].path, "users.dan.passwordFile");
        assert!(issues[0].to_string().contains(says), "{}", issues[0]);
    }

    fn with_mode(content: &'static str, mode: u32) -> impl FnOnce(&Path) {
        move |file| {
            fs::write(file, content).expect("written");
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("set");
        }
    }

    #[test]
    fn password_files() {
        assert_eq!(check(with_mode("x", 0o600)), vec![]);
        one(|_| (), true, "create it, or correct the path");
        one(with_mode("", 0o600), true, "is empty");
        one(with_mode("\n", 0o600), true, "is empty");
        one(with_mode("   \n", 0o600), true, "is empty, blank");
        one(
            with_mode("$2y$05$bvIG6Nmid91", 0o600),
            true,
            "is not an argon2 hash; write the password into it, or its hash",
        );
        one(with_mode("x", 0o644), false, "every account of this host");
        one(|file| fs::create_dir(file).expect("made"), true, "regular file");
    }
}
