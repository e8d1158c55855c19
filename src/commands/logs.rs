//! `csm logs`.

use std::io::Write as _;
use std::process::ExitCode;

use hyper::Method;

use super::{Failure, Target, block_on};

pub(super) fn run(target: &Target, lines: usize, follow: bool) -> Result<ExitCode, Failure> {
    block_on(async {
        let path = format!("/api/v1/workspaces/{}/logs?lines={lines}&follow={follow}", target.workspace);
        let client = &target.client;
        client.find(&target.workspace).await?;
        let request = client.send(Method::GET, &path, String::new());
        // Without a timeout while following: a workspace may print nothing for days.
        let mut response = if follow { request.await? } else { client.with_timeout(request).await? };
        loop {
            let next = async {
                let interrupted =
                    |error| Failure::new(format!("can't continue reading the log: {error}; check that csm runs"));
                response.next_line().await.map_err(interrupted)
            };
            let Some(line) = (if follow { next.await? } else { client.with_timeout(next).await? }) else { break };
            // A reader such as head closed the pipe, which is not a failure.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
