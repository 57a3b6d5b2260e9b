//! Which certificates are believed and which are shown.
//!
//! The system's authorities and those that are given. Without verification any certificate is
//! taken, also of kinds that cannot be parsed or verified here: that a handshake is signed with the
//! key of a certificate which anybody can make says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use diolkos_sdk::{Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};

use crate::x509;

/// What may be spoken: the library's own choice, or a part of it.
pub struct Allowed {
    /// Versions of TLS.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Ciphers and groups.
    pub provider: Arc<CryptoProvider>,
}

impl Default for Allowed {
    fn default() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { versions: rustls::ALL_VERSIONS, provider }
    }
}

/// Certificates that files hold.
#[derive(Default)]
pub struct Certificates {
    /// Authorities that are believed.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Whether the system's are not.
    pub exclusive: bool,
    /// What may be shown to a server that asks who we are, the preferred first.
    pub clients: Vec<ClientCertificate>,
}

/// Makes the settings for connections to a server.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for keys that are of no use, or not their certificate's.
pub fn config(allowed: Allowed, verify: bool, known: Certificates) -> Result<ClientConfig> {
    let provider = allowed.provider;
    let verifier: Arc<dyn ServerCertVerifier> = if verify {
        verifier(&provider, known.authorities, known.exclusive)?
    } else {
        Arc::new(AnyCertificate(provider.clone()))
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(allowed.versions)
        .map_err(|error| {
            invalid("the details of TLS leave nothing to speak".to_owned()).with_source(error)
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    if known.clients.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let clients = known.clients.into_iter().map(|client| client.certified(&provider));
    let clients = Clients(clients.collect::<Result<_>>()?);
    Ok(builder.with_client_cert_resolver(Arc::new(clients)))
}

/// A certificate that says who we are, and its key.
pub struct ClientCertificate {
    file: PathBuf,
    key_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientCertificate {
    /// Reads the two files, both in PEM form.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when one of them does not hold what it should.
    pub fn read(file: &Path, key_file: &Path) -> Result<Self> {
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

/// Reads all certificates of a file in PEM form; anything else in it is passed over.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
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
    exclusive: bool,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = if exclusive { RootCertStore::empty() } else { system_roots().clone() };
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
