//! `csm why` and `csm keep`: what keeps a workspace, and keeping it for some time.

use std::process::ExitCode;

use hyper::Method;

use super::client::{Workspace, parse};
use super::{Client, Failure, Target, block_on};
use crate::activity::Verdict;
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
    let mut text = format!("{}: {}, {}\n", workspace.id, workspace.state, workspace.reason);
    let Some(Verdict { kept_by, waiting, idle, kept_for, .. }) = &workspace.activity else { return text };
    for keeper in kept_by {
        text += &format!("  kept: {keeper}\n");
    }
    if kept_by.is_empty() {
        text += &format!("  idle for {}\n", human_seconds(*idle));
    }
    for waiting in waiting {
        text += &format!("  {waiting}\n");
    }
    if let Some(seconds) = kept_for {
        text +=
            &format!("  without its owner it is kept for at most {} (autostop.maxLease)\n", human_seconds(*seconds));
    }
    let next = workspace.activity.as_ref().and_then(Verdict::next_step);
    text + &next.map_or_else(String::new, |next| format!("  {next}\n"))
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
