//! Access to systemd, Podman, nginx, files, SQLite and the clock: each module adapts one of them to what the rest of csm needs.

pub mod account;
pub mod activity_socket;
pub mod cgroup;
pub mod children;
pub mod disk;
pub mod event_log;
pub mod files;
pub mod machine;
pub mod manifest;
pub mod nginx;
pub mod passwords;
pub mod podman;
pub mod preflight;
pub mod prepare;
pub mod ready;
pub mod sensor;
mod slots;
pub mod state;
pub mod systemd;
pub mod unix_http;
pub mod watch;
