//! Logs events: in the journal with a field for each part, or as lines on standard error.
//!
//! The journal's native protocol is one datagram of `FIELD=value` lines for each entry. All values are single lines, so that nothing
//! else of the protocol is needed.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::Value;

use crate::model::event::Event;

/// Where the journal listens.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Priorities of syslog(3).
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;

/// Where events are logged.
#[derive(Debug, Default)]
pub struct EventLog {
    /// The connection to the journal. Without it, events are lines of csm's log.
    journal: Option<UnixDatagram>,
}

impl EventLog {
    /// Uses the journal if that is where standard error goes, as it is for systemd's units. A terminal shows events as lines.
    pub fn open() -> Self {
        let journal = std::env::var("JOURNAL_STREAM").ok().filter(|stream| is_standard_error(stream));
        Self { journal: journal.and_then(|_| connect(Path::new(JOURNAL_SOCKET)).ok()) }
    }

    /// Logs an event. It never waits: if the journal does not take the event, it becomes a line.
    pub fn write(&self, event: &Event) {
        let sent = self.journal.as_ref().is_some_and(|journal| journal.send(entry(event).as_bytes()).is_ok());
        if sent {
            return;
        }
        let fact = &event.fact;
        if fact.kind.is_warning() {
            tracing::warn!(event = event.id, "{fact}");
        } else {
            tracing::info!(event = event.id, "{fact}");
        }
    }
}

/// Whether this device and inode are those of standard error; see systemd.exec(5).
fn is_standard_error(stream: &str) -> bool {
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

fn connect(socket: &Path) -> std::io::Result<UnixDatagram> {
    let journal = UnixDatagram::unbound()?;
    journal.set_nonblocking(true)?;
    journal.connect(socket)?;
    Ok(journal)
}

/// An event as an entry of the journal. Each field of its JSON is one of the entry: `workspace` is `CSM_WORKSPACE`.
fn entry(event: &Event) -> String {
    let kind = &event.fact.kind;
    let priority = if kind.is_warning() { WARNING } else { INFORMATIONAL };
    let mut entry = format!(
        "MESSAGE={}\nMESSAGE_ID={}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=csm\n",
        event.fact,
        kind.message_id()
    );
    if let Ok(Value::Object(fields)) = serde_json::to_value(event) {
        for (name, value) in fields {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            let _ = writeln!(entry, "CSM_{}={text}", name.to_ascii_uppercase());
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Actor, Fact, Kind, Line};

    fn failed(failure: &str) -> Event {
        let fact = Fact::of_workspace("dan".parse().expect("an id"), Kind::Failed { failure: Line::new(failure) });
        Event { id: 7, at: 100, fact: fact.by(Some(Actor::CommandLine)).because("starting failed") }
    }

    #[test]
    fn the_journal_gets_a_field_for_each_part_and_no_other_fields_from_a_hostile_text() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        let receiver = UnixDatagram::bind(&socket).expect("bound");
        let log = EventLog { journal: Some(connect(&socket).expect("connected")) };
        log.write(&failed("bad\nMESSAGE_ID=0\n_UID=0\u{1b}[31m"));
        let mut bytes = [0; 10_000];
        let length = receiver.recv(&mut bytes).expect("received");
        let text = std::str::from_utf8(&bytes[..length]).expect("text");
        let id = failed("").fact.kind.message_id();
        let failure = r"bad MESSAGE_ID=0 _UID=0\u{1b}[31m";
        assert_eq!(
            text,
            format!(
                "MESSAGE=dan: failed (starting failed): {failure}\nMESSAGE_ID={id}\nPRIORITY=4\nSYSLOG_IDENTIFIER=csm\nCSM_ID=7\n\
                 CSM_AT=100\nCSM_KIND=failed\nCSM_FAILURE={failure}\nCSM_WORKSPACE=dan\nCSM_ACTOR=the command line\n\
                 CSM_CAUSE=starting failed\n"
            )
        );
    }

    #[test]
    fn a_journal_that_takes_nothing_delays_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        let _receiver = UnixDatagram::bind(&socket).expect("bound");
        let log = EventLog { journal: Some(connect(&socket).expect("connected")) };
        // More than a socket buffers.
        for _ in 0..10_000 {
            log.write(&failed("again"));
        }
    }

    #[test]
    fn only_the_journals_own_stream_is_one() {
        assert!(!is_standard_error("0:0"));
        let file = std::fs::metadata("/proc/self/fd/2").expect("standard error");
        assert!(is_standard_error(&format!("{}:{}", file.dev(), file.ino())));
    }
}
