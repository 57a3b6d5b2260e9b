//! The registry as a client sees it.

mod faults;
mod uploads;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;
use crate::sha256;

/// Sends one raw request on a new connection and returns the whole answer.
fn talk(registry: &Registry, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let length = body.len();
    write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n").unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(registry: &Registry, method: &str, target: &str) -> String {
    talk(registry, &format!("{method} {target} HTTP/1.1"), b"")
}

#[test]
fn a_blob_goes_up_in_pieces_and_comes_down_in_parts() {
    let registry = Registry::start().unwrap();
    let answer = ask(&registry, "POST", "/v2/a/b/c/blobs/uploads/");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let location =
        answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().to_owned();
    let patch = |piece: &[u8]| talk(&registry, &format!("PATCH {location} HTTP/1.1"), piece);
    assert!(patch(b"hello ").contains("Range: 0-5"));
    assert!(patch(b"world").contains("Range: 0-10"));
    let digest = sha256(b"hello world");
    let wrong = ask(&registry, "PUT", &format!("{location}?digest={}", sha256(b"other")));
    assert!(wrong.contains("DIGEST_INVALID"), "{wrong}");
    let done = talk(
        &registry,
        &format!("POST /v2/a/b/c/blobs/uploads/?digest={digest} HTTP/1.1"),
        b"hello world",
    );
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    let part =
        talk(&registry, &format!("GET /v2/a/b/c/blobs/{digest} HTTP/1.1\r\nRange: bytes=6-"), b"");
    assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("\r\n\r\nworld"), "{part}");
    let mounted =
        ask(&registry, "POST", &format!("/v2/x/blobs/uploads/?mount={digest}&from=a%2Fb%2Fc"));
    assert!(mounted.starts_with("HTTP/1.1 201"), "{mounted}");
    assert_eq!(registry.digests("x").1, [digest]);
}

#[test]
fn a_manifest_needs_its_blobs_and_is_found_by_tag_and_digest() {
    let registry = Registry::start().unwrap();
    let config = sha256(b"{}");
    let bytes = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{config}"}},"layers":[]}}"#);
    let put = |target: &str| {
        let head = format!("PUT {target} HTTP/1.1\r\nContent-Type: application/x");
        talk(&registry, &head, bytes.as_bytes())
    };
    assert!(put("/v2/a/manifests/1").contains("MANIFEST_BLOB_UNKNOWN"));
    registry.seed_blob("a", b"{}".to_vec());
    assert!(put("/v2/a/manifests/1").starts_with("HTTP/1.1 201"));
    let digest = sha256(bytes.as_bytes());
    assert!(put(&format!("/v2/a/manifests/{}", sha256(b"x"))).contains("DIGEST_INVALID"));
    for reference in ["1", &digest] {
        let got = ask(&registry, "GET", &format!("/v2/a/manifests/{reference}"));
        assert!(got.ends_with(&bytes) && got.contains("Content-Type: application/x"), "{got}");
        let head = ask(&registry, "HEAD", &format!("/v2/a/manifests/{reference}"));
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", bytes.len())), "{head}");
    }
    assert!(ask(&registry, "GET", "/v2/a/manifests/2").contains("MANIFEST_UNKNOWN"));
    assert!(ask(&registry, "GET", "/v2/b/tags/list").contains("NAME_UNKNOWN"));
}

#[test]
fn tags_are_paged() {
    let registry = Registry::start().unwrap();
    for tag in ["c", "a", "b"] {
        registry.seed_manifest("r", Some(tag), "application/x", b"{}");
    }
    let first = ask(&registry, "GET", "/v2/r/tags/list?n=2");
    assert!(first.ends_with(r#"{"name":"r","tags":["a","b"]}"#), "{first}");
    assert!(first.contains("Link: </v2/r/tags/list?last=b&n=2>; rel=\"next\""), "{first}");
    let second = ask(&registry, "GET", "/v2/r/tags/list?last=b&n=2");
    assert!(second.ends_with(r#""tags":["c"]}"#) && !second.contains("Link"), "{second}");
}

#[test]
fn requests_are_counted_and_failures_happen_as_often_as_asked() {
    let registry = Registry::start().unwrap();
    let digest = registry.seed_blob("r", b"0123456789".to_vec());
    let target = format!("/v2/r/blobs/{digest}");
    registry.inject("GET", "/blobs/", 1, Fault::status(503, "UNAVAILABLE"));
    registry.inject("GET", "/blobs/", 1, Fault::CutAfter(4));
    registry.inject("GET", "/blobs/", 1, Fault::FlipByte(0));
    registry.inject("GET", "/blobs/", 1, Fault::Disconnect);
    let answers: Vec<_> = (0..5).map(|_| ask(&registry, "GET", &target)).collect();
    assert!(answers[0].starts_with("HTTP/1.1 503"));
    assert!(answers[1].ends_with("\r\n\r\n0123"));
    assert!(answers[2].ends_with("\r\n\r\ne123456789"));
    assert_eq!(answers[3], "");
    assert!(answers[4].ends_with("\r\n\r\n0123456789"));
    let statuses: Vec<_> = registry.requests().iter().map(|logged| logged.status).collect();
    assert_eq!(statuses, [503, 200, 200, 0, 200]);
    registry.forget_requests();
    assert_eq!(registry.requests(), []);
    assert_eq!((registry.received(), registry.sent()), (0, 0));
}

#[test]
fn chunked_bodies_and_several_requests_share_a_connection() {
    let registry = Registry::start().unwrap();
    let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
    let digest = sha256(b"hello world");
    write!(
        stream,
        "POST /v2/r/blobs/uploads/?digest={digest} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
         6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\n\r\n\
         HEAD /v2/r/blobs/{digest} HTTP/1.1\r\n\r\n\
         GET /v2/r/blobs/{digest} HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 20").count(), 3, "{answers}");
    assert!(answers.ends_with("\r\n\r\nhello world"), "{answers}");
}
