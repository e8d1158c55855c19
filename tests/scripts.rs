//! What the project's shell scripts say and do where that needs no demo: reasons and fixes when something is missing, progress.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::{TempDir, tempdir};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(path: &str) -> Command {
    let mut command = Command::new(root().join(path));
    command.env_remove("CSM_DEMO_ACCOUNT").stdin(Stdio::null());
    command
}

fn bash(code: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euc", code]).current_dir(root()).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("bash runs");
    (status.success(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// A directory for PATH that has only these programs.
fn only(programs: &[&str]) -> TempDir {
    let directory = tempdir().expect("a directory");
    for program in programs {
        let found = ["/usr/bin", "/bin"].iter().map(|place| Path::new(place).join(program)).find(|path| path.exists());
        symlink(found.unwrap_or_else(|| panic!("{program} is installed")), directory.path().join(program))
            .expect("a link");
    }
    directory
}

#[test]
fn the_modules_tests_name_each_program_that_is_missing_and_its_package() {
    let path = only(&["bash", "dirname", "id", "paste"]);
    let mut why_not = script("tests/nix/run");
    // Whoever runs these tests may have a tree.
    why_not.arg("--why-not").env("PATH", path.path()).env_remove("CSM_NIXOS_TREE");
    let (succeeded, reasons, _) = run(&mut why_not);
    assert!(!succeeded);
    for reason in [
        "nix is not installed: apt-get install nix-bin",
        "shellcheck is not installed: apt-get install shellcheck",
        "which is not a prepared NixOS module tree: export CSM_NIXOS_TREE=$(tests/nix/tree)",
    ] {
        assert!(reasons.contains(reason), "{reason} is not in: {reasons}");
    }
    assert_eq!(reasons.lines().count(), 1, "make test shows it on one line: {reasons}");
}

#[test]
fn the_module_tree_that_is_not_there_is_one_line_with_the_fix() {
    let (succeeded, tree, reason) = run(script("tests/nix/tree").env("CSM_NIXOS_SHIM", "/nonexistent"));
    assert!(!succeeded);
    assert_eq!(tree, "");
    assert_eq!(
        reason,
        "can't prepare the NixOS module tree: /nonexistent/setup does not exist; set CSM_NIXOS_SHIM to the directory that has it\n"
    );
}

#[test]
fn a_first_disk_for_guests_has_no_older_one_to_remove() {
    let cache = tempdir().expect("a directory");
    let places = cache.path().join("code-server-multi/guest");
    fs::create_dir_all(&places).expect("made");
    let remove = || run(bash(". vm-tests/guest/disk; remove_older /kept").env("XDG_CACHE_HOME", cache.path()));
    assert_eq!(remove(), (true, String::new(), String::new()));
    fs::create_dir(places.join("old")).expect("made");
    assert_eq!(remove(), (true, String::new(), String::new()));
    assert!(!places.join("old").exists(), "an older one is removed");
}

#[test]
fn demo_csm_without_a_demo_says_how_to_start_one() {
    let home = tempdir().expect("a directory");
    // Root's account for demos in tests; anybody else's demo would be in their home.
    let (succeeded, printed, error) =
        run(script("scripts/demo-csm").arg("status").env("CSM_DEMO_ACCOUNT", "csm-none").env("HOME", home.path()));
    assert!(!succeeded);
    assert_eq!(printed, "");
    assert!(error.starts_with("demo-csm: can't reach the demo: no demo of "), "{error}");
    assert!(
        error.ends_with("is running; start one with make demo, and run this when it has shown the addresses\n"),
        "{error}"
    );
}

#[test]
fn an_argument_that_a_script_would_ignore_is_refused() {
    let home = tempdir().expect("a directory");
    for path in ["scripts/demo", "scripts/demo-clean", "scripts/fuzz", "scripts/lint", "scripts/test"] {
        // Without a directory for programs, a script that ignored the argument could do nothing. The account does not exist either.
        let with = |argument: &str| {
            let mut command = script(path);
            let programs = only(&["bash", "dirname", "id", "sed"]);
            command.arg(argument).env_clear().env("PATH", programs.path()).env("HOME", home.path());
            run(command.env("CSM_DEMO_ACCOUNT", "csm-none"))
        };
        let (succeeded, printed, error) = with("--dry-run");
        assert!(!succeeded && printed.is_empty(), "{path}: {printed}");
        assert!(error.contains("can't use '--dry-run': it accepts only "), "{path}: {error}");
        let (succeeded, usage, error) = with("--help");
        assert!(succeeded && error.is_empty() && !usage.is_empty(), "{path}: {error}");
        let text = fs::read_to_string(root().join(path)).expect("read");
        assert!(usage.lines().all(|line| text.contains(&format!("\n# {line}\n"))), "{path}: {usage}");
    }
}

/// Waits for a job that writes to its log and then waits for a line on its standard input.
const JOB: &str = r#"
. images/debian/progress
log=$1
{ printf 'first\r\n  second of three \r'; read -r _; } >"$log" <&3 &
step "begun"
wait_for $! "$log"
step "ended"
"#;

#[test]
fn a_terminal_shows_what_goes_on_until_it_ends() {
    let directory = tempdir().expect("a directory");
    let (code, log) = (directory.path().join("job"), directory.path().join("log"));
    fs::write(&code, JOB).expect("written");
    let command = format!("bash -eu {} {} 3<&0", code.display(), log.display());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux, gives it a terminal");
    let mut output = terminal.stdout.take().expect("piped");
    let mut shown = String::new();
    while !shown.contains("second of three") {
        let mut part = [0; 1024];
        let length = output.read(&mut part).expect("readable");
        assert!(length > 0, "it ended with: {shown}");
        shown.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    terminal.stdin.take().expect("piped").write_all(b"\n").expect("written");
    output.read_to_string(&mut shown).expect("text");
    assert!(terminal.wait().expect("waited for").success());
    let last = shown.trim_end().rsplit("\r\u{1b}[K").next().unwrap_or_default();
    assert!(last.ends_with("s  ended"), "the last line is whole: {shown:?}");
}

#[test]
fn a_log_file_gets_whole_steps_alone() {
    let directory = tempdir().expect("a directory");
    let log = directory.path().join("log");
    let (succeeded, _, shown) = run(&mut bash(&format!("exec 3</dev/null; set -- {}\n{JOB}", log.display())));
    // `read` fails at the end of its input, and so does the job.
    assert!(!succeeded);
    assert_eq!(shown, "    0 s  begun\n");
}
