//! Decides who may do what, and from which host.
//!
//! This layer is pure: no module of it does input or output, or reads the clock.

pub mod cookies;
pub mod handshake;
pub mod limiter;
pub mod request;
pub mod session;
pub mod site;
pub mod token;
