//! A private certificate authority, made with the `openssl` program.

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use tempfile::TempDir;

use super::output;

/// What the authority and its certificates are for.
const CONFIGURATION: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = diolkos tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, DNS:registry.test, IP:127.0.0.1, IP:127.0.0.2
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
";

/// A certificate authority that nobody but a test trusts.
pub struct Authority {
    directory: TempDir,
    issued: Cell<u32>,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The certificate, in PEM form.
    pub certificate: PathBuf,
    /// The key, in PEM form.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority.
    pub fn new() -> io::Result<Self> {
        let authority = Self { directory: tempfile::tempdir()?, issued: Cell::new(0) };
        // Each has a name of its own, by which certificates tell who issued them.
        let name = authority.directory.path().file_name().unwrap_or_default().to_string_lossy();
        let configuration = CONFIGURATION.replace("diolkos tests", &format!("tests of {name}"));
        fs::write(authority.path("configuration"), configuration)?;
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-config",
            "configuration",
            "-extensions",
            "authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ])?;
        Ok(authority)
    }

    /// Returns the file with the authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Issues a certificate for a server on loopback, also by the names `localhost` and
    /// `registry.test`.
    pub fn server(&self) -> io::Result<KeyPair> {
        self.issue("server")
    }

    /// Issues a certificate for a client.
    pub fn client(&self) -> io::Result<KeyPair> {
        self.issue("client")
    }

    /// Issues a certificate as `openssl x509` makes it when nothing is said: of the first version,
    /// without extensions, for no name; and with a key that few programs know.
    pub fn plain(&self) -> io::Result<KeyPair> {
        self.issue_with("plain", "P-521", &[])
    }

    /// Makes a directory as containers-certs.d(5) has it: this authority, and with `client` a
    /// certificate that it issued.
    pub fn write_directory(&self, directory: &Path, client: bool) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::copy(self.certificate(), directory.join("ca.crt"))?;
        if client {
            let pair = self.client()?;
            fs::copy(pair.certificate, directory.join("client.cert"))?;
            fs::copy(pair.key, directory.join("client.key"))?;
        }
        Ok(())
    }

    fn issue(&self, kind: &str) -> io::Result<KeyPair> {
        self.issue_with(kind, "P-256", &["-extfile", "configuration", "-extensions", kind])
    }

    fn issue_with(&self, kind: &str, curve: &str, extensions: &[&str]) -> io::Result<KeyPair> {
        let serial = self.issued.get() + 1;
        self.issued.set(serial);
        let name = |extension: &str| format!("{kind}-{serial}.{extension}");
        let (request, certificate, key) = (name("csr"), name("crt"), name("key"));
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            &format!("ec_paramgen_curve:{curve}"),
            "-nodes",
            "-config",
            "configuration",
            "-keyout",
            &key,
            "-out",
            &request,
        ])?;
        let serial = serial.to_string();
        let mut arguments = vec!["x509", "-req", "-days", "30", "-in", &request];
        arguments.extend(["-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", &serial]);
        arguments.extend(["-out", &certificate]);
        arguments.extend(extensions);
        self.openssl(&arguments)?;
        Ok(KeyPair { certificate: self.path(&certificate), key: self.path(&key) })
    }

    /// Runs openssl; arguments that name a file of the directory are given its path.
    fn openssl(&self, arguments: &[&str]) -> io::Result<()> {
        let is_file = |argument: &str| {
            argument == "configuration"
                || [".key", ".crt", ".csr"].iter().any(|end| argument.ends_with(end))
        };
        let arguments: Vec<PathBuf> = arguments
            .iter()
            .map(
                |argument| {
                    if is_file(argument) { self.path(argument) } else { PathBuf::from(argument) }
                },
            )
            .collect();
        let arguments: Vec<&OsStr> = arguments.iter().map(|path| path.as_os_str()).collect();
        output("openssl", &arguments, b"").map(|_| ())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
