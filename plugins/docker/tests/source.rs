//! Reading from a registry: requests, faults, redirects, tags, deleting.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diolkos_sdk::conformance::image::noise;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{Descriptor, Error, ErrorKind};
use support::memory::Memory;
use support::server::{Reply, Server};
use support::{User, blob_of, digest_of, read};

fn chain(error: &Error) -> String {
    error.chain().join(": ")
}

#[test]
fn manifest_and_blobs_cost_one_request_each() {
    let memory = Memory::default();
    let layer = noise(1, 1_000_000);
    memory.add_manifest("a/b", "1", media_type::OCI_MANIFEST, b"{}");
    memory.add_blob("a/b", &layer);
    memory.add_blob("a/b", b"config");
    let server = Server::start(move |seen| memory.answer(seen));
    let source = User::new().open(&format!("{}/a/b:1", server.host()));
    for _ in 0..2 {
        let manifest = source.manifest(None).unwrap();
        assert_eq!(
            (manifest.bytes, manifest.media_type.as_str()),
            (b"{}".to_vec(), media_type::OCI_MANIFEST)
        );
    }
    for bytes in [&layer[..], b"config"] {
        let (all, size) = read(&*source, &blob_of(bytes), 0);
        assert_eq!(size.unwrap(), Some(bytes.len() as u64));
        assert!(all == bytes);
    }
    let lines = server.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let accepted = server.seen()[0].all("accept").join(",");
    assert!(accepted.starts_with(media_type::OCI_MANIFEST), "{accepted}");
    assert_eq!(server.seen()[0].header("docker-distribution-api-version"), Some("registry/2.0"));
}

#[test]
fn instances_are_asked_for_by_digest() {
    let memory = Memory::default();
    memory.add_manifest("a", "1", media_type::OCI_MANIFEST, b"{}");
    let server = Server::start(move |seen| memory.answer(seen));
    let source = User::new().open(&format!("{}/a:1", server.host()));
    source.manifest(Some(&digest_of(b"{}"))).unwrap();
    assert_eq!(server.lines(), [format!("GET /v2/a/manifests/{}", digest_of(b"{}"))]);
}

