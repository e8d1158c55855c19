//! `csm hash-password`.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use super::Failure;
use crate::adapters::{machine, passwords};

pub(super) fn run() -> Result<ExitCode, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("type the password, then Enter (it is shown); or pipe it in");
    }
    let mut line = String::new();
    // Nobody's password is longer, and a device never ends.
    stdin
        .lock()
        .take(64 << 10)
        .read_line(&mut line)
        .map_err(|error| Failure::new(format!("can't read the password: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new("the password is empty; type one, or pipe it in: printf %s … | csm hash-password"));
    }
    let salt = machine::random().map_err(|error| Failure::new(format!("no random bytes: {error}")))?;
    let hash = passwords::hash(password, salt).map_err(|error| Failure::new(format!("can't hash it: {error}")))?;
    println!("{hash}");
    Ok(ExitCode::SUCCESS)
}
