//! What a launcher reports about its workspace: the unit's status text, which the daemon reads from systemd, and the exit code.

use std::fmt;

use super::issue::Invalid;
use super::label::WorkspaceId;
use super::name::Name;
use super::printed;
use super::size::Bytes;
use super::workspace::Progress;

/// The account of an owner's workspaces, where systemd runs them.
pub fn account_name(owner: &Name) -> String {
    format!("csm-{owner}")
}

/// A unit's status text. People read it too, in `systemctl status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It is starting.
    Starting(Progress),
    /// code-server responds.
    Ready {
        /// The digest of the specification that the container was made from.
        digest: String,
        /// How many processes the kernel has killed because the workspace was out of memory.
        killed: u64,
        /// Bytes of the home and the project, once they have been measured.
        disk: Option<u64>,
    },
    /// It was asked to stop.
    Stopping,
    /// It could not start, or exited without being asked to. The text is for people.
    Failed(String),
}

/// The instance of an owner's template unit that runs their declared workspace. A project can't have this name.
const MAIN: &str = "main";

const READY: &str = "ready, made from ";
const KILLED: &str = ", out-of-memory kills: ";
const DISK: &str = ", bytes on disk: ";
const STOPPING: &str = "stopping";
const FAILED: &str = "failed: ";

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(progress) => progress.fmt(f),
            Self::Ready { digest, killed, disk } => {
                write!(f, "{READY}{digest}")?;
                if *killed > 0 {
                    write!(f, "{KILLED}{killed}")?;
                }
                disk.map_or(Ok(()), |bytes| write!(f, "{DISK}{bytes}"))
            }
            Self::Stopping => f.write_str(STOPPING),
            // A status text is one line of printable characters.
            Self::Failed(why) => write!(f, "{FAILED}{}", printed::to_one_line(why)),
        }
    }
}

impl Status {
    /// Parses what [`fmt::Display`] wrote. `None` for any other text, such as one of another version of csm.
    pub fn read(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix(READY) {
            let (rest, disk) = match rest.split_once(DISK) {
                Some((rest, bytes)) => (rest, Some(bytes.parse().ok()?)),
                None => (rest, None),
            };
            let (digest, killed) = rest.split_once(KILLED).unwrap_or((rest, "0"));
            return Some(Self::Ready { digest: digest.to_owned(), killed: killed.parse().ok()?, disk });
        }
        if let Some(why) = text.strip_prefix(FAILED) {
            return Some(Self::Failed(why.to_owned()));
        }
        if text == STOPPING {
            return Some(Self::Stopping);
        }
        let percent = text.strip_prefix("pulling image ").and_then(|rest| rest.strip_suffix(" %")?.parse().ok());
        let steps = [Progress::Queued, Progress::Creating, Progress::Waiting];
        let steps = steps.into_iter().chain([Progress::Pulling { percent: None }, Progress::Pulling { percent }]);
        steps.into_iter().find(|step| step.to_string() == text).map(Self::Starting)
    }
}

/// The exit codes of a launcher, except 0 (it stopped as requested). They follow sysexits(3), and shells' 128 + signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// code-server, or the image's own program, exited without being asked to.
    Crash = 70,
    /// The image can't be pulled, or its container can't start.
    Image = 69,
    /// code-server did not respond in time.
    Silent = 75,
    /// Something that the manifest names, such as a secret, can't be used.
    Config = 78,
    /// The kernel killed the workspace at its memory limit.
    OutOfMemory = 137,
}

/// How a container exited, from the exit code of `podman run`.
pub fn describe_exit(code: i32, out_of_memory: bool, memory: Bytes) -> (Exit, String) {
    match code {
        137 if out_of_memory => {
            let why = format!(
                "out of memory: killed at the {memory} limit; raise memoryLimit, or run fewer programs at a time"
            );
            (Exit::OutOfMemory, why)
        }
        125 => (Exit::Image, "podman can't start the container; see the log".to_owned()),
        126 | 127 => (Exit::Image, "code-server or sh is missing from the image or can't run; see the log".to_owned()),
        code => (Exit::Crash, format!("exited with code {code}; see the log")),
    }
}

/// Describes how a launcher exited that left no status text, from systemd's `Result` and the exit code.
pub fn describe_result(result: &str, code: i32) -> String {
    match result {
        "oom-kill" => "out of memory: the kernel killed the launcher; raise memoryLimit".to_owned(),
        "timeout" => {
            "timed out: systemd killed it because it took too long to start or to stop; see the journal".to_owned()
        }
        "signal" | "core-dump" => format!("the launcher was killed by signal {code}; see the journal"),
        "exit-code" => format!("the launcher exited with code {code}; see the journal"),
        "resources" => {
            "systemd can't start it: a file or credential is missing, or the host is out of memory; see the journal"
                .to_owned()
        }
        other => format!("systemd reports: {other}; see the journal"),
    }
}

