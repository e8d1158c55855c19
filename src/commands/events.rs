//! `csm events`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use hyper::Method;

use super::client::parse;
use super::{Client, Failure, block_on};
use crate::model::event::Event;
use crate::model::label::WorkspaceId;

/// What to show.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) workspace: Option<&'a WorkspaceId>,
    pub(super) count: usize,
    pub(super) follow: bool,
    pub(super) json: bool,
}

pub(super) fn run(wanted: Wanted<'_>, client: &Client) -> Result<ExitCode, Failure> {
    block_on(async {
        let Wanted { workspace, count, follow, json } = wanted;
        let workspace = workspace.map(|id| format!("&workspace={id}")).unwrap_or_default();
        let path = format!("/api/v1/events?limit={count}&follow={follow}{workspace}");
        let request = client.send(Method::GET, &path, String::new());
        // Without a timeout while following: nothing may happen for days.
        let mut response = if follow { request.await? } else { client.with_timeout(request).await? };
        loop {
            let next = async {
                let interrupted =
                    |error| Failure::new(format!("can't continue reading events: {error}; check that csm runs"));
                response.next_line().await.map_err(interrupted)
            };
            let Some(line) = (if follow { next.await? } else { client.with_timeout(next).await? }) else { break };
            let line = if json { line } else { describe(&parse(line.as_bytes())?) };
            // A reader such as head closed the pipe, which is not a failure.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// An event as a line: the time, then what happened.
fn describe(event: &Event) -> String {
    // Years after 9999 can't be formatted.
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(event.at.min(253_402_300_799));
    format!("{}  {}", humantime::format_rfc3339_seconds(at), event.fact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_with_its_time() {
        let json = serde_json::json!({
            "id": 1, "at": 1_795_255_203, "kind": "stopped", "workspace": "dan", "user": null, "actor": "grace",
            "cause": "stopped by grace",
        });
        let mut event: Event = serde_json::from_value(json).expect("an event");
        assert_eq!(describe(&event), "2026-11-21T10:00:03Z  dan: stopped by grace");
        event.at = u64::MAX;
        assert!(describe(&event).starts_with("9999-12-31T23:59:59Z"));
    }
}
