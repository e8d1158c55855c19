//! `csm plan`.

use std::path::Path;
use std::process::ExitCode;

use hyper::Method;
use serde::Deserialize;

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
    let body = block_on(async {
        let answer = client.ask(Method::POST, "/api/v1/plan", text).await?;
        answer.body().await.map_err(|error| Failure::new(format!("csm's answer broke off: {error}")))
    })?;
    let other = |error| Failure::new(format!("csm's answer was not understood ({error}); are both of one version?"));
    let planned: Planned = serde_json::from_slice(&body).map_err(other)?;
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
