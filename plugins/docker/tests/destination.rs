//! Writing to a registry: which requests are made, and what happens when they fail.

mod support;

use std::time::{Duration, Instant};

use diolkos_sdk::conformance::image::noise;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    BlobCandidate, BlobIncoming, Destination, ErrorKind, LayerForm, Location, RawManifest, TopLevel,
};
use support::memory::Memory;
use support::server::{Reply, Seen, Server};
use support::{User, blob_of, digest_of, incoming, put, sums, wanted};

fn memory_server() -> (Memory, Server) {
    let memory = Memory::default();
    let server = Server::start({
        let memory = memory.clone();
        move |seen| memory.answer(seen)
    });
    (memory, server)
}

fn top(bytes: &[u8]) -> TopLevel {
    TopLevel {
        digest: digest_of(bytes),
        media_type: media_type::OCI_MANIFEST.into(),
        size: bytes.len() as u64,
    }
}

/// Writes an image as the engine does one that is new.
fn push_new(destination: Box<dyn Destination>, blobs: &[&[u8]]) {
    let mut probably_new = false;
    for blob in blobs {
        let found = destination.reuse(&wanted(blob, probably_new)).unwrap();
        assert_eq!(found, None);
        probably_new = true;
        assert!(put(&*destination, blob, &incoming(blob)).unwrap());
    }
    let manifest = br#"{"schemaVersion":2}"#;
    let raw = RawManifest::new(manifest.to_vec(), media_type::OCI_MANIFEST);
    destination.put_manifest(&raw, None).unwrap();
    destination.commit(&top(manifest)).unwrap();
}

#[test]
fn a_new_image_of_two_layers_costs_eight_requests() {
    let (memory, server) = memory_server();
    let user = User::new();
    let (large, small) = (noise(1, 3_000_000), noise(2, 70_000));
    push_new(user.create(&format!("{}/a/b:1", server.host())), &[&large, &small, b"{}"]);
    let uploads = "/v2/a/b/blobs/uploads/";
    let expected = [
        format!("HEAD /v2/a/b/blobs/{}", digest_of(&large)),
        format!("POST {uploads}"),
        format!("PUT {uploads}u1"),
        format!("POST {uploads}"),
        format!("PUT {uploads}u2"),
        format!("POST {uploads}"),
        format!("PUT {uploads}u3"),
        "PUT /v2/a/b/manifests/1".to_owned(),
    ];
    assert_eq!(server.lines(), expected);
    assert!(memory.blob("a/b", &large) && memory.blob("a/b", &small) && memory.blob("a/b", b"{}"));
    assert_eq!(memory.manifest("a/b", "1").unwrap().0, media_type::OCI_MANIFEST);
    let put = &server.seen()[2];
    assert_eq!(put.header("content-length"), Some("3000000"));
    assert_eq!(put.query("state").as_deref(), Some("s%3D1"), "the location's query is kept");
    assert!(put.header("user-agent").unwrap().starts_with("diolkos/"));
}

