//! Measures what happens in a workspace, from outside of it: connections, CPU time, terminals and programs. Nothing is asked of the
//! workspace's own programs, and nothing of theirs is executed.

mod process;
pub mod shown;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::cgroup::cpu_micros;
use crate::activity::{Program, Sample};
use crate::model::container::INSIDE_SOCKET;
use process::Process;

/// Programs that count as work while they use CPU, by the names that the kernel shows: at most 15 characters.
const KNOWN_PROGRAMS: &[&str] = &[
    "ar",
    "as",
    "bazel",
    "buck2",
    "bun",
    "cabal",
    "cargo",
    "cc1",
    "cc1plus",
    "clang",
    "clang++",
    "cmake",
    "collect2",
    "composer",
    "ctest",
    "dart",
    "deno",
    "docker",
    "dotnet",
    "esbuild",
    "ffmpeg",
    "g++",
    "gcc",
    "ghc",
    "git",
    "gleam",
    "go",
    "gradle",
    "java",
    "javac",
    "just",
    "kotlinc",
    "ld",
    "ld.lld",
    "link",
    "lld",
    "make",
    "meson",
    "mix",
    "mold",
    "mvn",
    "ninja",
    "nix",
    "nix-build",
    "nix-daemon",
    "npm",
    "pip",
    "pip3",
    "pnpm",
    "podman",
    "pytest",
    "rustc",
    "rustdoc",
    "sbt",
    "scons",
    "stack",
    "swift",
    "swiftc",
    "tar",
    "terraform",
    "tofu",
    "tsc",
    "uv",
    "xz",
    "yarn",
    "zig",
    "zstd",
];

/// The most known programs in a sample.
const MAX_PROGRAMS: usize = 4;

/// Below this use since the previous sample, in thousandths of a CPU, the processes are not looked at one by one: nothing works.
const QUIET: u64 = 5;

/// After this many samples they are looked at in any case, because new terminals are found that way.
const FULL_EVERY: u32 = 4;

/// Where a workspace's processes are found.
#[derive(Debug, Clone)]
pub enum Processes {
    /// In this cgroup: the container's.
    Cgroup(PathBuf),
    /// In the PID namespace of this process: the container's first.
    Namespace(u32),
}

/// A process that is recognised until it exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watched {
    pid: u32,
    started: u64,
}

impl Watched {
    fn of(pid: u32) -> Option<Self> {
        Process::read(pid).map(|it| Self { pid, started: it.started })
    }

