//! The paths of all files and sockets on the host. No other module builds them.

use std::path::{Path, PathBuf};

use super::label::WorkspaceId;
use super::name::Name;
use super::text::AbsolutePath;

/// The directories that a running csm uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Sockets and secrets, on a tmpfs, which is empty after the host restarts. `/run/code-server-multi` on NixOS.
    pub run: PathBuf,
    /// Data that must survive a restart of the host: sessions and history.
    pub state: PathBuf,
    /// Files that ship with csm: `nginx/`, `workspace/`.
    pub share: PathBuf,
}

impl Layout {
    /// The directory that the workspace itself can write; code-server binds its socket in it.
    pub fn inside(&self, id: &WorkspaceId) -> PathBuf {
        self.workspace_run(id).join("inside")
    }

    /// The path at which nginx and csm open code-server's socket: a hard link in a directory that the workspace can't reach. In
    /// [`Self::inside`], the owner could replace the socket with a link to another user's. The directory's permissions protect the
    /// link, because code-server changes the socket's own after it listens.
    pub fn socket(&self, id: &WorkspaceId) -> PathBuf {
        self.workspace_run(id).join("http.sock")
    }

    fn workspace_run(&self, id: &WorkspaceId) -> PathBuf {
        self.run.join("ws").join(id.to_string())
    }

    /// The workspace's secrets, in files that only its account can read.
    pub fn secrets(&self, id: &WorkspaceId) -> PathBuf {
        self.run.join("secrets").join(id.to_string())
    }

    /// The socket that serves only nginx's `auth_request`: whether a request is allowed.
    pub fn question_socket(&self) -> PathBuf {
        self.run.join("question.sock")
    }

    /// The socket that serves pages to nginx: sign-in, wake page, dashboard.
    pub fn front_socket(&self) -> PathBuf {
        self.run.join("front.sock")
    }

    /// The socket that serves the API to the command line. Anyone who can open it is an admin.
    pub fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// The socket on which launchers report their workspaces' activity to the daemon.
    pub fn activity_socket(&self) -> PathBuf {
        self.run.join("activity.sock")
    }

    /// The workspace's own socket, in the directory that the workspace can write.
    pub fn control_socket(&self, id: &WorkspaceId) -> PathBuf {
        self.inside(id).join("control.sock")
    }

    /// The socket of Podman's service.
    pub fn podman_socket(&self) -> PathBuf {
        self.run.join("podman.sock")
    }

    /// The directory of nginx's configuration and temporary files.
    pub fn nginx(&self) -> PathBuf {
        self.run.join("nginx")
    }

    /// The file that a running csm locks, so that no second one uses the same directories.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The SQLite database with sessions and history.
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// The nginx file that the server block of each workspace includes.
    pub fn workspace_conf(&self) -> PathBuf {
        self.share.join("nginx/workspace.conf")
    }
}

/// A user's home directory on the host.
pub fn home(base: &AbsolutePath, owner: &Name) -> PathBuf {
    owner_directory(base, owner).join("home")
}

/// The directory on the host that is mounted at `~/project` in a user's `main`.
pub fn project(base: &AbsolutePath, owner: &Name) -> PathBuf {
    owner_directory(base, owner).join("workspace")
}

/// The directory that contains all files of a user.
pub fn owner_directory(base: &AbsolutePath, owner: &Name) -> PathBuf {
    Path::new(base.as_str()).join(owner.as_str())
}
