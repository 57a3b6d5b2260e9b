//! The host: everything that is not a transport.

pub mod cache;
pub mod cli;
pub mod compress;
pub mod copy;
pub mod image;
mod levels;
pub mod plugin;
pub mod trust;
mod user_namespace;
