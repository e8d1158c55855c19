//! `csm check`.

use std::path::Path;
use std::process::ExitCode;

use super::environment::Against;
use super::{Failure, environment};
use crate::model::issue::refused;

pub(super) fn run(path: &Path, against: Against, json: bool) -> Result<ExitCode, Failure> {
    let (manifest, issues) = environment::load(path, against)?;
    if json {
        let text = serde_json::to_string_pretty(&issues).map_err(|error| Failure::new(error.to_string()))?;
        println!("{text}");
    } else {
        for issue in &issues {
            eprintln!("{}: {issue}", path.display());
        }
        if let Some(manifest) = manifest {
            let people = manifest.owners.len();
            println!("{}: sound; {people} {}", path.display(), if people == 1 { "person" } else { "people" });
        }
    }
    Ok(if refused(&issues) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
