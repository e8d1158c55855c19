//! `csm start`, `stop`, `restart`: ask, then wait for the outcome.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;

use super::client::Workspace;
use super::{Failure, Target, block_on};

/// How often to look whether it is done.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn run(target: &Target, verb: &str) -> Result<ExitCode, Failure> {
    block_on(async {
        let path = format!("/api/v1/workspaces/{}", target.workspace);
        target.client.ask(Method::POST, &format!("{path}/{verb}"), String::new()).await?;
        loop {
            let now: Workspace = target.client.get(&path).await?;
            match (verb, now.state.as_str()) {
                ("stop", "stopped") | ("start" | "restart", "running") => {
                    println!("{}: {}", now.id, now.state);
                    return Ok(ExitCode::SUCCESS);
                }
                (_, "failed") => {
                    for line in &now.log {
                        eprintln!("  {line}");
                    }
                    return Err(Failure::new(format!("{}: {}: {}", now.id, now.reason, now.failure)));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    })
}
