//! `csm why` and `csm keep`: what keeps a workspace, and keeping it for some time.

use std::process::ExitCode;

use hyper::Method;

use super::client::{Workspace, parse};
use super::{Client, Failure, Target, block_on};
use crate::model::span::Span;
use crate::model::workspace::human_seconds;

pub(super) fn why(target: &Target, json: bool) -> Result<ExitCode, Failure> {
    let workspace = block_on(find(&target.client, target))?;
    if json {
        let text =
            serde_json::to_string_pretty(&workspace.activity).map_err(|error| Failure::new(error.to_string()))?;
        println!("{text}");
    } else {
        print!("{}", explain(&workspace));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn keep(target: &Target, time: Option<Span>) -> Result<ExitCode, Failure> {
    let time = time.map_or_else(|| "2h".to_owned(), |span| span.to_string().replace(' ', ""));
    let path = format!("/api/v1/workspaces/{}/keep?for={time}", target.workspace);
    let workspace: Workspace = block_on(async {
        let response = target.client.send(Method::POST, &path, String::new()).await?;
        parse(&target.client.read_body(response).await?)
    })?;
    print!("{}", explain(&workspace));
    Ok(ExitCode::SUCCESS)
}

async fn find(client: &Client, target: &Target) -> Result<Workspace, Failure> {
    client.get(&format!("/api/v1/workspaces/{}", target.workspace)).await
}

/// The state with its reason, then what keeps the workspace, each on a line.
fn explain(workspace: &Workspace) -> String {
    let mut lines = vec![format!("{}: {}, {}", workspace.id, workspace.state, workspace.reason)];
    if let Some(verdict) = &workspace.activity {
        lines.extend(verdict.kept_by.iter().map(|keeper| format!("  kept: {keeper}")));
        if verdict.kept_by.is_empty() {
            lines.push(format!("  idle for {}", human_seconds(verdict.idle)));
        }
        lines.extend(verdict.waiting.iter().map(|waiting| format!("  {waiting}")));
        if let Some(seconds) = verdict.kept_for {
            let left = human_seconds(seconds);
            lines.push(format!("  without its owner it is kept for at most {left} (autostop.maxLease)"));
        }
        lines.extend(verdict.next_step().map(|next| format!("  {next}")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_a_line() {
        let json = serde_json::json!({
            "id": "dan", "state": "running", "since": 1, "at": 1, "reason": "opened by dan", "failure": null, "log": [],
            "usage": null, "limits": { "memory": "3G" }, "updatePending": false, "url": "https://dan.x/",
            "activity": {
                "keptBy": [{ "kind": "agent", "name": "opencode", "seconds": 840 }, { "kind": "tab" }],
                "waiting": [{ "name": "codex", "state": "question", "seconds": 60 }], "idle": 0, "keptFor": 3600,
                "next": null,
            },
        });
        let workspace: Workspace = serde_json::from_value(json).expect("a workspace");
        insta::assert_snapshot!(explain(&workspace));
    }
}
