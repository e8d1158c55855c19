//! The domain's types, which can't hold an invalid value.
//!
//! This layer is pure: no module of it does input or output, reads the clock, or uses another layer.

pub mod autostop;
pub mod container;
pub mod digest;
pub mod endpoint;
pub mod event;
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
pub mod span;
pub mod text;
pub mod workspace;
