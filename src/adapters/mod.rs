//! The edges: systemd, Podman, nginx, files, SQLite, the clock. Each adapts one thing to what the daemon needs.

pub mod account;
pub mod cgroup;
pub mod children;
pub mod disk;
pub mod files;
pub mod machine;
pub mod manifest;
pub mod nginx;
pub mod passwords;
pub mod podman;
pub mod preflight;
pub mod prepare;
pub mod ready;
mod slots;
pub mod state;
pub mod systemd;
pub mod unix_http;
pub mod watch;
