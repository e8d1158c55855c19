//! Writes files atomically, and reads secrets and manifests without waiting for FIFOs or reading devices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The maximum size in bytes of secrets, passwords and settings; a bigger file is a mistake.
const MAX_SMALL: u64 = 1 << 20;

/// The maximum size in bytes of a manifest; one with tens of thousands of users is smaller.
pub const MAX_MANIFEST: usize = 16 << 20;

/// Writes a file atomically: readers see either the old content or the new content, even after a power failure.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a directory and its missing parents. The directory gets exactly this mode.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Reads a secret. Returns whether every account can read the file, too: the mode is that of the file that was read.
pub fn read_secret(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let file = open(path)?;
    let world_readable = file.metadata()?.permissions().mode() & 0o004 != 0;
    Ok((read_small(file)?, world_readable))
}

/// Reads a manifest's text.
pub fn read_manifest(path: &Path) -> io::Result<String> {
    let content = read_bounded(open(path)?, MAX_MANIFEST as u64)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Opens a file. Does not wait if the path is a FIFO or a device.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nonblocking()).open(path)
}

/// The flag of `open(2)` for files that another account may have created: with it, opening a FIFO does not wait for a writer.
pub fn nonblocking() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0)
}

/// Reads a regular file of at most 1 MiB; anything else is an error.
pub fn read_small(file: File) -> io::Result<Vec<u8>> {
    read_bounded(file, MAX_SMALL)
}

fn read_bounded(file: File, max: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    // One byte beyond the maximum shows that the file is too big, even if its metadata gives a smaller size.
    if file.take(max + 1).read_to_end(&mut content)? as u64 > max {
        return Err(io::Error::other(format!("it is bigger than {} MiB", max >> 20)));
    }
    Ok(content)
}

/// For `or_else` after a removal: turns `NotFound` into success.
pub fn ignore_not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_file_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        write_atomically(&path, b"one", 0o600).expect("written");
        write_atomically(&path, b"two", 0o640).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn secrets_are_regular_files_of_limited_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        assert!(read_secret(&fifo).expect_err("refused").to_string().contains("regular file"));
        assert!(read_secret(dir.path()).is_err());
        assert!(read_secret(Path::new("/dev/zero")).is_err());
        let big = dir.path().join("big");
        File::create(&big).and_then(|file| file.set_len(MAX_SMALL + 1)).expect("made");
        assert!(read_secret(&big).expect_err("refused").to_string().contains("1 MiB"));
    }

    #[test]
    fn manifests_are_regular_files_of_limited_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        for endless in [fifo.as_path(), Path::new("/dev/zero"), Path::new("/dev/tty"), dir.path()] {
            assert!(read_manifest(endless).is_err(), "{}", endless.display());
        }
        let big = dir.path().join("big");
        let file = File::create(&big).expect("made");
        file.set_len(MAX_MANIFEST as u64 + 1).expect("set");
        assert!(read_manifest(&big).expect_err("refused").to_string().contains("bigger than 16 MiB"));
        file.set_len(MAX_MANIFEST as u64).expect("set");
        assert_eq!(read_manifest(&big).expect("read").len(), MAX_MANIFEST);
        // Files in /proc have a size of 0 in their metadata.
        assert!(read_manifest(Path::new("/proc/self/status")).expect("read").contains("Pid:"));
    }
}
