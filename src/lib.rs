//! VS Code and coding agents in the browser, for a few dozen users on one host.
//!
//! Layers, each of which uses only the ones after it: `commands`, `http`, `daemon`, `adapters`, `ports`, then the pure ones: `plan` and
//! `access`, `model`. `ARCHITECTURE.md` describes how they work together.

pub mod access;
pub mod activity;
pub mod adapters;
pub mod commands;
pub mod daemon;
pub mod http;
pub mod model;
pub mod plan;
pub mod ports;
