//! Programs that live and die with this one.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A program by its name: from `PATH`, or from where administrators' programs are, which ordinary accounts have not in theirs.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found =
        std::env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| program.into())
}

/// A program that the kernel ends when csm dies, however it dies.
pub struct Tied {
    name: &'static str,
    child: Child,
    /// Its process group, which it leads.
    group: Option<Pid>,
}

impl Tied {
    /// Starts it. What it prints goes to the log. `signal` is what it gets when csm dies: `TERM`, `QUIT`.
    pub fn spawn(name: &'static str, signal: &str, program: &str, arguments: &[&str]) -> io::Result<Self> {
        // setpriv (util-linux) sets the parent-death signal and becomes the program: the same process id, and no unsafe code here.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", signal, "--"])
            .arg(find(program))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal goes to csm, which stops its children in order.
            .process_group(0)
            .spawn()?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(async move {
                // Any bytes: a reader that ends early breaks the pipe, and with it the program.
                let mut lines = BufReader::new(stderr).split(b'\n');
                while let Ok(Some(line)) = lines.next_segment().await {
                    tracing::debug!(program = name, "{}", String::from_utf8_lossy(&line));
                }
            });
        }
        let group = raw_pid(&child);
        Ok(Self { name, child, group })
    }

    /// The process id, until it has ended.
    pub fn pid(&self) -> Option<Pid> {
        raw_pid(&self.child)
    }

    /// Sends a signal to the processes that it started and that have outlived it.
    pub fn signal_orphans(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Mostly there are none.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Waits for its end, and tells how that came.
    pub async fn wait(&mut self) -> String {
        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.pid() {
            Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
            None => Err(io::Error::other(format!("{} has ended", self.name))),
        }
    }

    /// Ends it: politely, and after 5 s not so.
    pub async fn stop(mut self) {
        let _ = self.signal(Signal::TERM);
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            tracing::warn!(program = self.name, "it did not end in 5 s; killing it");
            let _ = self.child.kill().await;
        }
    }
}

fn raw_pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_prints_no_text_can_still_print() {
        let script =
            r"printf '\377\n' >&2; for n in 1 2 3; do head -c 100000 /dev/zero >&2 && echo >&2 || exit 1; done";
        let mut child = Tied::spawn("sh", "TERM", "sh", &["-c", script]).expect("started");
        let how = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("it ends");
        assert_eq!(how, "exit status: 0");
    }
}