/// The warning for a workspace that still runs after the kernel killed some of its processes.
pub fn oom_warning(killed: u64) -> Option<String> {
    let processes = match killed {
        0 => return None,
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    };
    Some(format!("out of memory: the kernel killed {processes}; raise memoryLimit, or run fewer programs at a time"))
}

/// The name of a workspace's unit: an instance of its owner's template.
pub fn unit_name(id: &WorkspaceId) -> String {
    format!("code-server-{}@{}.service", id.owner, id.project.as_ref().map_or(MAIN, Name::as_str))
}

/// The workspace of a unit, if it is one of ours.
pub fn workspace_of(unit: &str) -> Option<WorkspaceId> {
    let (owner, instance) = unit.strip_prefix("code-server-")?.strip_suffix(".service")?.split_once('@')?;
    let owner = owner.parse().ok()?;
    let project = if instance == MAIN { None } else { Some(instance.parse().ok()?) };
    Some(WorkspaceId { owner, project })
}

/// The workspace whose launcher this is, from the name of the unit that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LauncherUnit(pub WorkspaceId);

impl std::str::FromStr for LauncherUnit {
    type Err = Invalid;

    fn from_str(unit: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            Invalid::new("not the unit of a workspace", "write it as \"code-server-dan@main.service\", or %n in a unit")
        };
        workspace_of(unit).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_text_is_parsed_as_written() {
        for status in [
            Status::Starting(Progress::Queued),
            Status::Starting(Progress::Pulling { percent: None }),
            Status::Starting(Progress::Pulling { percent: Some(40) }),
            Status::Starting(Progress::Creating),
            Status::Starting(Progress::Waiting),
            Status::Ready { digest: "5f3a".into(), killed: 0, disk: None },
            Status::Ready { digest: "5f3a".into(), killed: 3, disk: None },
            Status::Ready { digest: "5f3a".into(), killed: 0, disk: Some(0) },
            Status::Ready { digest: "5f3a".into(), killed: 3, disk: Some(4096) },
            Status::Stopping,
            Status::Failed("the secret /x is empty".into()),
        ] {
            assert_eq!(Status::read(&status.to_string()), Some(status));
        }
        for other in ["", "ready", "pulling image x %", "pulling image 400 %"] {
            assert_eq!(Status::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_workspaces_unit_is_an_instance_of_its_owners_template() {
        for (unit, id) in
            [("code-server-anna-lena@main.service", "anna-lena"), ("code-server-dan@api.service", "api--dan")]
        {
            let id: WorkspaceId = id.parse().expect("an id");
            assert_eq!(unit_name(&id), unit);
            assert_eq!(workspace_of(unit), Some(id));
        }
        for other in
            ["code-server-multi.service", "code-server-@main.service", "code-server-dan@.service", "x@main.service"]
        {
            assert_eq!(workspace_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_launcher_runs_the_workspace_of_its_own_unit() {
        let unit = "code-server-dan@api.service".parse::<LauncherUnit>().expect("a unit");
        assert_eq!(unit.0.to_string(), "api--dan");
        for other in ["dan", "code-server-multi.service", "code-server-dan@.service"] {
            let why = other.parse::<LauncherUnit>().expect_err(other).to_string();
            assert!(why.contains("not the unit of a workspace") && why.contains("%n"), "{other}: {why}");
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        let status = Status::Failed("a\nREADY=1\x1b[31m".into());
        assert_eq!(status.to_string(), r"failed: a READY=1\u{1b}[31m");
    }

    #[test]
    fn a_bad_image_a_crash_and_out_of_memory_have_different_exit_codes() {
        let limit: Bytes = "1G".parse().expect("a size");
        let (exit, why) = describe_exit(137, true, limit);
        assert_eq!(exit, Exit::OutOfMemory);
        assert!(why.contains("the 1G limit"), "{why}");
        assert_eq!(describe_exit(137, false, limit).0, Exit::Crash);
        assert_eq!(describe_exit(1, true, limit).0, Exit::Crash);
        assert_eq!(describe_exit(125, false, limit).0, Exit::Image);
        assert_eq!(describe_exit(127, false, limit).0, Exit::Image);
    }
}
