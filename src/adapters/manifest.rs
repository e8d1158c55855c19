//! Reads and checks the manifest's file, and reads it again whenever it changes.

use std::io;
use std::path::{Path, PathBuf};

use super::files::read_manifest;
use super::machine::machine;
use super::preflight::check_files;
use super::watch::{self, Changes};
use crate::model::issue::{Issue, has_errors};
use crate::model::manifest::{Machine, Manifest};

/// What a manifest is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckScope {
    /// This host and the files on it, as this account sees them.
    Files,
    /// This host, but not the files on it, which only systemd and nginx can read.
    Host,
    /// Only its own text, because it is for another host.
    Text,
}

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file can't be read.
    #[error("can't read {path}: {source}; check the path, and that this account can read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest has errors; csm keeps the previous one.
    #[error("{path} is invalid; still using the previous manifest: {}", errors(issues))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its errors and warnings.
        issues: Vec<Issue>,
    },
}

fn errors(issues: &[Issue]) -> String {
    let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
    errors.join(" · ")
}

/// The content of a manifest's file.
pub struct Loaded {
    /// The manifest; `None` if one of the issues is an error.
    pub manifest: Option<Manifest>,
    /// The errors and warnings.
    pub issues: Vec<Issue>,
}

/// Reads a manifest's text.
pub fn read(path: &Path) -> Result<String, ManifestError> {
    read_manifest(path).map_err(|source| ManifestError::Unreadable { path: path.to_owned(), source })
}

/// Reads and checks a manifest.
pub fn load(path: &Path, scope: CheckScope) -> Result<Loaded, ManifestError> {
    let text = read(path)?;
    let unlimited = Machine { memory: u64::MAX, cpus: u32::MAX };
    let machine = if scope == CheckScope::Text { unlimited } else { machine() };
    let (manifest, mut issues) = Manifest::parse(&text, &machine);
    if let Some(manifest) = manifest.as_ref().filter(|_| scope == CheckScope::Files) {
        issues.extend(check_files(manifest));
    }
    Ok(Loaded { manifest: manifest.filter(|_| !has_errors(&issues)), issues })
}

/// Watches a manifest's file and reads it again whenever it changes.
pub struct ManifestWatcher {
    path: PathBuf,
    scope: CheckScope,
    changes: Changes,
    /// The last error that [`Self::next`] returned, until the file can be used again.
    reported: Option<String>,
}

impl ManifestWatcher {
    /// Starts to watch the file, and then loads it, so that changes made while csm starts are not missed.
    pub fn start(path: &Path, scope: CheckScope) -> Result<(Self, Loaded), ManifestError> {
        let changes = watch::file(path);
        let loaded = load(path, scope)?;
        Ok((Self { path: path.to_owned(), scope, changes, reported: None }, loaded))
    }

    /// Waits for a change and reads the file. Returns a manifest that can replace `current`, or why the file's can't. Writing a file causes
    /// several changes, so the same error is returned only once.
    pub async fn next(&mut self, current: &Manifest) -> Result<Manifest, ManifestError> {
        loop {
            self.changes.recv().await;
            let read = self.read(current);
            let error = read.as_ref().err().map(ToString::to_string);
            if error.is_none() || error != self.reported {
                self.reported = error;
                return read;
            }
        }
    }

    /// Reads the file, even if it has not changed.
    pub fn read(&self, current: &Manifest) -> Result<Manifest, ManifestError> {
        let invalid = |issues| ManifestError::Invalid { path: self.path.clone(), issues };
        let Loaded { manifest, issues } = load(&self.path, self.scope)?;
        let Some(manifest) = manifest else { return Err(invalid(issues)) };
        if manifest.workspace_base != current.workspace_base {
            let moved = "restart csm, which can't move users' homes while it runs";
            let issue = Issue::error("workspaceBase", &manifest.workspace_base, "changed", moved);
            return Err(invalid(vec![issue]));
        }
        for issue in &issues {
            tracing::warn!(manifest = %self.path.display(), "{issue}");
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::adapters::files::write_atomically;

    struct Stage {
        directory: tempfile::TempDir,
    }

    impl Stage {
        fn new() -> Self {
            let stage = Self { directory: tempfile::tempdir().expect("a directory") };
            stage.write(&Self::text("a.localhost", "/home/a"));
            stage
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("manifest.json")
        }

        fn text(domain: &str, base: &str) -> String {
            let user = r#"{"dan":{"passwordFile":"/p"}}"#;
            format!(r#"{{"version":1,"domain":"{domain}","workspaceBase":"{base}","image":"x","users":{user}}}"#)
        }

        fn write(&self, text: &str) {
            write_atomically(&self.path(), text.as_bytes(), 0o600).expect("written");
        }

        fn watcher(&self) -> (ManifestWatcher, Manifest) {
            let (watcher, loaded) = ManifestWatcher::start(&self.path(), CheckScope::Text).expect("readable");
            (watcher, loaded.manifest.expect("valid"))
        }
    }

    #[tokio::test]
    async fn a_manifest_written_while_csm_starts_is_read() {
        let stage = Stage::new();
        let (mut watcher, first) = stage.watcher();
        stage.write(&Stage::text("b.localhost", "/home/a"));
        let next =
            tokio::time::timeout(Duration::from_secs(10), watcher.next(&first)).await.expect("the change is noticed");
        assert_eq!(next.expect("valid").domain.to_string(), "b.localhost");
    }

    #[tokio::test]
    async fn the_same_error_is_reported_once_until_the_manifest_is_valid_again() {
        let stage = Stage::new();
        let (mut watcher, first) = stage.watcher();
        let (change, changes) = watch::by_hand();
        watcher.changes = changes;
        let valid = Stage::text("a.localhost", "/home/a");
        for (text, reported) in [
            ("", Some("the manifest is empty")),
            ("", None),
            ("{", Some("EOF")),
            ("{", None),
            ("", Some("the manifest is empty")),
            (&valid, Some("valid")),
            (&valid, Some("valid")),
            ("", Some("the manifest is empty")),
            ("", None),
        ] {
            stage.write(text);
            change.send(()).await.expect("watched");
            let next = watcher.next(&first).now_or_never();
            let found = next.map(|next| next.map_or_else(|error| error.to_string(), |_| "valid".to_owned()));
            assert_eq!(found.is_some(), reported.is_some(), "{text:?}: {found:?}");
            assert!(found.unwrap_or_default().contains(reported.unwrap_or_default()), "{text:?} {reported:?}");
        }
    }

    #[test]
    fn a_manifest_that_can_not_replace_the_current_one_is_an_error_with_its_reason() {
        let stage = Stage::new();
        let (watcher, first) = stage.watcher();
        let refused = |text: &str| {
            stage.write(text);
            watcher.read(&first).expect_err("refused").to_string()
        };
        let moved = refused(&Stage::text("a.localhost", "/home/b"));
        let says = "manifest.json is invalid; still using the previous manifest: error: workspaceBase: found /home/b";
        assert!(
            moved.contains(says) && moved.ends_with("restart csm, which can't move users' homes while it runs"),
            "{moved}"
        );
        let text = Stage::text("a.localhost", "/home/a");
        for end in 0..text.len() {
            let half = refused(&text[..end]);
            assert!(half.contains("manifest.json is invalid") && half.contains(": error: "), "{end}: {half}");
        }
        std::fs::remove_file(stage.path()).expect("removed");
        let gone = watcher.read(&first).expect_err("refused").to_string();
        assert!(gone.starts_with("can't read /") && gone.contains("; check the path"), "{gone}");
        stage.write(&text);
        assert!(watcher.read(&first).is_ok());
    }
}