#[test]
fn https_or_not_is_found_out_without_a_request() {
    // Failing handshakes are no requests; and what was learnt is kept by the transport.
    let (_memory, server) = memory_server();
    let user = User::new();
    let name = format!("{}/a:1", server.host());
    assert_eq!(user.create(&name).current().unwrap(), None);
    assert_eq!(user.create(&name).current().unwrap(), None);
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn blobs_that_are_there_cost_one_request_each_and_no_upload() {
    let (memory, server) = memory_server();
    memory.add_blob("a", b"base");
    memory.add_blob("a", b"next");
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let found = destination.reuse(&wanted(b"base", false)).unwrap().unwrap();
    assert_eq!(found, blob_of(b"base"));
    // Thought to be new, and there after all: the request that begins an upload finds out.
    assert_eq!(destination.reuse(&wanted(b"next", true)).unwrap(), None);
    assert!(!put(&*destination, b"next", &incoming(b"next")).unwrap());
    assert_eq!(
        server.lines(),
        [format!("HEAD /v2/a/blobs/{}", digest_of(b"base")), "POST /v2/a/blobs/uploads/".into()]
    );
}

fn candidate(bytes: &[u8], server: &Server, place: &str) -> BlobCandidate {
    BlobCandidate {
        blob: blob_of(bytes),
        location: Some(Location { scope: server.host(), place: place.into() }),
    }
}

#[test]
fn a_blob_known_elsewhere_is_mounted_with_one_request() {
    let (memory, server) = memory_server();
    memory.add_blob("other/repo", b"base");
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    for probably_new in [false, true] {
        let mut wanted = wanted(b"base", probably_new);
        wanted.candidates = vec![candidate(b"base", &server, "other/repo")];
        assert_eq!(destination.reuse(&wanted).unwrap(), Some(blob_of(b"base")));
    }
    assert_eq!(server.lines().len(), 2);
    assert_eq!(server.seen()[0].query("from").as_deref(), Some("other/repo"));
    assert!(memory.blob("a", b"base"));
}

#[test]
fn an_upload_that_a_failed_mount_began_is_used() {
    let (memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let mut wanted = wanted(b"base", false);
    wanted.candidates = vec![candidate(b"base", &server, "other/repo")];
    assert_eq!(destination.reuse(&wanted).unwrap(), None);
    assert!(put(&*destination, b"base", &incoming(b"base")).unwrap());
    assert_eq!(server.lines(), ["POST /v2/a/blobs/uploads/", "PUT /v2/a/blobs/uploads/u1"]);
    assert!(memory.blob("a", b"base"));
}

#[test]
fn an_equal_blob_of_another_digest_may_stand_in() {
    let (memory, server) = memory_server();
    memory.add_blob("a", b"zstd");
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let mut wanted = wanted(b"gzip", false);
    wanted.candidates = vec![candidate(b"zstd", &server, "a")];
    assert_eq!(destination.reuse(&wanted).unwrap(), Some(blob_of(b"zstd")));
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn places_in_another_registry_are_not_asked_for() {
    let (_memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let mut wanted = wanted(b"base", true);
    let location = Location { scope: "quay.io".into(), place: "x".into() };
    wanted.candidates = vec![
        BlobCandidate { blob: blob_of(b"base"), location: Some(location.clone()) },
        BlobCandidate { blob: blob_of(b"other"), location: Some(location) },
    ];
    assert_eq!(destination.reuse(&wanted).unwrap(), None);
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn the_manifest_that_is_there_is_learnt_with_one_request() {
    let (memory, server) = memory_server();
    memory.add_manifest("a", "1", media_type::OCI_MANIFEST, b"{}");
    let user = User::new();
    let current = |tag: &str| user.create(&format!("{}/a:{tag}", server.host())).current().unwrap();
    assert_eq!(current("1"), Some(digest_of(b"{}")));
    assert_eq!(current("2"), None);
    assert_eq!(server.lines(), ["HEAD /v2/a/manifests/1", "HEAD /v2/a/manifests/2"]);
    assert_eq!(server.seen()[0].all("accept").len(), 6);
}

#[test]
fn a_large_blob_of_unknown_digest_is_patched() {
    let (memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let blob = noise(3, 2_000_000);
    let unknown = BlobIncoming { digest: None, size: None, ..incoming(&blob) };
    assert!(put(&*destination, &blob, &unknown).unwrap());
    let uploads = "/v2/a/blobs/uploads/";
    assert_eq!(
        server.lines(),
        [format!("POST {uploads}"), format!("PATCH {uploads}u1"), format!("PUT {uploads}u1")]
    );
    assert_eq!(server.seen()[1].header("transfer-encoding"), Some("chunked"));
    assert!(memory.blob("a", &blob));
}

#[test]
fn a_small_blob_of_unknown_digest_is_known_when_it_is_sent() {
    let (memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let unknown = BlobIncoming { digest: None, size: None, ..incoming(b"small") };
    assert!(put(&*destination, b"small", &unknown).unwrap());
    // The second time it is there.
    assert!(put(&*destination, b"small", &unknown).unwrap());
    assert_eq!(server.lines().len(), 3);
    assert!(memory.blob("a", b"small"));
}

#[test]
fn an_upload_begun_in_vain_serves_the_next_blob() {
    let (memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    drop(destination.put_blob(&incoming(b"abandoned")).unwrap());
    let blob = noise(4, 1_000_000);
    let unknown = BlobIncoming { digest: None, size: None, ..incoming(&blob) };
    assert!(put(&*destination, &blob, &unknown).unwrap());
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("POST")).count(), 1);
    assert!(memory.blob("a", &blob));
}

#[test]
fn a_dropped_writer_commits_nothing_and_cancels_its_upload() {
    for announced in [true, false] {
        let (memory, server) = memory_server();
        let destination = User::new().create(&format!("{}/a:1", server.host()));
        let blob = noise(5, 2_000_000);
        let mut incoming = incoming(&blob);
        if !announced {
            (incoming.digest, incoming.size) = (None, None);
        }
        let mut writer = destination.put_blob(&incoming).unwrap().unwrap();
        writer.write(&blob).unwrap();
        drop(writer);
        assert!(server.wait_for(|seen| seen.method == "DELETE"), "{:?}", server.lines());
        let body = |seen: &Seen| seen.method == "PUT" || seen.method == "PATCH";
        assert!(server.seen().iter().filter(|seen| body(seen)).all(|seen| !seen.complete));
        assert!(!memory.blob("a", &blob));
    }
}

#[test]
fn a_stopped_copy_ends_after_its_uploads_were_cancelled() {
    let (_memory, server) = memory_server();
    let user = User::new();
    let destination = user.create(&format!("{}/a:1", server.host()));
    let blob = noise(6, 2_000_000);
    let mut writer = destination.put_blob(&incoming(&blob)).unwrap().unwrap();
    writer.write(&blob).unwrap();
    user.services.stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(writer);
    drop(destination);
    // The server lists a request when its body has ended, so the broken upload may stand behind.
    assert!(server.lines().iter().any(|line| line.starts_with("DELETE ")), "{:?}", server.lines());
}

#[test]
fn a_registry_that_does_not_answer_holds_up_the_end_for_a_moment_only() {
    let memory = Memory::default();
    let server = Server::start(move |seen| match &*seen.method {
        "DELETE" => Reply::silent(),
        _ => memory.answer(seen),
    });
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    drop(destination.put_blob(&incoming(b"abandoned")).unwrap());
    let begun = Instant::now();
    drop(destination);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn other_content_than_announced_is_not_committed() {
    let (memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let mut writer = destination.put_blob(&incoming(b"announced")).unwrap().unwrap();
    writer.write(b"different").unwrap();
    assert_eq!(writer.finish(&sums(b"different")).unwrap_err().kind(), ErrorKind::Corrupt);
    let mut writer = destination.put_blob(&incoming(b"announced")).unwrap().unwrap();
    assert_eq!(writer.write(b"announced and more").unwrap_err().kind(), ErrorKind::Corrupt);
    drop(writer);
    assert!(!memory.blob("a", b"different"));
}

/// A registry that takes bytes by PATCH alone.
fn patch_only() -> (Memory, Server) {
    let memory = Memory::default();
    let inner = memory.clone();
    let server = Server::start(move |seen| {
        if seen.method == "PUT" && seen.path().contains("/uploads/") && !seen.body.is_empty() {
            return Reply::error(400, "BLOB_UPLOAD_INVALID", "content is not expected");
        }
        inner.answer(seen)
    });
    (memory, server)
}

#[test]
fn a_registry_without_single_uploads_gets_small_blobs_in_two_requests() {
    let (memory, server) = patch_only();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    assert!(put(&*destination, b"first", &incoming(b"first")).unwrap());
    let before = server.lines().len();
    assert!(put(&*destination, b"second", &incoming(b"second")).unwrap());
    let methods: Vec<String> =
        server.seen()[before..].iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["POST", "PATCH", "PUT"], "what was learnt is kept");
    assert!(memory.blob("a", b"first") && memory.blob("a", b"second"));
}

#[test]
fn a_large_blob_is_worth_another_try_where_single_uploads_are_refused() {
    let (memory, server) = patch_only();
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let blob = noise(6, 1_500_000);
    let error = put(&*destination, &blob, &incoming(&blob)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(put(&*destination, &blob, &incoming(&blob)).unwrap());
    assert!(memory.blob("a", &blob));
}

#[test]
fn an_early_refusal_ends_an_upload_at_once() {
    for status in [413, 500] {
        let memory = Memory::default();
        let server = Server::start_early(
            move |seen| (seen.method == "PUT").then(|| Reply::new(status).body("no")),
            move |seen| memory.answer(seen),
        );
        let destination = User::new().create(&format!("{}/a:1", server.host()));
        let size = 200_000_000;
        let incoming = BlobIncoming { size: Some(size), ..incoming(b"x") };
        let started = Instant::now();
        let mut writer = destination.put_blob(&incoming).unwrap().unwrap();
        let chunk = vec![0; 1_000_000];
        let error = (0..200).find_map(|_| writer.write(&chunk).err()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20));
        let chain = error.chain().join(": ");
        assert!(chain.contains(&status.to_string()), "{chain}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{chain}");
        assert_eq!(error.retry_after(), Some(Duration::ZERO), "the next try sends pieces");
        assert!(writer.write(&chunk).is_err(), "a writer that failed stays failed");
    }
}

#[test]
fn an_answer_without_location_is_an_error() {
    let server = Server::start(|_| Reply::new(202));
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let error = destination.put_blob(&incoming(b"x")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().join(": ").contains("determining upload URL"), "{error:?}");
}

#[test]
fn a_registry_that_refuses_mounts_is_asked_with_head() {
    let memory = Memory::default();
    memory.add_blob("a", b"there");
    let inner = memory.clone();
    let server = Server::start(move |seen| match seen.query("mount") {
        Some(_) => Reply::new(405),
        None => inner.answer(seen),
    });
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    assert!(put(&*destination, b"one", &incoming(b"one")).unwrap());
    assert!(!put(&*destination, b"there", &incoming(b"there")).unwrap());
    assert!(put(&*destination, b"two", &incoming(b"two")).unwrap());
    let methods: Vec<String> = server.seen().iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["POST", "POST", "PUT", "HEAD", "HEAD", "POST", "PUT"]);
}

#[test]
fn a_manifest_of_a_refused_type_is_reported_as_such() {
    for reply in [
        Reply::error(400, "MANIFEST_INVALID", "manifest invalid"),
        Reply::error(404, "TAG_INVALID", "no"),
        Reply::error(405, "UNSUPPORTED", "Invalid JSON syntax"),
        Reply::new(415),
    ] {
        let server = Server::start(move |_| reply.clone());
        let destination = User::new().create(&format!("{}/a:1", server.host()));
        let raw = RawManifest::new(b"{}".to_vec(), media_type::OCI_MANIFEST);
        let error = destination.put_manifest(&raw, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ManifestRejected, "{error:?}");
        let chain = error.chain().join(": ");
        assert!(chain.starts_with("uploading manifest 1 to 127.0.0.1:"), "{chain}");
    }
}

#[test]
fn instances_go_by_digest_and_a_nameless_image_too() {
    let (memory, server) = memory_server();
    let destination = User::new().create(&format!("{}/a@@unknown-digest@@", server.host()));
    let raw = RawManifest::new(b"{\"manifests\":[]}".to_vec(), "");
    destination.put_manifest(&raw, Some(&digest_of(&raw.bytes))).unwrap();
    destination.put_manifest(&raw, None).unwrap();
    let digest = digest_of(&raw.bytes);
    let committed = destination.commit(&top(&raw.bytes)).unwrap();
    assert_eq!(committed.details.unwrap(), format!("//{}/a@{digest}", server.host()));
    assert_eq!(memory.manifest("a", digest.as_str()).unwrap().0, media_type::OCI_INDEX);
}

#[test]
fn what_a_registry_takes_is_told_without_a_request() {
    let (_memory, server) = memory_server();
    let accepts = User::new().create(&format!("{}/a:1", server.host())).accepts();
    assert_eq!(accepts.manifest_types[0], media_type::OCI_MANIFEST);
    assert_eq!(accepts.layer_form, LayerForm::Compress);
    assert!(accepts.signatures.is_err() && accepts.parallel_blobs && !accepts.needs_size);
    assert!(server.lines().is_empty());
}

#[test]
fn a_stopped_upload_ends_within_a_second() {
    let memory = Memory::default();
    let server = Server::start(move |seen| match seen.method.as_str() {
        "PUT" => Reply::silent(),
        _ => memory.answer(seen),
    });
    let user = User::new();
    let destination = user.create(&format!("{}/a:1", server.host()));
    let mut writer = destination.put_blob(&incoming(b"x")).unwrap().unwrap();
    writer.write(b"x").unwrap();
    let stopped = user.services.stopped.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let started = Instant::now();
    assert_eq!(writer.finish(&sums(b"x")).unwrap_err().kind(), ErrorKind::Cancelled);
    // Waiting for the server would take a minute.
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_registry_that_is_never_well_is_left_after_a_few_tries() {
    let memory = Memory::default();
    let server = Server::start(move |seen| match &*seen.method {
        "PUT" => Reply::error(503, "UNAVAILABLE", "try later"),
        _ => memory.answer(seen),
    });
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let error = put(&*destination, b"bytes", &incoming(b"bytes")).unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, None));
    let puts = server.lines().iter().filter(|line| line.starts_with("PUT")).count();
    assert!((2..=6).contains(&puts), "{puts}");
}

#[test]
fn a_registry_that_wants_to_be_left_alone_for_an_hour_is() {
    let memory = Memory::default();
    let server = Server::start(move |seen| match &*seen.method {
        "PUT" => Reply::new(429).with("retry-after", "3600"),
        _ => memory.answer(seen),
    });
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    let error = put(&*destination, b"bytes", &incoming(b"bytes")).unwrap_err();
    assert!(!error.kind().is_transient(), "{error:?}");
    assert!(error.hint().unwrap().contains("left alone for 1 h"), "{error:?}");
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 1);
}

#[test]
fn a_web_page_is_no_answer_of_a_registry_that_stored_a_blob() {
    let memory = Memory::default();
    let server = Server::start(move |seen| match &*seen.method {
        "PUT" => Reply::new(200).with("content-type", "text/html").body("<html>Log in"),
        _ => memory.answer(seen),
    });
    let destination = User::new().create(&format!("{}/a:1", server.host()));
    assert!(put(&*destination, b"bytes", &incoming(b"bytes")).is_err());
}
