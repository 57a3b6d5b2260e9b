//! Which certificates are believed and which are shown.
//!
//! The system's authorities, and what containers-certs.d(5) says of a registry: `*.crt` are
//! further authorities, `*.cert` and `*.key` are a client's certificate and key. Without
//! verification any certificate is taken, but the handshake must still be signed with its key.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use diolkos_sdk::{Error, ErrorKind, Host, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::config::certs::CertDir;
use crate::config::places::Places;
use crate::config::tls_details::TlsDetails;
use crate::options::Options;
use crate::validity;

/// Makes the TLS settings for a registry.
///
/// `registry` is the host as the user names it, with its port.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for half a pair of client certificate and key, broken ones, and
/// details of TLS that make no sense.
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
    let provider = details.provider();
    let files = dir.path.as_deref().map(Files::read).transpose()?.unwrap_or_default();
    let verifier: Arc<dyn ServerCertVerifier> = if verify {
        verifier(&provider, files.authorities)?
    } else {
        Arc::new(AnyCertificate(provider.clone()))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(details.versions())
        .map_err(|error| {
            invalid("the details of TLS leave nothing to speak".to_owned()).with_source(error)
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match files.client {
        Some(client) => {
            let file = client.file;
            builder.with_client_auth_cert(client.chain, client.key).map_err(|error| {
                Error::new(
                    ErrorKind::InvalidInput,
                    format!("cannot use client certificate `{}`", file.display()),
                )
                .with_source(error)
            })
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// What a directory of certificates holds.
#[derive(Default)]
struct Files {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<Client>,
}

struct Client {
    file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Files {
    /// Reads a directory in the order of names. One that cannot be read holds nothing, as with
    /// other programs that use these directories.
    fn read(dir: &Path) -> Result<Self> {
        let mut files = Self::default();
        let Ok(entries) = fs::read_dir(dir) else { return Ok(files) };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => files.authorities.extend(certificates(path)),
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
                    if files.client.is_none() {
                        files.client = Some(Client::read(path, &key)?);
                    }
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
}

impl Client {
    fn read(file: &Path, key_file: &Path) -> Result<Self> {
        let chain = certificates(file);
        if chain.is_empty() {
            return Err(invalid(format!("`{}` holds no certificate", file.display())));
        }
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
            invalid(format!("cannot read the key `{}`", key_file.display())).with_source(error)
        })?;
        Ok(Self { file: file.to_owned(), chain, key })
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).map_or(Vec::new(), |pem| pem.flatten().collect())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// The system's authorities, read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    extra: Vec<CertificateDer<'static>>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = system_roots().clone();
    roots.add_parsable_certificates(extra.iter().cloned());
    if roots.is_empty() {
        return Err(invalid(
            "no certificate authority is known: the system has none and no *.crt was given".into(),
        )
        .with_hint("install the system's CA certificates, or give --cert-dir"));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot set up the verification of certificates")
                .with_source(error)
        })?;
    Ok(Arc::new(Trusted { inner, extra }))
}

/// Verifies as usual, and takes a server's own certificate as its authority where it was given as
/// one: what `openssl req -x509` makes is both, and other programs accept it.
#[derive(Debug)]
struct Trusted {
    inner: Arc<WebPkiServerVerifier>,
    extra: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let given = || self.extra.iter().any(|cert| cert.as_ref() == end_entity.as_ref());
        match result {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if given() => {
                rustls::client::verify_server_name(
                    &ParsedCertificate::try_from(end_entity)?,
                    server_name,
                )?;
                validity::check(end_entity.as_ref(), now)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
