//! `csm plan`.

use std::path::Path;
use std::process::ExitCode;

use hyper::Method;
use serde::Deserialize;

use super::client::parse;
use super::{Client, Failure, block_on, table};
use crate::adapters::manifest;

#[derive(Deserialize)]
struct Planned {
    issues: Vec<Finding>,
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Finding {
    severity: String,
    path: String,
    problem: String,
    remedy: String,
}

#[derive(Deserialize)]
struct Change {
    workspace: String,
    change: String,
}

pub(super) fn run(path: &Path, client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let text = manifest::read(path)?;
    let body = block_on(client.bytes(Method::POST, "/api/v1/plan", text))?;
    let planned: Planned = parse(&body)?;
    if json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        for found in &planned.issues {
            eprintln!("{}: {}: {}: {}; {}", path.display(), found.severity, found.path, found.problem, found.remedy);
        }
        let rows: Vec<_> = planned.changes.into_iter().map(|change| vec![change.workspace, change.change]).collect();
        print!("{}", if rows.is_empty() { "nothing changes\n".to_owned() } else { table::render(&rows) });
    }
    let refused = planned.issues.iter().any(|found| found.severity == "error");
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
