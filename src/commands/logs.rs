//! `csm logs`.

use std::io::Write as _;
use std::process::ExitCode;

use hyper::Method;

use super::{Failure, Target, block_on};

pub(super) fn run(target: &Target, lines: usize, follow: bool) -> Result<ExitCode, Failure> {
    block_on(async {
        let path = format!("/api/v1/workspaces/{}/logs?lines={lines}&follow={follow}", target.workspace);
        let client = &target.client;
        let asked = client.ask(Method::GET, &path, String::new());
        // A log that is followed may be silent for days.
        let mut answer = if follow { asked.await? } else { client.in_time(asked).await? };
        loop {
            let next = async {
                let interrupted =
                    |error| Failure::new(format!("can't read more of the log: {error}; check that csm runs"));
                answer.next_line().await.map_err(interrupted)
            };
            let Some(line) = (if follow { next.await? } else { client.in_time(next).await? }) else { break };
            // A reader such as head has seen enough: no failure.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
