//! What plugins share that reach servers.
//!
//! - [`failures`]: why a request got no answer.
//! - [`tls`]: which certificates are believed, and which are shown; [`x509`] reads them.
//! - [`proxies`]: the ways around.
//! - [`sending`]: a request whose body grows while it is sent.
//!
//! Nothing here sends a request; what a server is asked, and how often, is each plugin's own.

pub mod failures;
pub mod proxies;
pub mod sending;
pub mod tls;
mod x509;
