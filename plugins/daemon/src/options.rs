//! What plugin.toml declares.

use std::path::PathBuf;

use diolkos_sdk::{Result, Session};

/// How the user wants a daemon to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Which daemon, in place of the one that Docker's own client would use.
    pub host: Option<String>,
    /// Where `ca.pem`, `cert.pem` and `key.pem` are.
    pub cert_dir: Option<PathBuf>,
    /// Whether certificates are verified; `None` when nothing was said.
    pub tls_verify: Option<bool>,
}

impl Options {
    /// Reads the options of a session.
    pub fn of(session: &Session) -> Result<Self> {
        let text = |name| session.options.get(name).filter(|value| !value.is_empty());
        Ok(Self {
            host: text("daemon-host").map(str::to_owned),
            cert_dir: text("cert-dir").map(PathBuf::from),
            tls_verify: session.options.flag("tls-verify")?,
        })
    }
}
