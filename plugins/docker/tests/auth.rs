//! Credentials: when they are sent, where they go, and that they are never shown.

mod support;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use diolkos_sdk::conformance::image::noise;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{BlobCandidate, Error, ErrorKind, Location};
use support::memory::Memory;
use support::server::{Reply, Seen, Server};
use support::{User, blob_of, incoming, put, read, wanted};

const BASIC: &str = "Basic bWU6czNjcmV0"; // me:s3cret

fn user() -> User {
    User::with(&[("tls-verify", "false"), ("creds", "me:s3cret")])
}

fn chain(error: &Error) -> String {
    error.chain().join(": ")
}

fn image() -> Memory {
    let memory = Memory::default();
    memory.add_manifest("a", "1", media_type::OCI_MANIFEST, b"{}");
    memory.add_blob("a", b"blob");
    memory
}

/// Fails when anything secret was shown.
fn nothing_shown(user: &User, errors: &[&Error]) {
    let mut text = user.services.text();
    for error in errors {
        let _ = write!(text, "{error:?} {:?}", error.hint());
    }
    for secret in ["s3cret", "bWU6czNjcmV0", "tok-"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// A registry that wants tokens; it gives `tok-1`, `tok-2`, … and takes the latest.
struct Tokens {
    server: Server,
    given: Arc<AtomicUsize>,
    /// While set, the token that is out is not taken any more.
    expired: Arc<AtomicBool>,
}

impl Tokens {
    fn start(memory: Memory) -> Self {
        let given = Arc::new(AtomicUsize::new(0));
        let expired = Arc::new(AtomicBool::new(false));
        let (count, over) = (given.clone(), expired.clone());
        let server = Server::start(move |seen| {
            if seen.path() == "/token" {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                over.store(false, Ordering::Relaxed);
                return Reply::new(200).body(format!(r#"{{"token":"tok-{number}"}}"#));
            }
            let current = format!("Bearer tok-{}", count.load(Ordering::Relaxed));
            if seen.header("authorization") == Some(&current) && !over.load(Ordering::Relaxed) {
                return memory.answer(seen);
            }
            challenge(seen)
        });
        Self { server, given, expired }
    }

    fn name(&self) -> String {
        format!("{}/a:1", self.server.host())
    }

    fn given(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }
}

fn challenge(seen: &Seen) -> Reply {
    let host = seen.header("host").unwrap();
    let value = format!(r#"Bearer realm="http://{host}/token?x=1",service="the service""#);
    Reply::error(401, "UNAUTHORIZED", "authentication required").with("www-authenticate", &value)
}

#[test]
fn basic_credentials_are_sent_when_asked_for_and_from_then_on() {
    let memory = image();
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => memory.answer(seen),
        _ => Reply::new(401).with("www-authenticate", "Basic realm=\"a, Bearer b\""),
    });
    let user = user();
    let source = user.open(&format!("{}/a:1", server.host()));
    source.manifest(None).unwrap();
    assert_eq!(read(&*source, &blob_of(b"blob"), 0).0, b"blob");
    let sent: Vec<bool> =
        server.seen().iter().map(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true]);
    nothing_shown(&user, &[]);
}

#[test]
fn wrong_credentials_are_tried_once() {
    let server =
        Server::start(|_| Reply::new(401).with("www-authenticate", "Basic realm=x").body("<html>"));
    let user = user();
    let error = user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(chain(&error).contains("authentication required"), "{error:?}");
    assert_eq!(server.lines().len(), 2);
    nothing_shown(&user, &[&error]);
    // Without credentials there is nothing to answer with.
    let error = User::new().open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn one_token_serves_manifest_and_blobs() {
    let tokens = Tokens::start(image());
    let user = user();
    let source = user.open(&tokens.name());
    source.manifest(None).unwrap();
    assert_eq!(read(&*source, &blob_of(b"blob"), 0).0, b"blob");
    // Another use of the registry knows what was learnt.
    user.open(&tokens.name()).manifest(None).unwrap();
    let lines = tokens.server.lines();
    assert_eq!(lines.len(), 5, "{lines:?}");
    let request = &tokens.server.seen()[1];
    assert_eq!(
        request.target,
        "/token?account=me&scope=repository%3Aa%3Apull&service=the+service&x=1"
    );
    assert_eq!(request.header("authorization"), Some(BASIC));
    nothing_shown(&user, &[]);
}

#[test]
fn the_anonymous_get_a_token_too() {
    let tokens = Tokens::start(image());
    User::new().open(&tokens.name()).manifest(None).unwrap();
    let request = &tokens.server.seen()[1];
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.query("account"), None);
}

#[test]
fn a_token_that_runs_out_during_a_copy_is_renewed_once() {
    let tokens = Tokens::start(image());
    let user = user();
    let source = user.open(&tokens.name());
    source.manifest(None).unwrap();
    tokens.expired.store(true, Ordering::Relaxed);
    assert_eq!(read(&*source, &blob_of(b"blob"), 0).0, b"blob");
    assert_eq!(tokens.given(), 2);
    // The request that failed, the token, the request again.
    assert_eq!(tokens.server.lines().len(), 3 + 3);
}

#[test]
fn parallel_requests_share_one_token() {
    let tokens = Tokens::start(image());
    let user = user();
    let source = user.open(&tokens.name());
    source.manifest(None).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(read(&*source, &blob_of(b"blob"), 0).0, b"blob"));
        }
    });
    assert_eq!(tokens.given(), 1);
}

