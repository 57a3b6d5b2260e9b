//! The registry that most people run.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::{KeyPair, Process, TokenServer, output};

/// What a registry asks of its clients; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    password: Option<(String, String)>,
    tokens: Option<(String, PathBuf)>,
    tls: Option<KeyPair>,
}

impl Terms {
    /// Asks for a user and a password, which are in a file that `htpasswd` makes.
    #[must_use]
    pub fn password(mut self, user: &str, password: &str) -> Self {
        self.password = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Asks for tokens that this server signs.
    #[must_use]
    pub fn tokens(mut self, server: &TokenServer) -> Self {
        self.tokens = Some((server.realm(), server.certificate()));
        self
    }

    /// Speaks HTTPS alone.
    #[must_use]
    pub fn tls(mut self, pair: KeyPair) -> Self {
        self.tls = Some(pair);
        self
    }
}

/// A running `docker-registry`; it is killed, and its storage removed, when this is dropped.
pub struct DockerRegistry(Process);

impl DockerRegistry {
    /// Starts a registry with empty storage, open to everybody.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&Terms::default())
    }

    /// Starts a registry with empty storage.
    pub fn start_with(terms: &Terms) -> io::Result<Self> {
        Process::start(|address, directory| {
            let config = directory.join("config.yml");
            fs::write(&config, configuration(address, directory, terms)?)?;
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(config);
            Ok(command)
        })
        .map(Self)
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.0.address.to_string()
    }

    /// Returns the reference `docker://HOST/REST`.
    pub fn reference(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.host())
    }

    /// Forgets all content, so that the next upload is a first one again.
    ///
    /// The registry caches nothing in memory here, so its files are all there is.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.storage()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the directory that all content is in.
    pub fn storage(&self) -> PathBuf {
        self.0.path("data")
    }
}

fn configuration(address: SocketAddr, directory: &Path, terms: &Terms) -> io::Result<String> {
    let mut text = format!(
        "version: 0.1\n\
         log:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n",
        directory.join("data").display()
    );
    if let Some(pair) = &terms.tls {
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let _ = write!(text, "  tls:\n    certificate: {certificate}\n    key: {key}\n");
    }
    if let Some((user, password)) = &terms.password {
        let file = directory.join("htpasswd");
        let arguments = ["-Bbn", user, password].map(OsStr::new);
        fs::write(&file, output("htpasswd", &arguments, b"")?)?;
        let _ = write!(
            text,
            "auth:\n  htpasswd:\n    realm: diolkos-tests\n    path: {}\n",
            file.display()
        );
    }
    if let Some((realm, certificate)) = &terms.tokens {
        let _ = write!(
            text,
            "auth:\n  token:\n    realm: {realm}\n    service: {0}\n    issuer: {0}\n    \
             rootcertbundle: {1}\n",
            TokenServer::NAME,
            certificate.display()
        );
    }
    Ok(text)
}
