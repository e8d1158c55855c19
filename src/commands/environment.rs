//! Finds the directories of this process, and loads manifests for subcommands.

use std::env;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::adapters::manifest::{self, CheckScope, Loaded};
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;

/// The directories: for a service those that systemd created, otherwise the account's XDG base directories.
pub(super) fn layout() -> Result<Layout, Failure> {
    Ok(Layout { run: run_directory()?, state: state_directory()?, share: share_directory()? })
}

/// The absolute path in an environment variable.
pub(super) fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The directory of the running csm's sockets.
pub(super) fn run_directory() -> Result<PathBuf, Failure> {
    // A launcher has two: RUNTIME_DIRECTORY is only its own, CSM_RUN_DIRECTORY is the daemon's.
    path_variable("CSM_RUN_DIRECTORY")
        .or_else(|| path_variable("RUNTIME_DIRECTORY"))
        .or_else(|| path_variable("XDG_RUNTIME_DIR").map(|path| path.join("code-server-multi")))
        .ok_or_else(|| {
            let fix = "log in as this account, or set it to a directory on a tmpfs that only this account can enter";
            Failure::new(format!("XDG_RUNTIME_DIR is not set; {fix}"))
        })
}

fn state_directory() -> Result<PathBuf, Failure> {
    path_variable("STATE_DIRECTORY")
        .or_else(|| path_variable("XDG_STATE_HOME").map(|path| path.join("code-server-multi")))
        .or_else(|| path_variable("HOME").map(|path| path.join(".local/state/code-server-multi")))
        .ok_or_else(|| Failure::new("neither XDG_STATE_HOME nor HOME is set; set HOME to the account's home"))
}

/// The directory of the files that ship with csm: next to the installed binary, or in the source tree that csm was built from.
fn share_directory() -> Result<PathBuf, Failure> {
    let program = env::current_exe().and_then(|path| path.canonicalize());
    let program = program.map_err(|error| {
        Failure::new(format!("can't find csm's own path: {error}; mount /proc, and don't replace csm while it starts"))
    })?;
    let candidates = program
        .ancestors()
        .skip(2)
        .take(2)
        .flat_map(|prefix| [prefix.join("share/code-server-multi"), prefix.join("share")]);
    let found = candidates
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join("share")])
        .find(|share| share.join("nginx/workspace.conf").is_file());
    found.ok_or_else(|| {
        let binary = program.display();
        Failure::new(format!(
            "can't find the files that ship with csm; install share/ in the directory above that of {binary}"
        ))
    })
}

/// Loads a valid manifest. Prints its warnings; its errors are the failure.
pub(super) fn load_valid(path: &Path, scope: CheckScope) -> Result<Manifest, Failure> {
    valid(path, manifest::load(path, scope)?)
}

/// The manifest in what was loaded. Prints its warnings; its errors are the failure.
pub(super) fn valid(path: &Path, loaded: Loaded) -> Result<Manifest, Failure> {
    for issue in &loaded.issues {
        eprintln!("{}: {issue}", path.display());
    }
    loaded
        .manifest
        .ok_or_else(|| Failure::new(format!("can't use {}: it is invalid; fix the errors above", path.display())))
}
