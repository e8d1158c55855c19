//! Pure: the words of the domain as types that cannot hold a bad value.
//!
//! Nothing here does input or output, knows the time, or uses another layer.

pub mod container;
pub mod digest;
pub mod endpoint;
pub mod issue;
pub mod label;
pub mod launch;
pub mod layout;
pub mod manifest;
pub mod name;
pub mod printed;
pub mod secret_file;
pub mod settings;
pub mod size;
pub mod text;
pub mod workspace;
