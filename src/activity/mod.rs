//! Decides from signals whether a workspace is at work, and what happens next if it is not.
//!
//! This layer is pure: no module of it does input or output, or reads the clock. Time is passed in as the time that the workspace has run
//! since the last call, so that no clock runs while the workspace is frozen or the host sleeps.

mod claim;
mod clocks;
mod sample;
#[cfg(test)]
mod tests;
mod verdict;

pub use claim::{Agent, AgentState, Claim, Lease, Refused};
pub use clocks::{Activity, Context, Decision, Phase};
pub use sample::{Program, Report, ReportResponse, Sample};
pub use verdict::{Because, Keeper, Next, Verdict, Waiting};
