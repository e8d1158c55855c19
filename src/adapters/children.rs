//! Runs programs: some until csm dies, others until they exit or a time limit is reached.

use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use crate::model::printed::Lines;

/// How many bytes of a program's output are read together.
const READ_SIZE: usize = 16 << 10;

/// Finds a program in `PATH`, or in the directories of administrators' programs, which are not in an ordinary account's `PATH`.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(administrators)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| program.into())
}

/// Runs a program without input until it exits, and returns its output. A program that runs longer than `limit` is killed.
pub async fn output_within(limit: Duration, command: impl Into<Command>) -> io::Result<Output> {
    let mut command = command.into();
    let line = command_line(&command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(limit, output).await.unwrap_or_else(|_| {
        let late = limit.as_secs();
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("\"{line}\" did not exit within {late} s")))
    })
}

fn command_line(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A child process. The kernel signals it when csm dies, even if csm is killed.
pub struct ChildProcess {
    name: &'static str,
    child: Child,
    /// The process group that it leads.
    group: Option<Pid>,
}

impl ChildProcess {
    /// Starts a program. Its standard error goes to the log. `signal` is sent to it when csm dies: `TERM` or `QUIT`.
    pub fn spawn(name: &'static str, signal: &str, program: &str, arguments: &[&str]) -> io::Result<Self> {
        // setpriv (util-linux) sets the parent-death signal and then execs the program, which keeps the process id. Setting the signal here would need unsafe code.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", signal, "--"])
            .arg(find(program))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // In a process group of its own, so that Ctrl-C signals only csm, which stops its children in order.
            .process_group(0)
            .spawn()?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(async move {
                let mut reader = LineReader::new(stderr);
                while let Ok(Some(lines)) = reader.next().await {
                    for line in lines {
                        tracing::debug!(program = name, "{line}");
                    }
                }
            });
        }
        let group = raw_pid(&child);
        Ok(Self { name, child, group })
    }

    /// The process id; `None` once it has exited.
    pub fn pid(&self) -> Option<Pid> {
        raw_pid(&self.child)
    }

    /// Sends a signal to the processes that it started and that still run after it has exited.
    pub fn signal_orphans(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Usually there are none, and the call fails.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Waits until it exits. Returns its exit status as text.
    pub async fn wait(&mut self) -> String {
        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.pid() {
            Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
            None => Err(io::Error::other(format!("{} has exited", self.name))),
        }
    }

    /// Stops it with SIGTERM, and with SIGKILL after 5 s.
    pub async fn stop(mut self) {
        let _ = self.signal(Signal::TERM);
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            tracing::warn!(program = self.name, "it did not exit within 5 s; killing it");
            let _ = self.child.kill().await;
        }
    }
}

/// Reads a program's output line by line. Each line is bounded and safe to show, see [`crate::model::printed`].
pub struct LineReader<R> {
    output: R,
    lines: Lines,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Creates a reader of this output.
    pub fn new(output: R) -> Self {
        Self { output, lines: Lines::default(), buffer: vec![0; READ_SIZE] }
    }

    /// The lines that the next bytes complete, perhaps none; `None` at the end of the output.
    pub async fn next(&mut self) -> io::Result<Option<Vec<String>>> {
        Ok(match self.output.read(&mut self.buffer).await? {
            0 => self.lines.finish().map(|last| vec![last]),
            count => Some(self.lines.push(&self.buffer[..count])),
        })
    }
}

fn raw_pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::printed::MAX_LINE;

    #[tokio::test(start_paused = true)]
    async fn a_program_that_does_not_exit_is_not_waited_for_longer_than_the_limit() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let error = output_within(Duration::from_secs(30), command).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "\"sleep 1000\" did not exit within 30 s");
    }

    #[tokio::test]
    async fn lines_are_bounded_while_they_are_read_and_show_their_escapes() {
        let output = [b"\x1b[2J\n".as_slice(), &vec![b'<'; 9 << 20], b"\nend"].concat();
        let mut lines = Vec::new();
        let mut reader = LineReader::new(output.as_slice());
        while let Some(more) = reader.next().await.unwrap() {
            lines.extend(more);
        }
        assert_eq!((lines.len(), lines[0].as_str(), lines[2].as_str()), (3, r"\u{1b}[2J", "end"));
        assert!(lines[1].len() <= MAX_LINE && lines[1].ends_with(" bytes cut)"), "{}", lines[1]);
    }

    #[tokio::test]
    async fn output_that_is_not_utf8_does_not_break_the_pipe() {
        let script =
            r"printf '\377\n' >&2; for n in 1 2 3; do head -c 100000 /dev/zero >&2 && echo >&2 || exit 1; done";
        let mut child = ChildProcess::spawn("sh", "TERM", "sh", &["-c", script]).expect("started");
        let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("it exits");
        assert_eq!(status, "exit status: 0");
    }
}
