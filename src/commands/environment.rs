//! Where this process finds its directories, and a manifest that it can use.

use std::env;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::adapters::manifest::{self, CheckScope, Loaded};
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;

/// The directories: systemd's for a service, else those of the account (XDG base directories).
pub(super) fn layout() -> Result<Layout, Failure> {
    Ok(Layout { run: run_directory()?, state: state_directory()?, share: share_directory()? })
}

/// An environment variable that holds an absolute path.
pub(super) fn given(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Sockets of the running csm.
pub(super) fn run_directory() -> Result<PathBuf, Failure> {
    // A launcher's own runtime directory is another than the one that everyone shares.
    given("CSM_RUN_DIRECTORY")
        .or_else(|| given("RUNTIME_DIRECTORY"))
        .or_else(|| given("XDG_RUNTIME_DIR").map(|path| path.join("code-server-multi")))
        .ok_or_else(|| {
            let remedy = "set it to a directory on a tmpfs that only this account can enter; a login session has one";
            Failure::new(format!("XDG_RUNTIME_DIR is not set; {remedy}"))
        })
}

fn state_directory() -> Result<PathBuf, Failure> {
    given("STATE_DIRECTORY")
        .or_else(|| given("XDG_STATE_HOME").map(|path| path.join("code-server-multi")))
        .or_else(|| given("HOME").map(|path| path.join(".local/state/code-server-multi")))
        .ok_or_else(|| Failure::new("neither XDG_STATE_HOME nor HOME is set; set HOME to the account's home"))
}

/// The files that ship with csm: beside the installed binary, or in the source tree that it was built in.
fn share_directory() -> Result<PathBuf, Failure> {
    let program = env::current_exe().and_then(|path| path.canonicalize());
    let program = program.map_err(|error| Failure::new(format!("can't find this program's own path: {error}")))?;
    let candidates = program
        .ancestors()
        .skip(2)
        .take(2)
        .flat_map(|prefix| [prefix.join("share/code-server-multi"), prefix.join("share")]);
    let found = candidates
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join("share")])
        .find(|share| share.join("nginx/workspace.conf").is_file());
    found.ok_or_else(|| {
        let beside = program.display();
        Failure::new(format!("the files that ship with csm are not there; install share/ as ../share beside {beside}"))
    })
}

/// A manifest that can be used.
pub(super) fn load_valid(path: &Path, scope: CheckScope) -> Result<Manifest, Failure> {
    valid(path, manifest::load(path, scope)?)
}

/// The manifest in what was loaded. Its warnings are printed; its errors are the failure.
pub(super) fn valid(path: &Path, loaded: Loaded) -> Result<Manifest, Failure> {
    for issue in &loaded.issues {
        eprintln!("{}: {issue}", path.display());
    }
    loaded.manifest.ok_or_else(|| Failure::new(format!("{} is refused; nothing was started", path.display())))
}
