//! Why a request got no answer, in the words of the Go programs of the field.

use std::error::Error as StdError;

use diolkos_sdk::ErrorKind;
use reqwest::Url;
use rustls::{AlertDescription, CertificateError};

use crate::proxies::{self, Proxies};

/// Why a request got no answer.
#[derive(Debug)]
pub struct Cause {
    /// What the engine does about it.
    pub kind: ErrorKind,
    /// What happened.
    pub text: String,
    /// What the user can do about it.
    pub hint: Option<&'static str>,
}

/// What users of a kind of server can do.
#[derive(Debug)]
pub struct Hints {
    /// Nothing listens there.
    pub not_listening: &'static str,
    /// No such host.
    pub no_host: &'static str,
    /// The server speaks no TLS.
    pub without_tls: &'static str,
    /// The server's certificate is of nobody who is known.
    pub unknown_authority: &'static str,
    /// The server wants a certificate, or another one.
    pub client_certificate: &'static str,
    /// The proxy is of no use.
    pub proxy: &'static str,
}

impl Cause {
    fn passing(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unavailable, text: text.into(), hint: None }
    }

    fn lasting(text: impl Into<String>, hint: Option<&'static str>) -> Self {
        Self { kind: ErrorKind::InvalidInput, text: text.into(), hint }
    }

    /// Finds it out.
    pub fn of(url: &Url, error: &reqwest::Error, hints: &Hints) -> Self {
        cause(url, error, hints)
    }
}

fn cause(url: &Url, error: &reqwest::Error, hints: &Hints) -> Cause {
    let host = url.host_str().unwrap_or_default();
    if let Some(error) = find::<rustls::Error>(error) {
        return tls_cause(host, error, hints);
    }
    let texts = texts(error);
    let has = |words: &str| texts.iter().any(|text| text.contains(words));
    let proxy = Proxies::current().of(url).filter(|_| error.is_connect());
    if let Some(proxy) = proxy {
        return proxy_cause(proxy, url, error, &texts, hints);
    }
    if has("failed to lookup address") || has("dns error") {
        let words = "Temporary failure in name resolution";
        return if has(words) || has("Try again") {
            Cause { hint: Some(hints.no_host), ..Cause::passing(format!("lookup {host}: {words}")) }
        } else {
            Cause::lasting(format!("lookup {host}: no such host"), Some(hints.no_host))
        };
    }
    let port = url.port_or_known_default().unwrap_or_default();
    if error.is_timeout() {
        return Cause::passing(if error.is_connect() {
            format!("dial tcp {host}:{port}: i/o timeout")
        } else {
            "timeout: no data for a long time".to_owned()
        });
    }
    if let Some(io) = find::<std::io::Error>(error) {
        use std::io::ErrorKind as Io;
        let dial = if error.is_connect() {
            format!("dial tcp {host}:{port}: connect: ")
        } else {
            String::new()
        };
        return match io.kind() {
            Io::ConnectionRefused => Cause {
                hint: Some(hints.not_listening),
                ..Cause::passing(format!("{dial}connection refused"))
            },
            Io::ConnectionReset => Cause::passing(format!("{dial}connection reset by peer")),
            Io::BrokenPipe => Cause::passing(format!("{dial}broken pipe")),
            Io::UnexpectedEof => Cause::passing(format!("{dial}unexpected EOF")),
            Io::TimedOut => Cause::passing(format!("{dial}i/o timeout")),
            _ => Cause::passing(format!("{dial}{io}")),
        };
    }
    if has("connection closed before message completed") || has("end of file before message length")
    {
        return Cause::passing("unexpected EOF");
    }
    // reqwest's own level repeats the URL, query included: only what is below it is shown.
    Cause::passing(texts.last().cloned().unwrap_or_else(|| "the request failed".to_owned()))
}

/// Says why a connection could not be made through a proxy.
fn proxy_cause(
    proxy: &Url,
    url: &Url,
    error: &reqwest::Error,
    texts: &[String],
    hints: &Hints,
) -> Cause {
    use std::io::ErrorKind as Io;
    let address = proxies::shown(proxy);
    let has = |words: &str| texts.iter().any(|text| text.contains(words));
    let io = find::<std::io::Error>(error).map(std::io::Error::kind);
    let connect = |why: &str| format!("proxyconnect tcp: dial tcp {address}: {why}");
    let host = url.host_str().unwrap_or_default();
    let text = if has("failed to lookup address") || has("dns error") {
        connect("no such host")
    } else if error.is_timeout() || io == Some(Io::TimedOut) {
        connect("i/o timeout")
    } else if io == Some(Io::ConnectionRefused) {
        connect("connect: connection refused")
    } else {
        let last = texts.last().map_or("the connection failed", String::as_str);
        format!("proxy {address} did not connect to {host}: {last}")
    };
    Cause { hint: Some(hints.proxy), ..Cause::passing(text) }
}

fn tls_cause(host: &str, error: &rustls::Error, hints: &Hints) -> Cause {
    use rustls::Error as Tls;
    match error {
        Tls::InvalidMessage(_) => Cause::lasting(
            "http: server gave HTTP response to HTTPS client",
            Some(hints.without_tls),
        ),
        Tls::InvalidCertificate(error) => {
            let prefix = "tls: failed to verify certificate: x509:";
            match error {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Cause::lasting(
                    format!("{prefix} certificate has expired or is not yet valid"),
                    None,
                ),
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    Cause::lasting(format!("{prefix} certificate is not valid for {host}"), None)
                }
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Cause::lasting(
                    format!("{prefix} certificate signed by unknown authority"),
                    Some(hints.unknown_authority),
                ),
                other if format!("{other:?}").contains("CaUsedAsEndEntity") => Cause::lasting(
                    format!("{prefix} certificate signed by unknown authority"),
                    Some(hints.unknown_authority),
                ),
                other => Cause::lasting(format!("{prefix} {other}"), None),
            }
        }
        Tls::AlertReceived(AlertDescription::ProtocolVersion) => {
            Cause::lasting("remote error: tls: protocol version not supported", None)
        }
        Tls::AlertReceived(AlertDescription::HandshakeFailure) => {
            Cause::lasting("remote error: tls: handshake failure", None)
        }
        Tls::AlertReceived(AlertDescription::CertificateRequired) => Cause::lasting(
            "remote error: tls: certificate required",
            Some(hints.client_certificate),
        ),
        Tls::AlertReceived(AlertDescription::UnknownCA) => Cause::lasting(
            "remote error: tls: unknown certificate authority",
            Some(hints.client_certificate),
        ),
        Tls::AlertReceived(AlertDescription::BadCertificate) => {
            Cause::lasting("remote error: tls: bad certificate", Some(hints.client_certificate))
        }
        Tls::PeerIncompatible(why) => Cause::lasting(
            format!("tls: protocol version not supported or no common cipher ({why:?})"),
            None,
        ),
        other => Cause::lasting(format!("tls: {other}"), None),
    }
}

/// Finds an error of a type in a chain, inside I/O errors too.
pub fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An I/O error's `source` skips the error it wraps.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Tells whether the host's name could not be found.
pub fn is_unknown_host(error: &reqwest::Error) -> bool {
    mentions(error, "failed to lookup address") || mentions(error, "dns error")
}

/// Tells whether one of the messages below the outermost holds these words.
pub fn mentions(error: &reqwest::Error, words: &str) -> bool {
    texts(error).iter().any(|text| text.contains(words))
}

/// Returns the messages below the outermost level.
fn texts(error: &reqwest::Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}
