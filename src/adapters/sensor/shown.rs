//! Files in the directory that the workspace can write, from which its terminals show what csm says.

use std::io::{self, Write as _};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

/// The temporary file's name.
const TEMPORARY: &str = ".csm.new";

/// Writes files that the workspace's own programs may replace with anything: nothing outside the directory is written or read.
pub struct Shown(Dir);

impl Shown {
    /// Opens the directory.
    pub fn open(inside: &Path) -> io::Result<Self> {
        Dir::open_ambient_dir(inside, ambient_authority()).map(Self)
    }

    /// Replaces a file with one line, or removes it.
    pub fn show(&self, name: &str, line: Option<&str>) -> io::Result<()> {
        let Some(line) = line else { return self.remove(name) };
        self.remove(TEMPORARY)?;
        // A new file: nothing that is there already, such as a FIFO or a link, is opened.
        let mut file = self.0.open_with(TEMPORARY, OpenOptions::new().write(true).create_new(true))?;
        writeln!(file, "{line}")?;
        self.0.rename(TEMPORARY, &self.0, name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove_file(name).or_else(crate::adapters::files::ignore_not_found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let shown = Shown::open(directory.path()).expect("opened");
        for line in ["one", "two"] {
            shown.show("status", Some(line)).expect("written");
            assert_eq!(fs::read_to_string(directory.path().join("status")).expect("read"), format!("{line}\n"));
        }
        shown.show("status", None).and_then(|()| shown.show("status", None)).expect("removed");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
    }

    #[test]
    fn what_the_workspace_puts_there_is_not_followed() {
        let (directory, outside) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let canary = outside.path().join("canary");
        fs::write(&canary, "untouched").expect("written");
        let shown = Shown::open(directory.path()).expect("opened");
        for name in ["status", TEMPORARY] {
            symlink(&canary, directory.path().join(name)).expect("linked");
        }
        shown.show("status", Some("x")).expect("written");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join(TEMPORARY),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .expect("made");
        shown.show("status", Some("y")).expect("written in spite of it");
        fs::remove_file(directory.path().join("status"))
            .and_then(|()| fs::create_dir(directory.path().join("status")))
            .expect("made");
        assert!(shown.show("status", Some("z")).is_err());
        assert_eq!(fs::read_to_string(canary).expect("read"), "untouched");
    }
}
