//! Everything odd about answers: who may see them, what they say, and how they arrive.

use std::time::{Duration, Instant};

use super::*;

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn with_blob() -> (Registry, String) {
    let registry = Registry::start().unwrap();
    let digest = registry.seed_blob("r", b"0123456789".to_vec());
    (registry, format!("/v2/r/blobs/{digest}"))
}

#[test]
fn a_token_is_handed_out_for_what_its_owner_may_do() {
    let registry = Registry::start_with(Access::token("me", "secret")).unwrap();
    let refused = ask(&registry, "POST", "/v2/a/b/blobs/uploads/");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(refused.contains(r#"scope="repository:a/b:pull,push""#), "{refused}");
    let token = |credentials: &str| {
        let head = format!("GET /token?scope=repository:a/b:pull,push HTTP/1.1{credentials}");
        let answer = talk(&registry, &head, b"");
        let value: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        value["token"].as_str().unwrap().to_owned()
    };
    let push = |token: &str| {
        let head = format!("POST /v2/a/b/blobs/uploads/ HTTP/1.1\r\nAuthorization: Bearer {token}");
        talk(&registry, &head, b"")
    };
    let poor = push(&token(""));
    assert!(poor.contains("insufficient_scope"), "{poor}");
    // `me:secret`
    assert!(push(&token("\r\nAuthorization: Basic bWU6c2VjcmV0")).starts_with("HTTP/1.1 202"));
    assert_eq!(registry.tokens(), 2);
}

#[test]
fn tokens_are_exchanged_by_post_and_run_out() {
    let tokens = Tokens::new("me", "secret").with_identity("id").by_post_only().for_requests(2);
    let registry = Registry::start_with(Access::Token(tokens)).unwrap();
    registry.seed_manifest("r", Some("1"), "application/x", b"{}");
    assert!(ask(&registry, "GET", "/token?scope=repository:r:pull").starts_with("HTTP/1.1 405"));
    let post = |form: &str| talk(&registry, "POST /token HTTP/1.1", form.as_bytes());
    let rest = "&service=s&client_id=c&scope=repository:r:pull";
    assert!(post(&format!("grant_type=password&username=me&password=wrong{rest}")).contains("401"));
    assert!(post("grant_type=refresh_token&refresh_token=id").contains("401"));
    for grant in [
        "grant_type=password&username=me&password=secret",
        "grant_type=refresh_token&refresh_token=id",
    ] {
        let answer = post(&format!("{grant}{rest}"));
        let value: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        let token = value["access_token"].as_str().unwrap();
        let head = format!("GET /v2/r/manifests/1 HTTP/1.1\r\nAuthorization: Bearer {token}");
        let answers: Vec<_> = (0..3).map(|_| talk(&registry, &head, b"")).collect();
        assert!(answers[1].starts_with("HTTP/1.1 200"), "{}", answers[1]);
        assert!(answers[2].contains("invalid_token"), "{}", answers[2]);
    }
}

#[test]
fn challenges_are_as_odd_as_asked() {
    let registry = Registry::start_with(Access::token("me", "secret")).unwrap();
    let lines = ["Negotiate", "Bearer realm=\"{realm}\" , scope=\"{scope}\", Basic"];
    registry.always("", "/v2/", Fault::challenges(&lines));
    let answer = ask(&registry, "GET", "/v2/r/tags/list");
    assert!(answer.contains("WWW-Authenticate: Negotiate\r\n"), "{answer}");
    assert!(answer.contains("/token\" , scope=\"repository:r:pull\", Basic\r\n"), "{answer}");
}

#[test]
fn any_status_comes_with_any_body() {
    let (registry, target) = with_blob();
    for (answer, text) in [
        (Answer::error(429, "TOOMANYREQUESTS").retry_after(7), "TOOMANYREQUESTS"),
        (Answer::text(503, "later"), "later"),
        (Answer::html(502), "<center>nginx</center>"),
        (Answer::empty(408), ""),
    ] {
        registry.inject("GET", "/blobs/", 1, Fault::Answer(answer));
        assert!(ask(&registry, "GET", &target).contains(text));
    }
    let statuses: Vec<_> = registry.requests().iter().map(|logged| logged.status).collect();
    assert_eq!(statuses, [429, 503, 502, 408]);
}

#[test]
fn answers_lie_as_asked() {
    let (registry, target) = with_blob();
    let get = || ask(&registry, "GET", &target);
    let lie = |fault| registry.inject("GET", "/blobs/", 1, fault);
    lie(Fault::header("Docker-Content-Digest", "sha256:0"));
    assert_eq!(header(&get(), "Docker-Content-Digest"), Some("sha256:0"));
    lie(Fault::WithoutHeader("docker-content-digest".to_owned()));
    assert_eq!(header(&get(), "Docker-Content-Digest"), None);
    lie(Fault::Announce(4));
    assert_eq!(header(&get(), "Content-Length"), Some("4"));
    lie(Fault::Chunked);
    let chunked = get();
    assert_eq!(header(&chunked, "Content-Length"), None);
    assert_eq!(body(&chunked), "a\r\n0123456789\r\n0\r\n\r\n");
    lie(Fault::IgnoreRange);
    let head = format!("GET {target} HTTP/1.1\r\nRange: bytes=5-");
    assert!(talk(&registry, &head, b"").ends_with("\r\n\r\n0123456789"));
    assert_eq!(registry.requests().last().unwrap().header("range"), Some("bytes=5-"));
    assert!(talk(&registry, &head, b"").ends_with("\r\n\r\n56789"));
}

#[test]
fn habits_last_beside_what_is_injected() {
    let (registry, target) = with_blob();
    registry.always("GET", "/blobs/", Fault::header("X-Habit", "yes"));
    registry.inject("GET", "/blobs/", 1, Fault::FlipByte(0));
    let first = ask(&registry, "GET", &target);
    assert!(first.contains("X-Habit: yes") && first.ends_with("\r\n\r\ne123456789"), "{first}");
    let second = ask(&registry, "GET", &target);
    assert!(second.contains("X-Habit: yes") && second.ends_with("\r\n\r\n0123456789"), "{second}");
    registry.behave();
    assert!(!ask(&registry, "GET", &target).contains("X-Habit"));
}

#[test]
fn a_tag_moves_between_two_requests() {
    let registry = Registry::start().unwrap();
    registry.seed_manifest("r", Some("1"), "application/x", b"{}");
    let other = registry.seed_manifest("r", None, "application/x", b"[]");
    registry.inject("HEAD", "/manifests/1", 1, Fault::MoveTag(other));
    let head = ask(&registry, "HEAD", "/v2/r/manifests/1");
    assert_eq!(header(&head, "Docker-Content-Digest"), Some(sha256(b"{}").as_str()));
    assert_eq!(body(&ask(&registry, "GET", "/v2/r/manifests/1")), "[]");
}

#[test]
fn content_is_elsewhere_and_whoever_gets_it_is_written_down() {
    let (registry, target) = with_blob();
    let storage = registry.start_storage(Ipv4Addr::new(127, 0, 0, 2)).unwrap();
    assert!(storage.host().starts_with("127.0.0.2:"));
    registry.always("GET", "/blobs/", Fault::Redirect(storage.host()));
    registry.always("POST", "/blobs/uploads/", Fault::LocationAt(storage.host()));
    let there = ask(&registry, "GET", &target);
    assert!(there.starts_with("HTTP/1.1 307"), "{there}");
    let there = header(&there, "Location").unwrap();
    assert_eq!(there, format!("http://{}{target}", storage.host()));
    let head = format!("GET {target} HTTP/1.1\r\nAuthorization: Bearer x");
    assert_eq!(body(&talk(&storage, &head, b"")), "0123456789");
    assert!(storage.requests()[0].is_authorized());
    let upload = ask(&registry, "POST", "/v2/r/blobs/uploads/");
    let host = format!("http://{}", storage.host());
    let upload = header(&upload, "Location").unwrap().strip_prefix(&host).unwrap();
    let digest = sha256(b"elsewhere");
    talk(&storage, &format!("PUT {upload}?digest={digest} HTTP/1.1"), b"elsewhere");
    assert!(registry.blob("r", &digest).is_some());
}

#[test]
fn slow_answers_take_their_time_and_stalled_ones_never_end() {
    let (registry, target) = with_blob();
    registry.inject("GET", "/blobs/", 1, Fault::SlowAnswer(50));
    let start = Instant::now();
    assert_eq!(body(&ask(&registry, "GET", &target)), "0123456789");
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    registry.inject("GET", "/blobs/", 1, Fault::StallAfter(3));
    let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut answer = Vec::new();
    assert!(stream.read_to_end(&mut answer).is_err(), "it ended");
    assert!(answer.ends_with(b"\r\n\r\n012"));
}
