//! The address of a running workspace's code-server.

use std::path::PathBuf;

/// The address at which a running workspace's code-server responds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The unix socket that nginx passes requests to.
    pub socket: PathBuf,
}