#[test]
fn a_token_that_runs_out_during_an_upload_leads_to_another_try() {
    let memory = Memory::default();
    let tokens = Tokens::start(memory.clone());
    let user = user();
    let destination = user.create(&tokens.name());
    let (large, small) = (noise(1, 1_500_000), noise(2, 1000));
    // Small: repeated at once. Large: bytes that are gone cannot be repeated here.
    let mut writer = destination.put_blob(&incoming(&small)).unwrap().unwrap();
    tokens.expired.store(true, Ordering::Relaxed);
    writer.write(&small).unwrap();
    writer.finish(&support::sums(&small)).unwrap();
    let mut writer = destination.put_blob(&incoming(&large)).unwrap().unwrap();
    tokens.expired.store(true, Ordering::Relaxed);
    let error = writer.write(&large).and_then(|()| writer.finish(&support::sums(&large)));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(put(&*destination, &large, &incoming(&large)).unwrap());
    assert!(memory.blob("a", &large) && memory.blob("a", &small));
    nothing_shown(&user, &[&error]);
}

#[test]
fn scopes_say_what_is_done_and_where_from() {
    let memory = Memory::default();
    memory.add_blob("other", b"base");
    let tokens = Tokens::start(memory);
    let user = user();
    let destination = user.create(&tokens.name());
    let mut wanted = wanted(b"base", false);
    wanted.candidates = vec![BlobCandidate {
        blob: blob_of(b"base"),
        location: Some(Location { scope: tokens.server.host(), place: "other".into() }),
    }];
    assert!(destination.reuse(&wanted).unwrap().is_some());
    let request = &tokens.server.seen()[1];
    assert!(
        request
            .target
            .contains("scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Aother%3Apull"),
        "{}",
        request.target
    );
    let _ = user.image(&tokens.name()).delete(&user.session());
    let seen = tokens.server.seen();
    assert!(seen.iter().any(|seen| seen.target.contains("repository%3Aa%3A*")), "{seen:?}");
}

