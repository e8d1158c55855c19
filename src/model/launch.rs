//! What a launcher tells systemd of its workspace, and the daemon reads there: the unit's status text, and how the launcher exits.

use std::fmt;

use super::issue::Invalid;
use super::label::WorkspaceId;
use super::name::Name;
use super::printed;
use super::size::Bytes;
use super::workspace::Progress;

/// A unit's status text. People read it too, in `systemctl status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// On its way up.
    Starting(Progress),
    /// code-server answers.
    Ready {
        /// The digest of the specification that the container was made from.
        digest: String,
        /// How many processes the kernel has killed for lack of memory.
        killed: u64,
        /// Bytes of the home and the project, once they have been measured.
        disk: Option<u64>,
    },
    /// It was asked to end.
    Stopping,
    /// It could not start, or ended by itself. The text is for people.
    Failed(String),
}

/// The instance of an owner's template unit that is their declared workspace. No project can have this name.
const MAIN: &str = "main";

const READY: &str = "ready, made from ";
const KILLED: &str = ", processes killed for lack of memory: ";
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
            // systemd takes a line, and nothing that does not show.
            Self::Failed(why) => write!(f, "{FAILED}{}", printed::to_one_line(why)),
        }
    }
}

impl Status {
    /// Reads what [`fmt::Display`] wrote. `None` for anything else, such as what another version of csm wrote.
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

/// How a launcher exits, besides 0: it ended as it was asked to. After sysexits(3), and what shells say of a process that was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// code-server, or what stands in its place, ended by itself.
    Crash = 70,
    /// The image can't be had, or what it is to run is not in it.
    Image = 69,
    /// code-server did not answer in time.
    Silent = 75,
    /// Something that the manifest names, such as a secret, can't be used.
    Config = 78,
    /// The kernel ended the workspace because its memory ran out.
    OutOfMemory = 137,
}

/// How a container ended, from the exit code of `podman run`.
pub fn ended(code: i32, out_of_memory: bool, memory: Bytes) -> (Exit, String) {
    match code {
        137 if out_of_memory => {
            let why = format!(
                "memory ran out: the kernel ended it at its limit of {memory}; raise memoryLimit, or run less at a time"
            );
            (Exit::OutOfMemory, why)
        }
        125 => (Exit::Image, "podman could not start the container; its log tells why".to_owned()),
        126 | 127 => (Exit::Image, "the image has not what it is to run; its log tells why".to_owned()),
        code => (Exit::Crash, format!("it ended by itself with exit code {code}; its log may tell why")),
    }
}

/// What to say of a launcher that could not say it itself, from systemd's `Result` and the exit code.
pub fn without_words(result: &str, code: i32) -> String {
    match result {
        "oom-kill" => "memory ran out, and the kernel ended its launcher".to_owned(),
        "timeout" => "it took too long to start or to stop, so systemd ended it".to_owned(),
        "signal" | "core-dump" => format!("signal {code} ended its launcher"),
        "exit-code" => format!("its launcher ended with exit code {code}"),
        "resources" => {
            "systemd could not run it: its files, its credentials or the machine's memory lack; the journal tells which"
                .to_owned()
        }
        other => format!("systemd says: {other}; the journal tells more"),
    }
}

/// What to say of a workspace that still runs after the kernel killed some of its processes.
pub fn oom_warning(killed: u64) -> Option<String> {
    let processes = match killed {
        0 => return None,
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    };
    Some(format!("out of memory: the kernel killed {processes}; raise memoryLimit, or run less at a time"))
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
    fn what_is_written_is_read() {
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
    fn units_are_instances_of_their_owners_templates() {
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
    fn a_bad_image_a_crash_and_lack_of_memory_are_told_apart() {
        let limit: Bytes = "1G".parse().expect("a size");
        let (exit, why) = ended(137, true, limit);
        assert_eq!(exit, Exit::OutOfMemory);
        assert!(why.contains("its limit of 1G"), "{why}");
        assert_eq!(ended(137, false, limit).0, Exit::Crash);
        assert_eq!(ended(1, true, limit).0, Exit::Crash);
        assert_eq!(ended(125, false, limit).0, Exit::Image);
        assert_eq!(ended(127, false, limit).0, Exit::Image);
    }
}
