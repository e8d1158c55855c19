//! Watches files and directories with inotify.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Reports changes in a directory, until it is dropped.
pub struct Changes {
    events: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    /// Waits for the next change. If inotify's limit is reached, this waits forever, so callers must also check from time to time.
    pub async fn recv(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Watches a directory's entries, but not those of its subdirectories.
pub fn directory(path: &Path) -> Changes {
    watch(path, |_| true)
}

/// Watches one file through its directory, so that a file renamed to its path and a replaced symbolic link are noticed.
pub fn file(path: &Path) -> Changes {
    let name = path.file_name().map(PathBuf::from);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watch(directory, move |changed| changed.file_name() == name.as_ref().map(|name| name.as_os_str()))
}

fn watch(directory: &Path, relevant: impl Fn(&Path) -> bool + Send + 'static) -> Changes {
    let (tx, events) = mpsc::channel(1);
    let on_event = move |event: notify::Result<notify::Event>| {
        let changed = event.is_ok_and(|event| {
            !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| relevant(path))
        });
        if changed {
            // If the channel is full, a change is already pending.
            let _ = tx.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(directory = %directory.display(), %error, "can't watch the directory; changes are noticed later");
    }
    Changes { events, _watcher: watcher.ok() }
}

/// Changes that a test reports.
#[cfg(test)]
pub fn by_hand() -> (mpsc::Sender<()>, Changes) {
    let (changed, events) = mpsc::channel(1);
    (changed, Changes { events, _watcher: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_renamed_to_the_watched_path_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("manifest.json");
        let mut changes = file(&path);
        std::fs::write(dir.path().join("other"), "x").expect("written");
        std::fs::write(dir.path().join("new"), "x").expect("written");
        std::fs::rename(dir.path().join("new"), &path).expect("renamed");
        changes.recv().await;
        assert!(path.exists());
    }
}
