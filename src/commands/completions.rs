//! `csm completions` and `csm man`: generated from the command line's definition.

use std::process::ExitCode;

use super::Failure;

pub(super) fn completions(command: &mut clap::Command, shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    clap_complete::generate(shell, command, "csm", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(command: clap::Command) -> Result<ExitCode, Failure> {
    let page = clap_mangen::Man::new(command).render(&mut std::io::stdout());
    page.map(|()| ExitCode::SUCCESS)
        .map_err(|error| Failure::new(format!("can't write the man page: {error}; check standard output")))
}
