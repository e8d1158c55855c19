//! VS Code and coding agents in the browser, for a few dozen people on one machine.
//!
//! Layers, each using only those below it: `commands`, `http`, `daemon`, `adapters`, `ports`, then the pure ones: `plan` and
//! `access`, `model`. `ARCHITECTURE.md` tells how they work together.

pub mod access;
pub mod adapters;
pub mod commands;
pub mod daemon;
pub mod http;
pub mod model;
pub mod plan;
pub mod ports;
