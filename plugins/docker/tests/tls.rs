//! HTTPS: which certificates are believed, and the words when they are not.

mod support;

use diolkos_sdk::{Error, ErrorKind};
use support::server::{Reply, Seen, Server, raw};
use support::{User, incoming, put};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");

fn open(user: &User, host: &str) -> Result<(), Error> {
    let source = user.image(&format!("{host}/a:1")).open(&user.session())?;
    source.manifest(None).map(drop)
}

fn chain(error: &Error) -> String {
    error.chain().join(": ")
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_with_a_way_out() {
    let server = Server::start_tls(|_| Reply::new(200).body("{}"));
    let host = format!("localhost:{}", server.port);
    let error = open(&User::with(&[]), &host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(chain(&error).contains("certificate signed by unknown authority"), "{error:?}");
    assert!(error.hint().unwrap().contains("--cert-dir"), "{error:?}");
    assert!(server.lines().is_empty());
}

#[test]
fn a_server_s_own_certificate_may_be_given_as_authority() {
    let server = Server::start_tls(|_| Reply::new(200).body("{}"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{FILES}/self-signed.crt"), dir.path().join("ca.crt")).unwrap();
    let user = User::with(&[("cert-dir", dir.path().to_str().unwrap())]);
    open(&user, &format!("localhost:{}", server.port)).unwrap();
    open(&user, &format!("127.0.0.1:{}", server.port)).unwrap();
}

#[test]
fn a_key_without_its_certificate_is_an_error() {
    let error = open(&User::with(&[("cert-dir", FILES)]), "localhost:1").unwrap_err();
    assert!(chain(&error).contains("missing client certificate"), "{error:?}");
}

#[test]
fn without_verification_any_certificate_will_do() {
    let server = Server::start_tls(|_| Reply::new(200).body("{}"));
    open(&User::new(), &format!("localhost:{}", server.port)).unwrap();
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn a_server_without_tls_is_named_as_such() {
    let answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent garbage to an HTTP server.\n";
    let error = open(&User::with(&[]), &format!("127.0.0.1:{}", raw(answer))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(chain(&error).contains("server gave HTTP response to HTTPS client"), "{error:?}");
    assert!(error.hint().unwrap().contains("--tls-verify=false"), "{error:?}");
}

#[test]
fn handshakes_that_fail_are_told_apart() {
    // TLS alerts: a fatal one of the given description.
    for (alert, words) in [
        (&b"\x15\x03\x01\x00\x02\x02\x28"[..], "handshake failure"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "protocol version not supported"),
    ] {
        let error = open(&User::with(&[]), &format!("127.0.0.1:{}", raw(alert))).unwrap_err();
        assert!(chain(&error).contains(words), "{error:?}");
    }
}

#[test]
fn a_closed_port_is_a_refused_connection() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for user in [User::new(), User::with(&[])] {
        let error = open(&user, &format!("127.0.0.1:{port}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(chain(&error).contains("connection refused"), "{error:?}");
    }
}

#[test]
fn a_host_that_does_not_exist_is_named() {
    let error = open(&User::with(&[]), "registry.invalid").unwrap_err();
    let chain = chain(&error);
    // Without a network, the resolver itself is away.
    assert!(
        chain.contains("lookup registry.invalid: no such host")
            || chain.contains("Temporary failure in name resolution"),
        "{chain}"
    );
}

/// A user with a password, who believes the server's certificate and no other.
fn user_with_password() -> (User, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{FILES}/self-signed.crt"), dir.path().join("ca.crt")).unwrap();
    let cert_dir = dir.path().to_str().unwrap();
    (User::with(&[("cert-dir", cert_dir), ("creds", "me:hush")]), dir)
}

/// A server without TLS that would like to know who comes.
fn eavesdropper() -> Server {
    Server::start(|_| Reply::new(401).with("www-authenticate", "Basic realm=\"x\""))
}

#[track_caller]
fn heard_nothing(server: &Server) {
    let told = |seen: &Seen| {
        seen.header("authorization").is_some()
            || String::from_utf8_lossy(&seen.body).contains("hush")
    };
    assert!(!server.seen().iter().any(told), "{:?}", server.lines());
}

#[test]
fn a_password_is_not_told_to_a_token_service_without_tls() {
    let listener = eavesdropper();
    let challenge = format!("Bearer realm=\"http://127.0.0.1:{}/token\"", listener.port);
    let server = Server::start_tls(move |_| Reply::new(401).with("www-authenticate", &challenge));
    let (user, _dir) = user_with_password();
    let error = open(&user, &format!("localhost:{}", server.port)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(chain(&error).contains("credentials are not sent to http://127.0.0.1"), "{error:?}");
    assert!(listener.lines().is_empty());
}

#[test]
fn an_upload_without_tls_hears_no_credentials() {
    for host in ["127.0.0.1", "localhost"] {
        let listener = eavesdropper();
        let location = format!("http://{host}:{}/upload", listener.port);
        let server =
            Server::start_tls(move |seen| match (&*seen.method, seen.header("authorization")) {
                (_, None) => Reply::new(401).with("www-authenticate", "Basic realm=\"r\""),
                // The registry's own host is believed to mean HTTPS, which nobody speaks there.
                ("POST", _) => Reply::new(202).with("location", &location),
                _ => Reply::new(404),
            });
        let (user, _dir) = user_with_password();
        let destination = user.create(&format!("localhost:{}/a:1", server.port));
        assert!(put(&*destination, b"bytes", &incoming(b"bytes")).is_err());
        heard_nothing(&listener);
    }
}
