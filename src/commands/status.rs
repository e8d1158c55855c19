//! `csm status`.

use std::process::ExitCode;

use hyper::Method;

use super::client::Workspace;
use super::{Client, Failure, block_on, table};
use crate::adapters::machine;
use crate::model::label::WorkspaceId;
use crate::model::size::human_bytes;
use crate::model::workspace::human_seconds;

const LIST: &str = "/api/v1/workspaces?measure=true";

pub(super) fn run(workspace: Option<&WorkspaceId>, client: &Client, json: bool) -> Result<ExitCode, Failure> {
    block_on(async {
        if let Some(id) = workspace {
            client.find(id).await?;
        }
        if json {
            let path = workspace.map_or_else(|| LIST.to_owned(), |id| format!("/api/v1/workspaces/{id}"));
            println!("{}", String::from_utf8_lossy(&client.fetch(Method::GET, &path, String::new()).await?));
            return Ok(ExitCode::SUCCESS);
        }
        let mut all: Vec<Workspace> = client.get(LIST).await?;
        if let Some(id) = workspace {
            all.retain(|workspace| workspace.id == id.to_string());
        }
        let header = ["WORKSPACE", "STATE", "SINCE", "MEMORY", "REASON"].map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> = std::iter::once(header).chain(all.iter().map(row)).collect();
        print!("{}", table::render(&rows));
        Ok(ExitCode::SUCCESS)
    })
}

fn row(workspace: &Workspace) -> Vec<String> {
    let since = machine::now().saturating_sub(workspace.since.unwrap_or(workspace.at));
    let used = workspace.usage.as_ref().map_or_else(|| "–".to_owned(), |usage| human_bytes(usage.memory));
    let memory = format!("{used} of {}", human_bytes(workspace.limits.memory.get()));
    let pending = if workspace.update_pending { " (update pending)" } else { "" };
    let failure = workspace.failure.as_ref().map_or_else(String::new, |failure| format!(": {failure}"));
    vec![
        workspace.id.clone(),
        workspace.state.clone(),
        human_seconds(since),
        memory,
        format!("{}{failure}{pending}", workspace.reason),
    ]
}
