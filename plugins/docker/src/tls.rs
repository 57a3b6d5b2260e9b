//! Which certificates are believed and which are shown.
//!
//! The system's authorities, and what containers-certs.d(5) says of a registry: `*.crt` are
//! further authorities, `*.cert` and `*.key` are a client's certificate and key. Without
//! verification any certificate is taken, also of kinds that cannot be parsed or verified here:
//! that a handshake is signed with the key of a certificate which anybody can make says nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use diolkos_sdk::{Error, ErrorKind, Host, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore,
    SignatureScheme,
};

use crate::config::certs::CertDir;
use crate::config::places::Places;
use crate::config::tls_details::TlsDetails;
use crate::options::Options;
use crate::x509;

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
    let files = match dir.path.as_deref() {
        Some(path) => Files::read(path, host)?,
        None => Files::default(),
    };
    let verifier: Arc<dyn ServerCertVerifier> = if verify {
        verifier(&provider, files.authorities)?
    } else {
        Arc::new(AnyCertificate(provider.clone()))
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(details.versions())
        .map_err(|error| {
            invalid("the details of TLS leave nothing to speak".to_owned()).with_source(error)
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    if files.clients.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let clients = files.clients.into_iter().map(|client| client.certified(&provider));
    let clients = Clients(clients.collect::<Result<_>>()?);
    Ok(builder.with_client_cert_resolver(Arc::new(clients)))
}

/// What a directory of certificates holds.
#[derive(Default)]
struct Files {
    authorities: Vec<CertificateDer<'static>>,
    clients: Vec<Client>,
}

struct Client {
    file: PathBuf,
    key_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Files {
    /// Reads a directory in the order of names. One that is not there, or that is for somebody
    /// else, holds nothing, as with other programs that use these directories.
    fn read(dir: &Path, host: &Host) -> Result<Self> {
        let mut files = Self::default();
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
                    let authorities = certificates(path)?;
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
                    files.clients.push(Client::read(path, &key)?);
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
        let chain = certificates(file)?;
        if chain.is_empty() {
            return Err(invalid(format!("`{}` holds no certificate", file.display())));
        }
        let pem = read(key_file)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
            let shown = key_file.display();
            if pem.windows(9).any(|word| word == b"ENCRYPTED") {
                invalid(format!("the key `{shown}` is encrypted"))
                    .with_hint("`openssl pkey` writes it without a password")
            } else {
                invalid(format!("`{shown}` holds no private key in PEM form")).with_source(error)
            }
        })?;
        Ok(Self { file: file.to_owned(), key_file: key_file.to_owned(), chain, key })
    }

    /// Makes what a handshake is signed with. The certificate itself is for the server to judge.
    fn certified(self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
        let signer = provider.key_provider.load_private_key(self.key).map_err(|error| {
            let message = format!("cannot use the key `{}`", self.key_file.display());
            invalid(message).with_source(error).with_hint(
                "keys may be RSA (2048 bits and more), ECDSA (P-256 or P-384) or Ed25519",
            )
        })?;
        let certified = CertifiedKey::new(self.chain, signer);
        if matches!(
            certified.keys_match(),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch))
        ) {
            let (cert, key) = (self.file.display(), self.key_file.display());
            return Err(invalid(format!("`{key}` is not the key of certificate `{cert}`")));
        }
        Ok(Arc::new(certified))
    }
}

/// The certificates that may be shown, in the order of their files.
#[derive(Debug)]
struct Clients(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Clients {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let mut usable = self.0.iter().filter(|it| it.key.choose_scheme(schemes).is_some());
        // A server may say whose certificates it takes. Where none of ours is, the first is shown:
        // an authority between the two may be missing.
        let issued = |it: &&Arc<CertifiedKey>| {
            let mut issuers = it.cert.iter().filter_map(|cert| x509::issuer(cert));
            issuers.any(|issuer| authorities.contains(&issuer))
        };
        usable.clone().find(issued).or_else(|| usable.next()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Reads all certificates of a file; anything else in it is passed over.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(&read(path)?).flatten().collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(format!("reading `{}`", path.display()), error))
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
/// one: what `openssl req -x509` makes is both, people give what `openssl s_client` shows, and
/// other programs accept it.
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
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Other(_)
                | CertificateError::UnknownIssuer
                | CertificateError::BadSignature,
            )) if given() => {
                rustls::client::verify_server_name(
                    &ParsedCertificate::try_from(end_entity)?,
                    server_name,
                )?;
                x509::check_period(end_entity.as_ref(), now)?;
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

/// Takes any certificate, and any signature that a server might make with its key.
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        let further = [
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::ECDSA_SHA1_Legacy,
        ];
        schemes.extend(further);
        schemes
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
