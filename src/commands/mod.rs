//! The command line: parses arguments and wires adapters together. One file a verb.

mod check;
mod client;
mod completions;
mod control;
mod daemon;
mod doctor;
mod environment;
mod hash_password;
mod launch;
mod logs;
mod open;
mod plan;
mod schema;
mod serve;
mod shell;
mod status;
mod table;
mod tasks;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::adapters::manifest::{CheckScope, ManifestError};
use crate::model::label::WorkspaceId;
use crate::model::launch::LauncherUnit;

/// VS Code and coding agents in the browser, for a few dozen people on one machine.
#[derive(Parser)]
#[command(name = "csm", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run everything in the foreground, without systemd: daemon, nginx and workspaces. Ctrl-C stops all of it.
    Up(ManifestFile),
    /// Run the daemon alone, behind an nginx that somebody else runs.
    Daemon(ManifestFile),
    /// Run one workspace in the foreground; this is what a workspace's systemd unit runs.
    Launch {
        #[command(flatten)]
        file: ManifestFile,
        /// The unit that runs it (%n), which names the workspace: code-server-OWNER@main.service.
        unit: LauncherUnit,
    },
    /// Check a manifest: all errors and warnings at once. Exit status 1 on errors.
    Check {
        #[command(flatten)]
        file: ManifestFile,
        /// Check the text alone: the manifest is for another machine.
        #[arg(long)]
        text_only: bool,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the manifest, or its reference for people.
    Schema {
        /// Print Markdown instead.
        #[arg(long)]
        markdown: bool,
    },
    /// Tell what a manifest would change in the running csm, without changing it.
    Plan {
        #[command(flatten)]
        file: ManifestFile,
        #[command(flatten)]
        client: Client,
        /// Print the changes as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the workspaces: state, reason, what they use.
    Status {
        /// Only this one.
        workspace: Option<WorkspaceId>,
        #[command(flatten)]
        client: Client,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Start a workspace and wait until its editor answers.
    Start(Target),
    /// Hold all processes of a running workspace where they are, until its owner's next visit or "csm start".
    Freeze(Target),
    /// Stop a workspace and wait until it has stopped.
    Stop(Target),
    /// Stop and start a workspace, and wait until its editor answers.
    Restart(Target),
    /// Show what a workspace printed.
    Logs {
        #[command(flatten)]
        target: Target,
        /// How many lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        /// Go on with what comes.
        #[arg(short, long)]
        follow: bool,
    },
    /// Print a workspace's address, and open it in a browser when there is one.
    Open(Target),
    /// Open a shell in a running workspace, or run a command there.
    Shell {
        /// The workspace: its owner's name.
        workspace: WorkspaceId,
        /// The command; without one, a shell in tmux.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Check that this machine and account can run workspaces, and say the remedy for what is missing.
    Doctor {
        /// Also check code-server's version in this manifest's images.
        #[arg(value_name = "MANIFEST")]
        manifest: Option<PathBuf>,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the argon2 hash of a password read from standard input, for a password file.
    HashPassword,
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
}

/// A manifest.
#[derive(Args)]
struct ManifestFile {
    /// The manifest: a JSON file; docs/manifest.md tells its fields.
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
}

/// The way to the running csm.
#[derive(Args)]
struct Client {
    /// The socket of the running csm.
    #[arg(long, env = "CSM_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// One workspace of the running csm.
#[derive(Args)]
struct Target {
    /// The workspace: its owner's name.
    workspace: WorkspaceId,
    #[command(flatten)]
    client: Client,
}

/// Why a command failed; printed once, by [`main`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl Failure {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self::new(error.to_string())
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Verb::Up(file) => up::run(&file.manifest),
        Verb::Daemon(file) => daemon::run(&file.manifest),
        Verb::Launch { file, unit } => launch::run(&file.manifest, &unit.0),
        Verb::Check { file, text_only, json } => {
            let scope = if text_only { CheckScope::Text } else { CheckScope::Files };
            check::run(&file.manifest, scope, json)
        }
        Verb::Schema { markdown } => schema::run(markdown),
        Verb::Plan { file, client, json } => plan::run(&file.manifest, &client, json),
        Verb::Status { workspace, client, json } => status::run(workspace.as_ref(), &client, json),
        Verb::Start(target) => control::run(&target, "start"),
        Verb::Freeze(target) => control::run(&target, "freeze"),
        Verb::Stop(target) => control::run(&target, "stop"),
        Verb::Restart(target) => control::run(&target, "restart"),
        Verb::Logs { target, lines, follow } => logs::run(&target, lines, follow),
        Verb::Open(target) => open::run(&target),
        Verb::Shell { workspace, command } => shell::run(&workspace, &command),
        Verb::Doctor { manifest, json } => doctor::run(manifest.as_deref(), json),
        Verb::HashPassword => hash_password::run(),
        Verb::Completions { shell } => completions::completions(&mut Cli::command(), shell),
        Verb::Man => completions::man(Cli::command()),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("csm: {failure}");
        ExitCode::FAILURE
    })
}

/// Containers are never started by root.
fn refuse_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        let remedy = "run it as an account of its own: User= in a unit, or \"make demo\", which makes one";
        return Err(Failure::new(format!("workspaces never run as root; {remedy}")));
    }
    Ok(())
}

/// Runs a future to its end, on one thread: everything that csm waits for is input and output.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(format!("can't start: {error}")))?.block_on(work)
}

/// Logs to standard error; `RUST_LOG` chooses what. systemd adds the time itself.
fn log() {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time();
    // A second call in one process (tests) keeps the first.
    let _ = log.try_init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