#[test]
fn a_scope_that_the_registry_misses_is_asked_for() {
    let server = Server::start(|seen| {
        if seen.path() == "/token" {
            let all = seen.target.contains("extra");
            return Reply::new(200).body(format!(r#"{{"access_token":"tok-{all}"}}"#));
        }
        match seen.header("authorization") {
            Some("Bearer tok-true") => Reply::new(200).body("{}"),
            Some(_) => Reply::new(401).with(
                "www-authenticate",
                &format!(
                    r#"Bearer realm="http://{}/token",error="insufficient_scope",scope="repository:extra:pull""#,
                    seen.header("host").unwrap()
                ),
            ),
            None => challenge(seen),
        }
    });
    user().open(&format!("{}/a:1", server.host())).manifest(None).unwrap();
    assert_eq!(server.lines().len(), 5);
}

#[test]
fn a_scope_that_is_never_enough_is_a_refusal() {
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::new(200).body(r#"{"token":"tok-x","expires_in":5}"#),
        _ => Reply::new(401).with(
            "www-authenticate",
            &format!(
                r#"Bearer realm="http://{}/token",error="insufficient_scope""#,
                seen.header("host").unwrap()
            ),
        ),
    });
    let user = user();
    let error = user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(chain(&error).contains("requested access to the resource is denied"), "{error:?}");
    assert_eq!(server.lines().len(), 3, "a token that was just given is not asked for again");
}

#[test]
fn refusals_of_a_token_server_are_told_apart() {
    for (reply, kind, words) in [
        (
            Reply::error(401, "UNAUTHORIZED", "who is me"),
            ErrorKind::Unauthorized,
            "unable to retrieve auth token: invalid username/password: unauthorized: who is me",
        ),
        (Reply::new(403), ErrorKind::Denied, "unable to retrieve auth token"),
        (
            Reply::new(429).with("retry-after", "300"),
            ErrorKind::Denied,
            "too many requests to registry",
        ),
        (
            Reply::new(503),
            ErrorKind::Unavailable,
            "Requesting bearer token: received unexpected HTTP status: 503 Service Unavailable",
        ),
        (
            Reply::new(200).body("{\"token\":\"tok-1\", oops"),
            ErrorKind::Corrupt,
            "decoding bearer token",
        ),
        (Reply::new(200).body("{\"token\":\"\"}"), ErrorKind::Corrupt, "holds no token"),
    ] {
        let server = Server::start(move |seen| match seen.path() {
            "/token" => reply.clone(),
            _ => challenge(seen),
        });
        let user = user();
        let error = user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(chain(&error).contains(words), "{error:?}");
        nothing_shown(&user, &[&error]);
    }
}

#[test]
fn a_given_token_is_used_as_it_is() {
    let memory = image();
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some("Bearer tok-given") => memory.answer(seen),
        _ => challenge(seen),
    });
    let user = User::with(&[("tls-verify", "false"), ("registry-token", "tok-given")]);
    user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap();
    assert_eq!(server.lines().len(), 2);
    let user = User::with(&[("tls-verify", "false"), ("registry-token", "tok-wrong")]);
    let error = user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(server.lines().len(), 4);
    nothing_shown(&user, &[&error]);
}

#[test]
fn credentials_stay_behind_when_a_redirect_leads_elsewhere() {
    let elsewhere = Server::start(|seen| match seen.path() {
        // Whatever that place asks for, it is not the registry.
        "/ask" => Reply::new(401).with("www-authenticate", "Basic realm=\"give\""),
        _ => Reply::new(200).body("blob"),
    });
    let port = elsewhere.port;
    let server = Server::start(move |seen| match (seen.header("authorization"), seen.path()) {
        (None, _) => Reply::new(401).with("www-authenticate", "Basic realm=x"),
        (_, "/v2/a/manifests/1") => Reply::new(302).with("location", "/v2/b/manifests/1"),
        (_, "/v2/b/manifests/1") => Reply::new(200).body("{}"),
        (_, "/v2/a/manifests/ask") => {
            Reply::new(307).with("location", &format!("http://localhost:{port}/ask"))
        }
        _ => Reply::new(307).with("location", &format!("http://localhost:{port}/blob?sig=s3cret")),
    });
    let user = user();
    let source = user.open(&format!("{}/a:1", server.host()));
    source.manifest(None).unwrap();
    assert_eq!(read(&*source, &blob_of(b"blob"), 0).0, b"blob");
    let error = user.open(&format!("{}/a:ask", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(elsewhere.lines(), ["GET /blob", "GET /ask"]);
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(server.seen()[1..].iter().all(|seen| seen.header("authorization") == Some(BASIC)));
    nothing_shown(&user, &[&error]);
}

#[test]
fn what_is_hidden_from_the_anonymous_is_found_with_credentials() {
    let memory = image();
    let server = Server::start(move |seen| match (seen.header("authorization"), seen.path()) {
        (Some(BASIC), _) => memory.answer(seen),
        (_, "/v2/") => Reply::new(401).with("www-authenticate", "Basic realm=x"),
        _ => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    });
    user().open(&format!("{}/a:1", server.host())).manifest(None).unwrap();
    assert_eq!(server.lines().len(), 3);
    let error = User::new().open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    assert_eq!(server.lines().len(), 4, "the anonymous have nothing to ask for");
}

#[test]
fn an_upload_that_goes_on_elsewhere_goes_without_credentials() {
    let elsewhere = Server::start(|_| Reply::new(201));
    let port = elsewhere.port;
    let server = Server::start(move |seen| match seen.header("authorization") {
        None => Reply::new(401).with("www-authenticate", "Basic realm=x"),
        _ => Reply::new(202).with("location", &format!("http://localhost:{port}/up?x=s3cret")),
    });
    let user = user();
    let destination = user.create(&format!("{}/a:1", server.host()));
    assert!(put(&*destination, b"blob", &incoming(b"blob")).unwrap());
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
    assert_eq!(elsewhere.seen()[0].body, b"blob");
    nothing_shown(&user, &[]);
}
