//! `csm logs`.

use std::io::Write as _;
use std::process::ExitCode;

use hyper::Method;

use super::{Failure, Target, block_on};

pub(super) fn run(target: &Target, lines: usize, follow: bool) -> Result<ExitCode, Failure> {
    block_on(async {
        let path = format!("/api/v1/workspaces/{}/logs?lines={lines}&follow={follow}", target.workspace);
        let mut answer = target.client.ask(Method::GET, &path, String::new()).await?;
        let broke = |error| Failure::new(format!("the log broke off: {error}"));
        while let Some(line) = answer.next_line().await.map_err(broke)? {
            // A reader such as head has seen enough: no failure.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
