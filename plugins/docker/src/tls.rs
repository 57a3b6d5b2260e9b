//! Which certificates are believed and which are shown, for a registry.
//!
//! What containers-certs.d(5) says: `*.crt` are further authorities, `*.cert` and `*.key` are a
//! client's certificate and key. What is done with them is in [`diolkos_network::tls`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diolkos_network::tls::{self, Certificates, ClientCertificate};
use diolkos_sdk::{Error, Host, Result};
use rustls::ClientConfig;

use crate::client::invalid;
use crate::config::certs::CertDir;
use crate::config::places::Places;
use crate::config::tls_details::TlsDetails;
use crate::options::Options;

/// Makes the TLS settings for a registry.
///
/// `registry` is the host as the user names it, with its port.
///
/// # Errors
/// [`InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) for half a pair of client certificate and
/// key, broken ones, and details of TLS that make no sense.
pub(crate) fn config(
    registry: &str,
    verify: bool,
    options: &Options,
    host: &Host,
) -> Result<ClientConfig> {
    let details = options.tls_details.as_deref().map(TlsDetails::read).transpose()?;
    let details = details.unwrap_or_default();
    let dir = CertDir::find(&Places::current(), options.cert_dir.as_deref(), registry)?;
    for note in details.notes().iter().chain(&dir.notes) {
        host.debug(note);
    }
    let known = match dir.path.as_deref() {
        Some(path) => read(path, host)?,
        None => Certificates::default(),
    };
    tls::config(details.allowed(), verify, known)
}

/// Reads a directory in the order of names. One that is not there, or that is for somebody
/// else, holds nothing, as with other programs that use these directories.
fn read(dir: &Path, host: &Host) -> Result<Certificates> {
    let mut files = Certificates::default();
    let passed_over = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if passed_over.contains(&error.kind()) => {
            host.debug(format!("no certificates in `{}`: {error}", dir.display()));
            return Ok(files);
        }
        Err(error) => {
            let message = format!("looking for certificates in `{}`", dir.display());
            return Err(Error::io(message, error));
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in &paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let authorities = tls::certificates(path)?;
                let count = authorities.len();
                host.debug(format!("{count} certificate(s) from `{}`", path.display()));
                files.authorities.extend(authorities);
            }
            Some("cert") => {
                let key = path.with_extension("key");
                if !paths.contains(&key) {
                    return Err(invalid(format!(
                        "missing key {} for client certificate {}. Note that CA certificates \
                         should use the extension .crt",
                        key.display(),
                        path.display()
                    )));
                }
                host.debug(format!("client certificate from `{}`", path.display()));
                files.clients.push(ClientCertificate::read(path, &key)?);
            }
            Some("key") if !paths.contains(&path.with_extension("cert")) => {
                return Err(invalid(format!(
                    "missing client certificate {} for key {}",
                    path.with_extension("cert").display(),
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path, verify: bool) -> Result<ClientConfig> {
        let options = Options { cert_dir: Some(dir.to_owned()), ..Options::default() };
        super::config("r", verify, &options, &Host::silent())
    }

    #[test]
    fn half_a_pair_of_certificate_and_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.cert"), "").unwrap();
        let error = config(dir.path(), true).unwrap_err();
        assert!(error.message().contains("missing key"), "{error}");
        assert!(error.message().contains("extension .crt"), "{error}");
        fs::rename(dir.path().join("a.cert"), dir.path().join("a.key")).unwrap();
        let error = config(dir.path(), true).unwrap_err();
        assert!(error.message().contains("missing client certificate"), "{error}");
    }

    #[test]
    fn a_directory_that_is_not_there_holds_nothing() {
        assert!(config(Path::new("/diolkos-has-no-such"), false).is_ok());
    }
}
