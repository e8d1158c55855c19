//! `csm doctor`.

use std::process::ExitCode;

use super::Failure;

pub(super) fn run(_json: bool) -> Result<ExitCode, Failure> {
    Err(Failure::new("not yet"))
}
