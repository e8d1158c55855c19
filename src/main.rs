//! `csm`: daemon, launcher and command line of code-server-multi.

use std::process::ExitCode;

fn main() -> ExitCode {
    code_server_multi::commands::main()
}
