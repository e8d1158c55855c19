//! Processes as `/proc` shows them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The first and the last major number of pseudo-terminals.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its program's name, of at most 15 characters.
    pub(super) name: String,
    pub(super) group: u32,
    /// The number of its pseudo-terminal, as in `/dev/pts/3`, and the process group in its foreground.
    pub(super) terminal: Option<(u32, u32)>,
    /// CPU time in clock ticks: its own, and that of its children that have exited.
    pub(super) own: u64,
    pub(super) children: u64,
    /// When it started, in clock ticks since the host's start: together with the PID this identifies it.
    pub(super) started: u64,
}

impl Process {
    pub(super) fn read(pid: u32) -> Option<Self> {
        parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

fn parse(pid: u32, stat: &str) -> Option<Process> {
    // The name in parentheses can contain any character, even parentheses.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let device = u32::try_from(number(7)?).unwrap_or(0);
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    let foreground = u32::try_from(number(8)?).ok();
    let ticks = |field| number(field).and_then(|ticks| u64::try_from(ticks).ok());
    Some(Process {
        pid,
        name,
        group: u32::try_from(number(5)?).ok()?,
        terminal: foreground
            .filter(|_| PTS_MAJORS.contains(&major))
            .map(|group| ((major - PTS_MAJORS.start()) << 20 | minor, group)),
        own: ticks(14)? + ticks(15)?,
        children: ticks(16)? + ticks(17)?,
        started: ticks(22)?,
    })
}

/// Bytes that a process has read and written, by any system call.
pub(super) fn io(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(value("rchar:")? + value("wchar:")?)
}

/// The PID of a process in its innermost PID namespace.
pub(super) fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_ascii_whitespace().last()?.parse().ok()
}

/// When a terminal was last read from and written to: seconds since 1970, which are compared only for equality, because anything may set
/// the clock. The kernel changes them at most every 8 s.
pub(super) fn terminal_times(pid: u32, terminal: u32) -> Option<(i64, i64)> {
    let meta = fs::metadata(format!("/proc/{pid}/root/dev/pts/{terminal}")).ok()?;
    Some((meta.atime(), meta.mtime()))
}

/// All processes in the PID namespace of this process.
pub(super) fn in_namespace_of(pid: u32) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(pid) else { return Vec::new() };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| namespace(*pid).as_ref() == Some(&wanted)).collect()
}

/// A unix socket with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) inode: u64,
    pub(super) listens: bool,
}

/// The listening and the connected sockets with this path, in the network namespace of a process. A connection is in the namespace of the
/// program that connected, not in that of the one that listens.
pub(super) fn sockets(pid: u32, path: &str) -> Vec<Socket> {
    parse_sockets(&fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default(), path)
}

/// Columns: number, references, protocol, flags, type, state, inode, path. A listening socket has a flag, an open connection has state 3.
fn parse_sockets(table: &str, path: &str) -> Vec<Socket> {
    const LISTENS: &str = "00010000";
    const CONNECTED: &str = "03";
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let (flags, _, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (inode, found) = (fields.next()?.parse().ok()?, fields.next()?);
        let listens = flags == LISTENS;
        (found == path && (listens || state == CONNECTED)).then_some(Socket { inode, listens })
    };
    table.lines().filter_map(socket).collect()
}

/// The inodes of the sockets that a process has open.
pub(super) fn open_sockets(pid: u32) -> Vec<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |link: &Path| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    files.filter_map(|file| inode(&fs::read_link(file.path()).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_behind_any_name() {
        let text = "7 (a) b (c) S 1 70 7 34819 71 4194560 1 2 3 4 100 50 30 20 20 0 9 0 1234 2 3";
        let expected = Process {
            pid: 7,
            name: "a) b (c".into(),
            group: 70,
            terminal: Some((3, 71)),
            own: 150,
            children: 50,
            started: 1234,
        };
        assert_eq!(parse(7, text), Some(expected));
        assert_eq!(parse(7, &text.replace("34819", "0")).expect("parsed").terminal, None);
        assert_eq!(parse(7, ""), None);
    }

    #[test]
    fn sockets_are_told_apart_by_their_path_and_state() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/csm/http.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 1235 /run/csm/http.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 01 1236 /run/csm/http.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 1237 /run/csm/http.sock2\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 1238\n";
        let expected = [Socket { inode: 1234, listens: true }, Socket { inode: 1235, listens: false }];
        assert_eq!(parse_sockets(table, "/run/csm/http.sock"), expected);
    }

    #[test]
    fn this_very_process_is_read() {
        let pid = std::process::id();
        let process = Process::read(pid).expect("read");
        assert!(process.started > 0);
        assert!(io(pid).expect("read") > 0);
        assert_eq!(inner_pid(pid), Some(pid));
        assert!(in_namespace_of(pid).contains(&pid));
    }
}
