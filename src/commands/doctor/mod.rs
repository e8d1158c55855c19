//! `csm doctor`: checks what rootless Podman and nginx need of this host and account, and shows how to fix what is missing.

mod checks;
pub(super) mod subids;

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{Failure, environment};
use crate::adapters::manifest::CheckScope;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckStatus {
    /// Nothing is missing.
    Ok,
    /// Workspaces start, but something is missing.
    Warning,
    /// Workspaces can't start.
    Error,
}

/// A checked property of this host or account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    what: &'static str,
    status: CheckStatus,
    found: String,
    /// Empty if the status is ok.
    fix: String,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, status: CheckStatus::Ok, found: found.into(), fix: String::new() }
    }

    fn warning(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, status: CheckStatus::Warning, found: found.into(), fix: fix.into() }
    }

    fn error(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, status: CheckStatus::Error, found: found.into(), fix: fix.into() }
    }
}

pub(super) fn run(manifest: Option<&Path>, json: bool) -> Result<ExitCode, Failure> {
    let mut checks = checks::host();
    if let Some(path) = manifest {
        checks.extend(checks::images(&environment::load_valid(path, CheckScope::Files)?));
    }
    if json {
        let text = serde_json::to_string_pretty(&checks).map_err(|error| Failure::new(error.to_string()))?;
        println!("{text}");
    } else {
        for check in &checks {
            let status = match check.status {
                CheckStatus::Ok => "ok",
                CheckStatus::Warning => "warning",
                CheckStatus::Error => "error",
            };
            println!("{status:<7}  {}: {}", check.what, check.found);
            if !check.fix.is_empty() {
                println!("           → {}", check.fix);
            }
        }
    }
    let failed = checks.iter().any(|check| check.status == CheckStatus::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