#[test]
fn what_is_missing_is_named_and_of_the_right_kind() {
    let memory = Memory::default();
    let server = Server::start(move |seen| memory.answer(seen));
    let source = User::new().open(&format!("{}/a:1", server.host()));
    let error = source.manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    assert_eq!(
        chain(&error),
        format!("reading manifest 1 in {}/a: manifest unknown", server.host())
    );
    let error = source.blob(&blob_of(b"x"), 0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(chain(&error), "fetching blob: blob unknown to registry");
}

#[test]
fn odd_answers_are_shown() {
    for (reply, kind, words) in [
        (
            Reply::new(404).body("<html>nothing here"),
            ErrorKind::ImageNotFound,
            "StatusCode: 404, \"<html>nothing here\"",
        ),
        (Reply::new(404), ErrorKind::ImageNotFound, "manifest unknown"),
        (
            Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            ErrorKind::NotFound,
            "repository name not known to registry",
        ),
        (
            Reply::new(418).body("short and stout"),
            ErrorKind::Denied,
            "StatusCode: 418, \"short and stout\"",
        ),
        (
            Reply::error(403, "DENIED", "requested access to the resource is denied"),
            ErrorKind::Denied,
            "requested access to the resource is denied",
        ),
        (Reply::new(500).body("oops"), ErrorKind::Unavailable, "500 Internal Server Error"),
        (Reply::new(429).with("retry-after", "7200"), ErrorKind::Denied, "StatusCode: 429"),
        (Reply::new(200).body(vec![b' '; 5 << 20]), ErrorKind::Corrupt, "longer than"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let source = User::new().open(&format!("{}/a:1", server.host()));
        let error = source.manifest(None).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(chain(&error).contains(words), "{error:?}");
        if words == "StatusCode: 429" {
            assert_eq!(error.retry_after(), None, "nobody waits for hours");
            assert!(error.hint().unwrap().contains("for 2 h"), "{:?}", error.hint());
        }
    }
}

#[test]
fn a_blob_that_breaks_off_can_be_resumed_where_it_stopped() {
    let blob = noise(2, 1_000_000);
    let memory = Memory::default();
    memory.add_blob("a", &blob);
    let cut = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        let reply = memory.answer(seen);
        if cut.fetch_add(1, Ordering::Relaxed) == 0 {
            return Reply { cut: Some(700_000), ..reply };
        }
        reply
    });
    let source = User::new().open(&format!("{}/a:1", server.host()));
    let (start, outcome) = read(&*source, &blob_of(&blob), 0);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(chain(&error).contains("unexpected EOF"), "{error:?}");
    assert_eq!(start.len(), 700_000, "what came before the failure is not lost");
    let (rest, size) = read(&*source, &blob_of(&blob), 700_000);
    assert_eq!(size.unwrap(), Some(1_000_000), "the size counts from byte 0");
    assert!([start, rest].concat() == blob);
    assert_eq!(server.seen()[1].header("range"), Some("bytes=700000-"));
    // Nothing is left to ask for.
    assert_eq!(read(&*source, &blob_of(&blob), 1_000_000).0.len(), 0);
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn where_no_part_is_to_be_had_the_whole_is_read_and_its_start_passed_over() {
    let whole = || Reply::new(200).body("all of it");
    let wrong = || Reply::new(206).with("content-range", "bytes 0-8/9").body("all of it");
    for part in [whole(), Reply::new(416), Reply::new(400), wrong()] {
        let server = Server::start(move |seen| match seen.header("range") {
            Some(_) => part.clone(),
            None => whole(),
        });
        let source = User::new().open(&format!("{}/a:1", server.host()));
        let (rest, size) = read(&*source, &blob_of(b"all of it"), 4);
        assert_eq!(rest, b"of it");
        assert_eq!(size.unwrap(), Some(9));
    }
}

#[test]
fn a_wrong_length_is_an_error_and_not_the_end() {
    let server = Server::start(|_| Reply {
        length: Some(100),
        close: true,
        ..Reply::new(200).body("short")
    });
    let source = User::new().open(&format!("{}/a:1", server.host()));
    let (all, outcome) = read(&*source, &Descriptor { size: None, ..blob_of(b"short") }, 0);
    assert_eq!(all, b"short");
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let elsewhere = Server::start(|_| Reply::new(200).body("blob"));
    let port = elsewhere.port;
    let server = Server::start(move |seen| match seen.path() {
        "/v2/loop/manifests/1" => Reply::new(307).with("location", "1?again"),
        _ => Reply::new(307)
            .with("location", &format!("http://localhost:{port}/cdn?signature=s3cret")),
    });
    let user = User::new();
    let (all, _) = read(&*user.open(&format!("{}/a:1", server.host())), &blob_of(b"blob"), 0);
    assert_eq!(all, b"blob");
    let error = user.open(&format!("{}/loop:1", server.host())).manifest(None).unwrap_err();
    assert!(chain(&error).contains("stopped after 10 redirects"), "{error:?}");
    assert_eq!(server.lines().len(), 1 + 11);
    assert!(!user.services.text().contains("s3cret"), "signed URLs are not logged");
}

#[test]
fn an_idle_connection_that_was_closed_is_not_an_error() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Reply { close: true, ..Reply::new(200).body("{}") }
    });
    let user = User::new();
    for _ in 0..5 {
        user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap();
    }
}

#[test]
fn foreign_layers_come_from_their_urls_without_credentials() {
    let elsewhere = Server::start(|seen| match seen.path() {
        "/layer" => Reply::new(200).body("foreign"),
        _ => Reply::new(404),
    });
    let server = Server::start(|_| Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"));
    let user = User::with(&[("tls-verify", "false"), ("creds", "me:pw")]);
    let source = user.open(&format!("{}/a:1", server.host()));
    let url = |path: &str| format!("http://{}{path}", elsewhere.host());
    let mut layer = Descriptor {
        media_type: media_type::DOCKER_FOREIGN_LAYER_GZIP.into(),
        urls: vec!["ftp://x/y".into(), url("/missing"), url("/layer")],
        ..blob_of(b"foreign")
    };
    assert_eq!(read(&*source, &layer, 0).0, b"foreign");
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(server.lines().is_empty());
    layer.urls.truncate(2);
    let error = read(&*source, &layer, 0).1.unwrap_err();
    assert!(chain(&error).starts_with("failed fetching external blob from all urls"), "{error:?}");
}

#[test]
fn a_stopped_download_ends_within_a_second() {
    let server = Server::start(|_| Reply::silent());
    let user = User::new();
    let stopped = user.services.stopped.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        stopped.store(true, Ordering::Relaxed);
    });
    let started = Instant::now();
    let error = user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    // Waiting for the server would take a minute.
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn warnings_of_a_registry_are_shown_once() {
    let server = Server::start(|_| Reply::new(200).with("warning", "299 - \"moving\"").body("{}"));
    let user = User::new();
    for _ in 0..2 {
        user.open(&format!("{}/a:1", server.host())).manifest(None).unwrap();
    }
    assert_eq!(user.services.text().matches("Warning from registry").count(), 1);
}

