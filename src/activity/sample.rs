//! What a sensor measures of a workspace.

use serde::{Deserialize, Serialize};

use super::claim::Claim;
use super::verdict::Verdict;

/// What a sensor has seen of a workspace since its previous sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sample {
    /// The time since the previous sample, in milliseconds; 0 in the first one, which has nothing to compare with.
    pub elapsed: u64,
    /// Browsers' open connections to code-server.
    pub connections: u32,
    /// CPU time that its processes have used, in milliseconds.
    pub cpu: u64,
    /// Bytes that its processes have read and written.
    pub io: u64,
    /// The memory of its processes, in bytes.
    pub memory: u64,
    /// The program in the foreground of a terminal in which something was typed.
    pub input: Option<String>,
    /// The program in the foreground of a terminal that has shown something new.
    pub output: Option<String>,
    /// The program that has used the most CPU time.
    pub busiest: Option<String>,
    /// Known programs, such as compilers, that have used CPU time.
    pub programs: Vec<Program>,
    /// Agents whose process no longer exists.
    pub gone: Vec<String>,
}

/// A known program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// CPU time that it has used since the previous sample, in milliseconds.
    pub cpu: u64,
}

/// What a sensor sends to the daemon: a sample, claims that were made since the last report, or both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Report {
    /// What was measured.
    pub sample: Option<Sample>,
    /// What programs in the workspace claim.
    pub claims: Vec<Claim>,
}

/// What the daemon responds to a sensor's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportResponse {
    /// What keeps the workspace, and what happens next.
    pub verdict: Verdict,
    /// What must be shown in the workspace's terminals now.
    pub announcement: Option<String>,
    /// Why claims of the report were refused.
    pub refused: Vec<String>,
    /// The seconds until the next report.
    pub next_report: u64,
}
