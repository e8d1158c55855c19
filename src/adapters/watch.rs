//! Being told when files change.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes of one directory. Dropped, it stops watching.
pub struct Changes {
    events: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    /// The next change. Without a watcher (the limit of inotify is reached) it never comes: callers look by themselves too.
    pub async fn recv(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Watches a directory's entries, not what lies below them.
pub fn directory(path: &Path) -> Changes {
    watch(path, |_| true)
}

/// Watches one file by its directory, so that renames into place and swapped symbolic links are seen.
pub fn file(path: &Path) -> Changes {
    let name = path.file_name().map(PathBuf::from);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watch(directory, move |changed| changed.file_name() == name.as_ref().map(|name| name.as_os_str()))
}

fn watch(directory: &Path, relevant: impl Fn(&Path) -> bool + Send + 'static) -> Changes {
    let (tell, events) = mpsc::channel(1);
    let on_event = move |event: notify::Result<notify::Event>| {
        let told = event.is_ok_and(|event| {
            !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| relevant(path))
        });
        if told {
            // A full channel already holds the news.
            let _ = tell.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(directory = %directory.display(), %error, "can't watch it; changes are seen later");
    }
    Changes { events, _watcher: watcher.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rename_into_place_is_seen_and_other_files_are_not() {
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
