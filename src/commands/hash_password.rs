//! `csm hash-password`.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use super::{Failure, random_failure};
use crate::adapters::{machine, passwords};

/// The maximum length of a password. Without it, reading from a device would never end.
const MAX_BYTES: u64 = 64 << 10;

pub(super) fn run() -> Result<ExitCode, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("type the password (the terminal shows it) and press Enter; or pipe it in");
    }
    let mut line = String::new();
    stdin
        .lock()
        .take(MAX_BYTES)
        .read_line(&mut line)
        .map_err(|error| Failure::new(format!("can't read the password: {error}; pipe it in as text")))?;
    if line.len() as u64 == MAX_BYTES {
        return Err(Failure::new("can't hash the password: it is too long; choose one shorter than 64 KiB"));
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new(
            "can't hash the password: it is empty; type one, or pipe it in: printf %s … | csm hash-password",
        ));
    }
    let salt = machine::random().map_err(random_failure)?;
    let failed = |error| Failure::new(format!("can't hash the password: {error}; choose another one"));
    let hash = passwords::hash(password, salt).map_err(failed)?;
    println!("{hash}");
    Ok(ExitCode::SUCCESS)
}