    fn exists(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// A terminal: when it was last read from and written to.
#[derive(Debug, Clone, PartialEq)]
struct Terminal {
    /// A process through which its device is reached.
    pid: u32,
    program: String,
    times: (i64, i64),
}

/// Measures one workspace.
pub struct Sensor {
    processes: Processes,
    known: BTreeSet<String>,
    previous: Option<Instant>,
    /// CPU time of the whole cgroup at the previous sample, in microseconds.
    cgroup_cpu: u64,
    /// CPU time of each process when they were last looked at: own and children's, with the time of its start.
    cpu: HashMap<u32, (u64, u64, u64)>,
    io: HashMap<u32, u64>,
    terminals: BTreeMap<u32, Terminal>,
    agents: BTreeMap<String, Watched>,
    /// code-server's process.
    editor: Option<Watched>,
    until_full: u32,
}

impl Sensor {
    /// A sensor that also counts these programs as known.
    pub fn new(processes: Processes, programs: impl IntoIterator<Item = String>) -> Self {
        // The kernel cuts names after 15 bytes.
        let cut = |name: &str| String::from_utf8_lossy(&name.as_bytes()[..name.len().min(15)]).into_owned();
        let known = KNOWN_PROGRAMS.iter().map(|name| cut(name)).chain(programs.into_iter().map(|name| cut(&name)));
        Self {
            processes,
            known: known.collect(),
            previous: None,
            cgroup_cpu: 0,
            cpu: HashMap::new(),
            io: HashMap::new(),
            terminals: BTreeMap::new(),
            agents: BTreeMap::new(),
            editor: None,
            until_full: 0,
        }
    }

    /// Watches the process that an agent names, by its PID inside the workspace. False if there is none.
    pub fn watch_agent(&mut self, id: &str, inner: u32) -> bool {
        let found = self.pids().into_iter().find(|pid| process::inner_pid(*pid) == Some(inner));
        let Some(process) = found.and_then(Watched::of) else { return false };
        // The daemon keeps few agents; this map is cleaned with each sample.
        self.agents.insert(id.to_owned(), process);
        true
    }

    fn pids(&self) -> Vec<u32> {
        match &self.processes {
            Processes::Cgroup(cgroup) => {
                let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                list.lines().filter_map(|pid| pid.parse().ok()).collect()
            }
            Processes::Namespace(first) => process::in_namespace_of(*first),
        }
    }

    /// A process of the workspace, through which its network namespace is reached.
    fn any_pid(&self) -> Option<u32> {
        match &self.processes {
            Processes::Cgroup(_) => self.pids().first().copied(),
            Processes::Namespace(first) => Some(*first),
        }
    }

    /// How many connections to code-server's socket are open. In the namespace of nginx, which connects, the sockets of all workspaces have
    /// the same path: those of this workspace are the ones that its code-server has open.
    fn connections(&mut self, path: &str) -> u32 {
        let Some(editor) = self.editor(path) else { return 0 };
        let open = process::open_sockets(editor);
        let tables = [std::process::id(), editor].map(|pid| process::sockets(pid, path));
        let connected: BTreeSet<u64> =
            tables.iter().flatten().filter(|socket| !socket.listens).map(|socket| socket.inode).collect();
        u32::try_from(open.iter().filter(|inode| connected.contains(inode)).count()).unwrap_or(u32::MAX)
    }

    /// code-server's process: the one that listens on its socket.
    fn editor(&mut self, path: &str) -> Option<u32> {
        if let Some(editor) = self.editor.filter(Watched::exists) {
            return Some(editor.pid);
        }
        let sockets = process::sockets(self.any_pid()?, path);
        let listener = sockets.iter().find(|socket| socket.listens)?.inode;
        let pid = self.pids().into_iter().find(|pid| process::open_sockets(*pid).contains(&listener))?;
        self.editor = Watched::of(pid);
        Some(pid)
    }

    /// Measures what has happened since the previous call.
    pub fn sample(&mut self) -> Sample {
        let now = Instant::now();
        let elapsed = self.previous.replace(now).map_or(0, |previous| (now - previous).as_millis());
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let mut sample = Sample { elapsed, ..Sample::default() };
        let used = self.cgroup_usage(&mut sample);
        let is_quiet = used.is_some_and(|micros| micros / elapsed.max(1) < QUIET);
        if !is_quiet || self.until_full == 0 || elapsed == 0 {
            self.until_full = FULL_EVERY;
            self.look_at_processes(&mut sample);
        }
        self.until_full -= 1;
        self.look_at_terminals(&mut sample);
        sample.connections = self.connections(INSIDE_SOCKET);
        if let Some(micros) = used {
            sample.cpu = micros / 1000;
        }
        if elapsed == 0 {
            // There is nothing to compare with.
            (sample.cpu, sample.io, sample.input, sample.output) = (0, 0, None, None);
            (sample.busiest, sample.programs) = (None, Vec::new());
        }
        let agents = std::mem::take(&mut self.agents);
        let (alive, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = agents.into_iter().partition(|(_, it)| it.exists());
        self.agents = alive;
        sample.gone = gone.into_keys().collect();
        sample
    }

    /// The CPU time of the cgroup since the previous sample, in microseconds. `None` without a cgroup.
    fn cgroup_usage(&mut self, sample: &mut Sample) -> Option<u64> {
        let Processes::Cgroup(cgroup) = &self.processes else { return None };
        let total = cpu_micros(cgroup)?;
        let memory = fs::read_to_string(cgroup.join("memory.current")).unwrap_or_default();
        sample.memory = memory.trim().parse().unwrap_or(0);
        Some(total.saturating_sub(std::mem::replace(&mut self.cgroup_cpu, total)))
    }

    fn look_at_processes(&mut self, sample: &mut Sample) {
        let processes: Vec<Process> = self.pids().into_iter().filter_map(Process::read).collect();
        let per_second = rustix::param::clock_ticks_per_second();
        let millis = |ticks: u64| ticks * 1000 / per_second;
        let (cpu, io) = (std::mem::take(&mut self.cpu), std::mem::take(&mut self.io));
        let mut programs: BTreeMap<&str, u64> = BTreeMap::new();
        let mut busiest = (0, None);
        for it in &processes {
            let before = cpu.get(&it.pid).filter(|(_, _, started)| *started == it.started);
            let (own, children) = before.map_or((0, 0), |(own, children, _)| (*own, *children));
            let (own, children) = (it.own.saturating_sub(own), it.children.saturating_sub(children));
            sample.cpu += millis(own);
            if own > busiest.0 {
                busiest = (own, Some(it.name.clone()));
            }
            if self.known.contains(&it.name) && own + children > 0 {
                *programs.entry(&it.name).or_default() += millis(own + children);
            }
            // A process that has not run has read and written nothing.
            let io_before = io.get(&it.pid).copied();
            let io_now = if own > 0 || io_before.is_none() { process::io(it.pid).or(io_before) } else { io_before };
            sample.io += io_now.unwrap_or(0).saturating_sub(io_before.or(io_now).unwrap_or(0));
            self.io.extend(io_now.map(|bytes| (it.pid, bytes)));
            self.cpu.insert(it.pid, (it.own, it.children, it.started));
        }
        sample.busiest = busiest.1;
        sample.programs = programs.into_iter().map(|(name, cpu)| Program { name: name.to_owned(), cpu }).collect();
        sample.programs.sort_by_key(|program| std::cmp::Reverse(program.cpu));
        sample.programs.truncate(MAX_PROGRAMS);
        self.find_terminals(&processes);
    }

    /// Finds the terminals, each with the program in its foreground.
    fn find_terminals(&mut self, processes: &[Process]) {
        let mut found = BTreeMap::new();
        for it in processes {
            let Some((terminal, foreground)) = it.terminal else { continue };
            let leads = it.group == foreground;
            if leads || !found.contains_key(&terminal) {
                found.insert(terminal, (it.pid, it.name.clone()));
            }
        }
        // tmux draws its status line in the terminals of its clients all the time. What happens in them is seen in the terminals of its
        // panes.
        found.retain(|_, (_, program)| !program.starts_with("tmux"));
        self.terminals.retain(|terminal, _| found.contains_key(terminal));
        for (terminal, (pid, program)) in found {
            if let Some(known) = self.terminals.get_mut(&terminal) {
                (known.pid, known.program) = (pid, program);
            } else if let Some(times) = process::terminal_times(pid, terminal) {
                self.terminals.insert(terminal, Terminal { pid, program, times });
            }
        }
    }

    fn look_at_terminals(&mut self, sample: &mut Sample) {
        for (number, terminal) in &mut self.terminals {
            let Some(times) = process::terminal_times(terminal.pid, *number) else { continue };
            let before = std::mem::replace(&mut terminal.times, times);
            if times.0 != before.0 {
                sample.input = Some(terminal.program.clone());
            } else if times.1 != before.1 {
                sample.output = Some(terminal.program.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Stands in for a workspace's cgroup: a shell and what runs in it.
    struct Group(Child, PathBuf);

    impl Group {
        /// A shell in a terminal of its own, which runs what is written to it.
        fn shell(directory: &std::path::Path) -> Self {
            let mut script = Command::new("script");
            script
                .args(["--quiet", "--flush", "--command", "sh", "/dev/null"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            Self(script.spawn().expect("script runs"), directory.to_owned())
        }

        fn run(&mut self, line: &str) {
            let stdin = self.0.stdin.as_mut().expect("piped");
            stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).expect("written");
        }

        /// Lists the shell and what runs in it, as a cgroup would.
        fn list(&self) {
            let children = |pid: u32| {
                let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
            };
            let mut pids = children(self.0.id());
            let mut at = 0;
            while let Some(pid) = pids.get(at) {
                pids.extend(children(*pid));
                at += 1;
            }
            let text = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            fs::write(self.1.join("cgroup.procs"), text).expect("written");
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Samples until one has what is looked for, and writes `line` to the shell before each.
    fn wait(group: &mut Group, sensor: &mut Sensor, line: &str, found: impl Fn(&Sample) -> bool) -> Sample {
        for _ in 0..600 {
            group.run(line);
            group.list();
            let sample = sensor.sample();
            if found(&sample) {
                return sample;
            }
            // Nothing announces what `/proc` shows.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("it was not seen within 30 s");
    }

    #[test]
    fn terminals_programs_and_io_of_real_processes_are_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut group = Group::shell(directory.path());
        let mut sensor = Sensor::new(Processes::Cgroup(directory.path().to_owned()), ["dd".to_owned()]);
        wait(&mut group, &mut sensor, "", |sample| sample.elapsed > 0);
        // The kernel updates a terminal's times at most every 8 s.
        let typed = wait(&mut group, &mut sensor, ":\n", |sample| sample.input.is_some());
        assert_eq!(typed.input.as_deref(), Some("sh"));
        group.run("dd if=/dev/zero of=/dev/null bs=64k &\n");
        let busy = wait(&mut group, &mut sensor, "", |sample| !sample.programs.is_empty() && sample.io > 0);
        assert_eq!((busy.programs[0].name.as_str(), busy.busiest.as_deref()), ("dd", Some("dd")));
        assert!(busy.cpu > 0, "{busy:?}");
        wait(&mut group, &mut sensor, "kill %1 || exit\n", |sample| sample.elapsed > 40 && sample.programs.is_empty());
    }

    #[test]
    fn connections_to_the_workspaces_own_socket_are_counted() {
        use std::os::unix::net::{UnixListener, UnixStream};
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("http.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        fs::write(directory.path().join("cgroup.procs"), format!("{}\n", std::process::id())).expect("written");
        let mut sensor = Sensor::new(Processes::Cgroup(directory.path().to_owned()), []);
        let mut count = || sensor.connections(path.to_str().expect("a path"));
        assert_eq!(count(), 0);
        let clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).expect("connected")).collect();
        let accepted: Vec<_> = (0..3).map(|_| listener.accept().expect("accepted")).collect();
        assert_eq!(count(), 3);
        drop((clients, accepted));
        assert_eq!(count(), 0);
    }

    #[test]
    fn an_agents_process_is_watched_until_it_exits() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut agent = Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        fs::write(directory.path().join("cgroup.procs"), format!("{}\n", agent.id())).expect("written");
        let mut sensor = Sensor::new(Processes::Cgroup(directory.path().to_owned()), []);
        assert!(sensor.watch_agent("codex", agent.id()));
        assert!(!sensor.watch_agent("other", 4_000_000));
        assert!(sensor.sample().gone.is_empty());
        agent.kill().and_then(|()| agent.wait()).expect("killed");
        assert_eq!(sensor.sample().gone, ["codex"]);
        assert!(sensor.sample().gone.is_empty(), "it is reported once");
    }
}
