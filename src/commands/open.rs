//! `csm open`.

use std::process::{Command, ExitCode, Stdio};

use super::{Failure, Target, block_on};

pub(super) fn run(target: &Target) -> Result<ExitCode, Failure> {
    let found = block_on(target.client.find(&target.workspace))?;
    println!("{}", found.url);
    if ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some()) {
        // The address is already printed, so a browser that does not start is not a failure.
        let quiet = || Stdio::null();
        let _ = Command::new("xdg-open").arg(&found.url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    }
    Ok(ExitCode::SUCCESS)
}