#[test]
fn tags_are_read_page_by_page() {
    let server = Server::start(|seen| match seen.query("last").as_deref() {
        None => Reply::new(200)
            .with("link", "</v2/a/tags/list?last=b&n=2>; rel=\"next\"")
            .body(r#"{"tags":["a","b"]}"#),
        Some("b") => Reply::new(200)
            .with("link", "<http://elsewhere.invalid/v2/a/tags/list?last=c>; rel=\"next\"")
            .body(r#"{"tags":["c"]}"#),
        Some(_) => Reply::new(200).body(r#"{"name":"a","tags":null}"#),
    });
    let user = User::new();
    let tags = user.image(&format!("{}/a", server.host())).tags(&user.session()).unwrap();
    assert_eq!(tags.tags, ["a", "b", "c"]);
    assert_eq!(tags.repository, format!("{}/a", server.host()));
    assert_eq!(server.seen()[0].target, "/v2/a/tags/list?n=1000");
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn tags_that_make_no_sense_are_errors() {
    for (reply, words) in [
        (
            Reply::new(200).with("link", "<?n=1000>; rel=next").body("{\"tags\":[]}"),
            "back to an earlier",
        ),
        (Reply::new(200).body("[]"), "decoding tag list response"),
        (
            Reply::new(200).body("{\"tags\":[\"no tag\"]}"),
            "registry returned invalid tag \"no tag\"",
        ),
        (
            Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            "fetching tags list: repository name not known to registry",
        ),
    ] {
        let server = Server::start(move |_| reply.clone());
        let user = User::new();
        let error = user.image(&format!("{}/a", server.host())).tags(&user.session()).unwrap_err();
        assert!(chain(&error).contains(words), "{error:?}");
        assert_ne!(error.kind(), ErrorKind::ImageNotFound);
    }
}

#[test]
fn an_image_is_deleted_by_its_digest() {
    let memory = Memory::default();
    memory.add_manifest("a", "1", media_type::OCI_MANIFEST, b"{}");
    let inner = memory.clone();
    let server = Server::start(move |seen| inner.answer(seen));
    let user = User::new();
    let delete =
        |name: &str| user.image(&format!("{}/a{name}", server.host())).delete(&user.session());
    delete(":1").unwrap();
    let digest = digest_of(b"{}");
    assert_eq!(
        server.lines(),
        ["HEAD /v2/a/manifests/1".to_owned(), format!("DELETE /v2/a/manifests/{digest}")]
    );
    let error = delete(&format!("@{digest}")).unwrap_err();
    assert!(error.message().starts_with("Unable to delete 127.0.0.1:"), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(server.lines().len(), 3, "a digest need not be asked for");
}

#[test]
fn a_registry_that_tells_no_digest_is_read_and_one_that_forbids_deleting_is_named() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "DELETE" => Reply::error(405, "UNSUPPORTED", "The operation is unsupported."),
        _ => Reply::new(200).body("{}"),
    });
    let user = User::new();
    let error = user.image(&format!("{}/a:1", server.host())).delete(&user.session()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(chain(&error).ends_with("/a:1: The operation is unsupported."), "{error:?}");
    assert!(error.hint().unwrap().contains("DELETE_ENABLED"));
    let methods: Vec<String> = server.seen().iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["HEAD", "GET", "DELETE"]);
    assert!(server.lines()[2].ends_with(digest_of(b"{}").as_str()));
}

#[test]
fn an_image_without_a_name_cannot_be_read() {
    let user = User::new();
    let error = user.image("q.io/a@@unknown-digest@@").open(&user.session()).err().unwrap();
    assert!(error.message().contains("without a tag or digest"), "{error}");
}
