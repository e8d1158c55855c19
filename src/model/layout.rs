//! Where everything lies on the host: the one place that knows.

use std::path::{Path, PathBuf};

use super::label::WorkspaceId;
use super::name::Name;
use super::text::AbsolutePath;

/// The directories of one running csm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Sockets and secrets: on a tmpfs, gone with the machine's next start. `/run/code-server-multi` on NixOS.
    pub run: PathBuf,
    /// What must survive: sessions and history.
    pub state: PathBuf,
    /// Files that ship with csm: `nginx/`, `workspace/`.
    pub share: PathBuf,
}

impl Layout {
    /// What the workspace itself can write: code-server binds its socket there.
    pub fn inside(&self, id: &WorkspaceId) -> PathBuf {
        self.workspace_run(id).join("inside")
    }

    /// code-server's socket as everyone else finds it: a second name that the workspace can't reach. Were it the first one, its
    /// owner could put a link to somebody else's socket there. The directory guards it, as code-server chmods it after listening.
    pub fn socket(&self, id: &WorkspaceId) -> PathBuf {
        self.workspace_run(id).join("http.sock")
    }

    fn workspace_run(&self, id: &WorkspaceId) -> PathBuf {
        self.run.join("ws").join(id.to_string())
    }

    /// The workspace's secrets, as files that only its account reads.
    pub fn secrets(&self, id: &WorkspaceId) -> PathBuf {
        self.run.join("secrets").join(id.to_string())
    }

    /// The socket of nginx's `auth_request` alone: may this request pass?
    pub fn question_socket(&self) -> PathBuf {
        self.run.join("question.sock")
    }

    /// The socket of the pages that nginx passes on: sign-in, wake page, dashboard.
    pub fn front_socket(&self) -> PathBuf {
        self.run.join("front.sock")
    }

    /// The socket of the API for the command line: whoever can open it is an admin.
    pub fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// Podman's service.
    pub fn podman_socket(&self) -> PathBuf {
        self.run.join("podman.sock")
    }

    /// nginx's configuration and temporary files.
    pub fn nginx(&self) -> PathBuf {
        self.run.join("nginx")
    }

    /// Held locked while a csm uses these directories.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Sessions and history.
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// The location block that every workspace host has.
    pub fn workspace_conf(&self) -> PathBuf {
        self.share.join("nginx/workspace.conf")
    }
}

/// An owner's home on the host.
pub fn home(base: &AbsolutePath, owner: &Name) -> PathBuf {
    owner_directory(base, owner).join("home")
}

/// What is mounted at `~/project` in an owner's `main`.
pub fn project(base: &AbsolutePath, owner: &Name) -> PathBuf {
    owner_directory(base, owner).join("workspace")
}

/// All of an owner's files.
pub fn owner_directory(base: &AbsolutePath, owner: &Name) -> PathBuf {
    Path::new(base.as_str()).join(owner.as_str())
}
