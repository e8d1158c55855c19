//! `csm plan`.

use std::path::Path;
use std::process::ExitCode;

use hyper::Method;
use serde::Deserialize;

use super::client::parse;
use super::{Client, Failure, block_on, table};
use crate::adapters::manifest;

#[derive(Deserialize)]
struct Plan {
    issues: Vec<Issue>,
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Issue {
    severity: String,
    path: String,
    problem: String,
    fix: String,
}

#[derive(Deserialize)]
struct Change {
    workspace: String,
    change: String,
}

pub(super) fn run(path: &Path, client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let text = manifest::read(path)?;
    let body = block_on(client.fetch(Method::POST, "/api/v1/plan", text))?;
    let plan: Plan = parse(&body)?;
    if json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        for issue in &plan.issues {
            eprintln!("{}: {}: {}: {}; {}", path.display(), issue.severity, issue.path, issue.problem, issue.fix);
        }
        let rows: Vec<_> = plan.changes.into_iter().map(|change| vec![change.workspace, change.change]).collect();
        print!("{}", if rows.is_empty() { "no changes\n".to_owned() } else { table::render(&rows) });
    }
    let invalid = plan.issues.iter().any(|issue| issue.severity == "error");
    Ok(if invalid { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
