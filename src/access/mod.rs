//! Pure: who may do what, from which host. Nothing here does input or output, or knows the time.

pub mod cookies;
pub mod handshake;
pub mod limiter;
pub mod request;
pub mod session;
pub mod site;
pub mod token;
