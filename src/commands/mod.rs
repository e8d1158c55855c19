//! The command line: parses arguments and connects the adapters. One file for each subcommand.

mod check;
mod client;
mod completions;
mod control;
mod daemon;
mod doctor;
mod environment;
mod events;
mod hash_password;
mod launch;
mod logs;
mod open;
mod plan;
mod schema;
mod sense;
mod serve;
mod shell;
mod status;
mod table;
mod tasks;
mod up;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser};

use crate::adapters::manifest::{CheckScope, ManifestError};
use crate::model::label::WorkspaceId;
use crate::model::launch::LauncherUnit;
use crate::model::span::Span;

/// VS Code and coding agents in the browser, for a few dozen users on one host.
#[derive(Parser)]
#[command(name = "csm", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    subcommand: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Run the daemon, nginx and the workspaces in the foreground, without systemd. Ctrl-C stops them all.
    Up(ManifestFile),
    /// Run only the daemon; systemd runs nginx and the workspaces.
    Daemon(ManifestFile),
    /// Run one workspace in the foreground. A workspace's systemd unit runs this.
    Launch {
        #[command(flatten)]
        file: ManifestFile,
        /// The unit that runs it (%n), which names the workspace: code-server-OWNER@main.service.
        unit: LauncherUnit,
    },
    /// Check a manifest and print all its errors and warnings. Exit status 1 on errors.
    Check {
        #[command(flatten)]
        file: ManifestFile,
        /// Check only the text, because the manifest is for another host.
        #[arg(long)]
        text_only: bool,
        /// Print the issues as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the manifest, or its reference.
    Schema {
        /// Print the reference, as Markdown.
        #[arg(long)]
        markdown: bool,
    },
    /// Show what a manifest would change, without applying it.
    Plan {
        #[command(flatten)]
        file: ManifestFile,
        #[command(flatten)]
        client: Client,
        /// Print the changes as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the workspaces: state, reason, memory.
    Status {
        /// Show only this workspace: its owner's name.
        workspace: Option<WorkspaceId>,
        #[command(flatten)]
        client: Client,
        /// Print the workspaces as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what keeps a workspace from being frozen or stopped, and what happens next.
    Why {
        #[command(flatten)]
        target: Target,
        /// Print the verdict as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keep a workspace from being frozen or stopped for idleness.
    Keep {
        #[command(flatten)]
        target: Target,
        /// For how long, such as 2h; by default 2 hours.
        time: Option<Span>,
    },
    /// Start a workspace and wait until its editor responds.
    Start(Target),
    /// Freeze a running workspace until its owner's next visit or "csm start".
    Freeze(Target),
    /// Stop a workspace and wait until it has stopped.
    Stop(Target),
    /// Stop and start a workspace, and wait until its editor responds.
    Restart(Target),
    /// Show what a workspace printed.
    Logs {
        #[command(flatten)]
        target: Target,
        /// The number of lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        /// Follow the log.
        #[arg(short, long)]
        follow: bool,
    },
    /// Show what happened to workspaces, and who signed in.
    Events {
        /// Show only the events of this workspace: its owner's name.
        workspace: Option<WorkspaceId>,
        #[command(flatten)]
        client: Client,
        /// The number of events, at most 1000.
        #[arg(short = 'n', long, default_value_t = 30)]
        count: usize,
        /// Follow the events.
        #[arg(short, long)]
        follow: bool,
        /// Print the events as lines of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a workspace's address, and open it in a browser if there is a desktop.
    Open(Target),
    /// Open a shell or run a command in a running workspace.
    Shell {
        /// The workspace: its owner's name.
        workspace: WorkspaceId,
        /// The command; by default a shell in tmux.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Check that this host and account can run workspaces, and show how to fix what is missing.
    Doctor {
        /// Also check the version of code-server in this manifest's images.
        #[arg(value_name = "MANIFEST")]
        manifest: Option<PathBuf>,
        /// Print the checks as JSON.
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

/// Names a manifest.
#[derive(Args)]
struct ManifestFile {
    /// The manifest: a JSON file; docs/manifest.md describes its fields.
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
}

/// Sends requests to the running csm.
#[derive(Args)]
struct Client {
    /// The socket of the running csm.
    #[arg(long, env = "CSM_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Names a workspace of the running csm.
#[derive(Args)]
struct Target {
    /// The workspace: its owner's name.
    workspace: WorkspaceId,
    #[command(flatten)]
    client: Client,
}

/// Why a command failed. [`main`] prints it.
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

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.subcommand {
        Subcommand::Up(file) => up::run(&file.manifest),
        Subcommand::Daemon(file) => daemon::run(&file.manifest),
        Subcommand::Launch { file, unit } => launch::run(&file.manifest, &unit.0),
        Subcommand::Check { file, text_only, json } => {
            let scope = if text_only { CheckScope::Text } else { CheckScope::Files };
            check::run(&file.manifest, scope, json)
        }
        Subcommand::Schema { markdown } => schema::run(markdown),
        Subcommand::Plan { file, client, json } => plan::run(&file.manifest, &client, json),
        Subcommand::Status { workspace, client, json } => status::run(workspace.as_ref(), &client, json),
        Subcommand::Why { target, json } => why::why(&target, json),
        Subcommand::Keep { target, time } => why::keep(&target, time),
        Subcommand::Start(target) => control::run(&target, "start"),
        Subcommand::Freeze(target) => control::run(&target, "freeze"),
        Subcommand::Stop(target) => control::run(&target, "stop"),
        Subcommand::Restart(target) => control::run(&target, "restart"),
        Subcommand::Logs { target, lines, follow } => logs::run(&target, lines, follow),
        Subcommand::Events { workspace, client, count, follow, json } => {
            events::run(events::Wanted { workspace: workspace.as_ref(), count, follow, json }, &client)
        }
        Subcommand::Open(target) => open::run(&target),
        Subcommand::Shell { workspace, command } => shell::run(&workspace, &command),
        Subcommand::Doctor { manifest, json } => doctor::run(manifest.as_deref(), json),
        Subcommand::HashPassword => hash_password::run(),
        Subcommand::Completions { shell } => completions::completions(&mut Cli::command(), shell),
        Subcommand::Man => completions::man(Cli::command()),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("csm: {failure}");
        ExitCode::FAILURE
    })
}

/// Describes a kernel that gives no random bytes.
fn random_failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("can't get random bytes from the kernel: {error}; check that seccomp allows getrandom"))
}

/// Fails if the account is root: root never starts containers.
fn refuse_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        let fix = "run csm as an unprivileged account: set User= in its unit, or run \"make demo\", which creates one";
        return Err(Failure::new(format!("refusing to run as root; {fix}")));
    }
    Ok(())
}

/// Runs a future until it completes. One thread is enough, because csm mostly waits for input and output.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error| {
        let fix = "check the account's limits of open files and processes";
        Failure::new(format!("can't start the asynchronous runtime: {error}; {fix}"))
    };
    runtime.map_err(failed)?.block_on(work)
}

/// Sets up the log on standard error. `RUST_LOG` selects what is logged; the journal adds the time.
fn log() {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time();
    // Tests call this more than once in a process; the first call applies.
    let _ = log.try_init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_definition_is_valid() {
        super::Cli::command().debug_assert();
    }
}
