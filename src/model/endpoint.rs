//! Where a workspace answers.

use std::path::PathBuf;

/// Where a workspace answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The unix socket that nginx passes requests to.
    pub socket: PathBuf,
}
