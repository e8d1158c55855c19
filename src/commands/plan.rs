//! `csm plan`.

use std::path::Path;
use std::process::ExitCode;

use hyper::Method;
use serde::Deserialize;

use super::client::parse;
use super::{Client, Failure, block_on, table};
use crate::adapters::manifest;
use crate::model::issue::{Issue, has_errors};

#[derive(Deserialize)]
struct Plan {
    issues: Vec<Issue>,
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    workspace: String,
    change: String,
}

impl Plan {
    /// The text for standard output: each change on a line. `None` if the manifest is invalid, so that nothing is planned.
    fn describe_changes(self) -> Option<String> {
        if has_errors(&self.issues) {
            return None;
        }
        let rows: Vec<_> = self.changes.into_iter().map(|change| vec![change.workspace, change.change]).collect();
        Some(if rows.is_empty() { "no changes\n".to_owned() } else { table::render(&rows) })
    }
}

pub(super) fn run(path: &Path, client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let text = manifest::read(path)?;
    let body = block_on(client.fetch(Method::POST, "/api/v1/plan", text))?;
    let plan: Plan = parse(&body)?;
    if !json {
        for issue in &plan.issues {
            eprintln!("{}: {issue}", path.display());
        }
    }
    let changes = plan.describe_changes();
    if json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        print!("{}", changes.as_deref().unwrap_or_default());
    }
    Ok(if changes.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(issues: &[Issue]) -> Option<String> {
        let plan = serde_json::json!({ "issues": issues, "changes": [] });
        parse::<Plan>(plan.to_string().as_bytes()).unwrap().describe_changes()
    }

    #[test]
    fn an_invalid_manifest_has_no_changes_to_show() {
        assert_eq!(described(&[Issue::error("", "", "the manifest is empty", "write it")]), None);
        assert_eq!(described(&[Issue::warning("a", "", "odd", "change it")]).as_deref(), Some("no changes\n"));
    }
}
