//! `csm doctor`: what rootless Podman and nginx need of this machine and account, and the remedy for what is missing.

mod checks;
pub(super) mod subids;

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{Failure, environment};
use crate::adapters::manifest::CheckScope;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Good,
    /// Works, with something missing.
    Lacking,
    /// Workspaces won't start.
    Broken,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// Empty when it is good.
    remedy: String,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    fn lacking(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Lacking, found: found.into(), remedy: remedy.into() }
    }

    fn broken(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Broken, found: found.into(), remedy: remedy.into() }
    }
}

pub(super) fn run(manifest: Option<&Path>, json: bool) -> Result<ExitCode, Failure> {
    let mut findings = checks::machine();
    if let Some(path) = manifest {
        findings.extend(checks::images(&environment::load_valid(path, CheckScope::Files)?));
    }
    if json {
        let text = serde_json::to_string_pretty(&findings).map_err(|error| Failure::new(error.to_string()))?;
        println!("{text}");
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok     ",
                Verdict::Lacking => "lacking",
                Verdict::Broken => "BROKEN ",
            };
            println!("{mark}  {}: {}", finding.what, finding.found);
            if !finding.remedy.is_empty() {
                println!("           → {}", finding.remedy);
            }
        }
    }
    let broken = findings.iter().any(|finding| finding.verdict == Verdict::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
