//! `csm hash-password`.

use std::io::{BufRead, IsTerminal as _, Read as _};
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
    let password = read_password(stdin.lock().take(MAX_BYTES), stdin.is_terminal())?;
    let salt = machine::random().map_err(random_failure)?;
    let failed = |error| Failure::new(format!("can't hash the password: {error}; choose another one"));
    let hash = passwords::hash(&password, salt).map_err(failed)?;
    println!("{hash}");
    Ok(ExitCode::SUCCESS)
}

/// Reads a password: the first line that is typed in a terminal, otherwise all of the input, which must be one line.
fn read_password(mut input: impl BufRead, is_terminal: bool) -> Result<String, Failure> {
    let refused = |why: &str| Failure::new(format!("can't hash the password: {why}"));
    let mut text = String::new();
    let read = if is_terminal { input.read_line(&mut text) } else { input.read_to_string(&mut text) };
    read.map_err(|error| Failure::new(format!("can't read the password: {error}; pipe it in as text")))?;
    if text.len() as u64 == MAX_BYTES {
        return Err(refused("it is too long; choose one shorter than 64 KiB"));
    }
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(refused("it is empty; type one, or pipe it in: printf %s … | csm hash-password"));
    }
    if password.contains('\n') {
        return Err(refused("it has more than one line; pipe in only one"));
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, is_terminal: bool) -> Result<String, String> {
        read_password(text.as_bytes().take(MAX_BYTES), is_terminal).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_password_is_one_line() {
        assert_eq!(read("a pass phrase\r\n", false).as_deref(), Ok("a pass phrase"));
        assert_eq!(read("typed\nlater\n", true).as_deref(), Ok("typed"));
        for (text, why) in [("a\nb\n", "more than one line"), ("\n", "is empty"), ("", "is empty")] {
            assert!(read(text, false).unwrap_err().contains(why), "{text:?}");
        }
        assert!(read(&"x".repeat(70_000), false).unwrap_err().contains("too long"));
    }
}
