//! `csm start`, `freeze`, `stop`, `restart`: ask, and wait for the outcome.

use std::process::ExitCode;

use hyper::Method;

use super::client::Workspace;
use super::{Failure, Target, block_on};

pub(super) fn run(target: &Target, verb: &str) -> Result<ExitCode, Failure> {
    let path = format!("/api/v1/workspaces/{}/{verb}?wait=true", target.workspace);
    let now: Workspace = block_on(target.client.json(Method::POST, &path))?;
    if now.state == "failed" {
        for line in &now.log {
            eprintln!("  {line}");
        }
        let failure = now.failure.map_or_else(String::new, |failure| format!(": {failure}"));
        return Err(Failure::new(format!("{}: {}{failure}", now.id, now.reason)));
    }
    println!("{}: {}", now.id, now.state);
    // Somebody else may have wanted otherwise meanwhile.
    let wanted = match verb {
        "freeze" => "frozen",
        "stop" => "stopped",
        _ => "running",
    };
    let reached = now.state == wanted;
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
