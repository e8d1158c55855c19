//! `csm hash-password`.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use super::Failure;
use crate::adapters::{machine, passwords};

/// The most bytes of a password: a device never ends.
const MOST: u64 = 64 << 10;

pub(super) fn run() -> Result<ExitCode, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("type the password, then Enter (it is shown); or pipe it in");
    }
    let mut line = String::new();
    stdin
        .lock()
        .take(MOST)
        .read_line(&mut line)
        .map_err(|error| Failure::new(format!("can't read the password: {error}")))?;
    if line.len() as u64 == MOST {
        return Err(Failure::new("the password is too long; choose one of less than 64 KiB"));
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new("the password is empty; type one, or pipe it in: printf %s … | csm hash-password"));
    }
    let salt = machine::random().map_err(|error| Failure::new(format!("no random bytes: {error}")))?;
    let hash = passwords::hash(password, salt).map_err(|error| Failure::new(format!("can't hash it: {error}")))?;
    println!("{hash}");
    Ok(ExitCode::SUCCESS)
}
