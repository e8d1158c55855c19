//! Measures the disk space that workspaces use.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::cgroup::UnitCgroup;

/// The size of a workspace's home and project in bytes. `None` if this account can't read them.
pub fn disk_usage(home: &Path, project: &Path) -> Option<u64> {
    Some(size_of(home)? + size_of(project)?)
}

/// The free bytes of the file system that contains a path, which need not exist yet.
pub fn disk_free(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

/// How many levels of directories are measured.
const MAX_LEVELS: usize = 256;

/// The size of everything in a directory. The owner decides how many directories there are and how deeply they are nested, so this keeps one open directory for each level, and no list.
fn size_of(directory: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    let mut open = match fs::read_dir(directory) {
        Ok(entries) => vec![entries],
        // Before its first start a workspace has no directories.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(0),
        Err(_) => return None,
    };
    while let Some(entries) = open.last_mut() {
        let Some(Ok(entry)) = entries.next() else {
            open.pop();
            continue;
        };
        let Ok(meta) = entry.metadata() else { continue };
        total += meta.blocks() * 512;
        if meta.is_dir() && open.len() < MAX_LEVELS {
            open.extend(fs::read_dir(entry.path()));
        }
    }
    Some(total)
}

/// The minimum time between two measurements by a launcher.
const MEASURE_INTERVAL: Duration = Duration::from_secs(600);

/// The CPU time that a workspace must have used since the last measurement before it is measured again, so that an idle workspace causes no reads.
const MEASURE_AFTER: Duration = Duration::from_secs(60);

/// Measures one workspace's disk space in the background.
pub struct DiskMeter {
    home: PathBuf,
    project: PathBuf,
    /// The result of the last measurement.
    pub bytes: Option<u64>,
    /// When the last measurement started, and the CPU time that the workspace had used by then.
    started: Option<(Instant, Duration)>,
    task: Option<JoinHandle<Option<u64>>>,
}

impl DiskMeter {
    /// A meter for a home and what is mounted at `~/project`.
    pub fn new(home: &Path, project: &Path) -> Self {
        Self { home: home.to_owned(), project: project.to_owned(), bytes: None, started: None, task: None }
    }

    /// Starts a measurement if one is due. [`DiskMeter::measured`] resolves when it is finished.
    pub fn tick(&mut self, cgroup: Option<&UnitCgroup>) {
        let cpu = cgroup.map_or(Duration::MAX, UnitCgroup::cpu_time);
        let due = self
            .started
            .is_none_or(|(at, before)| at.elapsed() >= MEASURE_INTERVAL && cpu.saturating_sub(before) >= MEASURE_AFTER);
        if due && self.task.is_none() {
            let (home, project) = (self.home.clone(), self.project.clone());
            self.started = Some((Instant::now(), if cgroup.is_some() { cpu } else { Duration::ZERO }));
            self.task = Some(tokio::task::spawn_blocking(move || disk_usage(&home, &project)));
        }
    }

    /// Resolves when a measurement has finished.
    pub async fn measured(&mut self) {
        match &mut self.task {
            Some(task) => {
                let bytes = task.await.ok().flatten();
                (self.task, self.bytes) = (None, bytes.or(self.bytes));
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_directory_is_unknown_and_a_missing_one_is_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, project) = (dir.path().join("home"), dir.path().join("project"));
        assert_eq!(disk_usage(&home, &project), Some(0));
        fs::create_dir_all(home.join("deep")).expect("created");
        fs::write(home.join("deep/file"), vec![1; 100_000]).expect("written");
        assert!(disk_usage(&home, &project).is_some_and(|bytes| bytes >= 100_000));
        fs::write(&project, "no directory").expect("written");
        assert_eq!(disk_usage(&home, &project), None);
        assert!(disk_free(&dir.path().join("not/yet")).is_some());
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("f"), vec![1; 10_000]).expect("written");
        std::os::unix::fs::symlink("/", dir.path().join("root")).expect("linked");
        let bytes = size_of(dir.path()).expect("readable");
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_workspace_is_measured_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let idle = UnitCgroup::at(dir.path());
        fs::write(dir.path().join("cpu.stat"), "usage_usec 5000000\nuser_usec 1\n").expect("written");
        let mut meter = DiskMeter::new(dir.path(), &dir.path().join("project"));
        meter.tick(Some(&idle));
        meter.measured().await;
        assert!(meter.bytes.is_some());
        tokio::time::advance(MEASURE_INTERVAL * 10).await;
        meter.tick(Some(&idle));
        assert!(meter.task.is_none());
        fs::write(dir.path().join("cpu.stat"), "usage_usec 70000000\n").expect("written");
        meter.tick(Some(&idle));
        assert!(meter.task.is_some(), "it has used CPU time since");
    }
}
