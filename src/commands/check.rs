//! `csm check`.

use std::path::Path;
use std::process::ExitCode;

use super::Failure;
use crate::adapters::manifest::{self, CheckScope, Loaded};
use crate::model::issue::has_errors;

pub(super) fn run(path: &Path, scope: CheckScope, json: bool) -> Result<ExitCode, Failure> {
    let Loaded { manifest, issues } = manifest::load(path, scope)?;
    if json {
        let text = serde_json::to_string_pretty(&issues).map_err(|error| Failure::new(error.to_string()))?;
        println!("{text}");
    } else {
        for issue in &issues {
            eprintln!("{}: {issue}", path.display());
        }
        if let Some(manifest) = manifest {
            let users = manifest.owners.len();
            println!("{}: valid; {users} {}", path.display(), if users == 1 { "user" } else { "users" });
        }
    }
    Ok(if has_errors(&issues) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
