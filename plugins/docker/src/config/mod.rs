//! The files that say how registries are reached, and where they are.
//!
//! - [`places`]: the directories and variables that the others start from; nothing else reads the
//!   environment, so that tests can have a world of their own.
//! - [`registries_conf`]: mirrors, blocked and insecure registries, credential helpers, short names.
//! - [`registries_d`]: where signatures are, apart from their images.
//! - [`tls_details`]: which versions, ciphers and groups of TLS may be spoken.
//! - [`certs`]: where the certificates of a registry are.
//! - [`text`] and [`yaml`]: reading and parsing, within limits.
//!
//! Each parser is a function of a text and the path that its messages name. What is odd but no
//! error becomes a note, for the log of whoever wonders why a setting has no effect.

pub(crate) mod certs;
pub(crate) mod places;
pub(crate) mod registries_conf;
// Signatures will ask for these.
#[allow(dead_code)]
pub(crate) mod registries_d;
mod text;
pub(crate) mod tls_details;
mod yaml;
