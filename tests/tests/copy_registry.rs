//! Copies against a registry that counts requests and fails on demand.

use std::time::{Duration, Instant};

use diolkos_tests::{
    Access, Fault, Format, Home, Image, Layer, LayerForm, Layout, Packing, Platform, Registry,
    Run as _,
};

fn two_platforms() -> Image {
    let images = [Platform::AMD64, Platform::ARM64]
        .map(|platform| Image::small(Format::Oci, platform, "registry"));
    Image::index(Format::Oci, images.to_vec())
}

fn count(registry: &Registry, method: &str, part: &str) -> usize {
    let requests = registry.requests();
    requests.iter().filter(|one| one.method == method && one.target.contains(part)).count()
}

#[test]
fn an_index_arrives_in_another_registry_as_it_was() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = two_platforms();
    image.seed(&source, "a/b/c", "v1");
    home.copy(&["--all"], &source.reference("a/b/c:v1"), &destination.reference("d:v2"))
        .expect_success();
    image.check_in(&destination, "d", "v2").unwrap();
    assert_eq!(destination.tags("d"), ["v2"]);
}

#[test]
fn one_platform_is_chosen_and_nothing_else_is_read() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let index = two_platforms();
    index.seed(&source, "app", "1");
    let mut command = home.diolkos();
    command
        .args(["--override-os=linux", "--override-arch=arm64", "copy"])
        .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
        .args([source.reference("app:1"), destination.reference("app:1")])
        .succeed();
    let arm = &index.instances[1];
    arm.check_in(&destination, "app", "1").unwrap();
    for digest in index.instances[0].layers().iter().filter(|one| !arm.layers().contains(one)) {
        assert_eq!(count(&source, "GET", digest), 0, "a layer of another platform was read");
    }
}

#[test]
fn nothing_is_asked_twice() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    Image::small(Format::Oci, Platform::AMD64, "once").seed(&source, "app", "1");
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    for registry in [&source, &destination] {
        let mut seen = std::collections::BTreeSet::new();
        for request in registry.requests() {
            let key = (request.method.clone(), request.target.clone());
            // Each upload starts with the same request, and `/v2/` may be asked before and after
            // a token.
            if request.method != "POST" && request.target != "/v2/" {
                assert!(seen.insert(key), "asked twice: {request:?}");
            }
        }
    }
}

#[test]
fn a_second_copy_moves_no_layer() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::small(Format::Docker, Platform::AMD64, "again");
    image.seed(&source, "app", "1");
    let copy = || {
        home.copy(&[], &source.reference("app:1"), &destination.reference("app:1"))
            .expect_success();
    };
    copy();
    source.forget_requests();
    destination.forget_requests();
    copy();
    for layer in image.layers() {
        assert_eq!(count(&source, "GET", &layer), 0);
    }
    assert_eq!(count(&destination, "POST", "/blobs/uploads"), 0);
    image.check_in(&destination, "app", "1").unwrap();
}

#[test]
fn blobs_are_mounted_within_a_registry() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "mount");
    image.seed(&registry, "team/app", "1");
    // The first copy teaches where the blobs are.
    home.copy(&[], &registry.reference("team/app:1"), &home.reference("oci", "layout:1"))
        .expect_success();
    registry.forget_requests();
    home.copy(&[], &registry.reference("team/app:1"), &registry.reference("other:1"))
        .expect_success();
    image.check_in(&registry, "other", "1").unwrap();
    for layer in image.layers() {
        assert_eq!(
            count(&registry, "GET", &layer),
            0,
            "a layer was read: {:?}",
            registry.requests()
        );
    }
    // The config is so small that uploading it may be the faster way.
    assert!(count(&registry, "PATCH", "") <= 1, "{:?}", registry.requests());
}

#[test]
fn damaged_bytes_fail_the_copy_and_leave_nothing_behind() {
    let image = Image::small(Format::Oci, Platform::AMD64, "damaged");
    for digest in image.layers().into_iter().chain(image.config()) {
        let (source, destination, home) =
            (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
        image.seed(&source, "app", "1");
        source.inject("GET", &digest, 1, Fault::FlipByte(20));
        let failed = home.copy(&[], &source.reference("app:1"), &home.reference("oci", "layout:1"));
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        assert!(failed.stderr.contains(&digest), "{}", failed.stderr);
        let blob = home.path("layout/blobs/sha256").join(digest.trim_start_matches("sha256:"));
        assert!(!blob.exists());
        assert!(!home.path("layout/index.json").exists());
        source.inject("GET", &digest, 1, Fault::FlipByte(20));
        let failed = home.copy(&[], &source.reference("app:1"), &destination.reference("app:1"));
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        assert!(destination.manifest("app", "1").is_none());
        assert!(destination.blob("app", &digest).is_none());
    }
}

#[test]
fn a_damaged_manifest_asked_for_by_digest_is_refused() {
    let (source, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "manifest");
    image.seed(&source, "app", "1");
    source.inject("GET", "/manifests/", 1, Fault::FlipByte(30));
    let reference = source.reference(&format!("app@{}", image.digest()));
    let failed = home.copy(&[], &reference, &home.reference("dir", "out"));
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
}

#[test]
fn a_connection_cut_in_the_middle_of_a_layer_is_taken_up_again() {
    let (source, home) = (Registry::start().unwrap(), Home::new());
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = LayerForm::new(Layer::new().file("noise", noise), Packing::Gzip);
    let image = Image::new(Format::Oci, Platform::AMD64, &[layer]);
    image.seed(&source, "app", "1");
    let layer = &image.layers()[0];
    source.inject("GET", layer, 1, Fault::CutAfter(1_000_000));
    home.copy(
        &["--retry-times=2", "--retry-delay=10ms"],
        &source.reference("app:1"),
        &home.reference("oci", "layout:1"),
    )
    .expect_success();
    assert!(Layout::new(home.path("layout")).unsound().unwrap().is_empty());
}

#[test]
fn passing_failures_are_tried_again_as_often_as_asked() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "retry");
    image.seed(&source, "app", "1");
    let unavailable = || Fault::status(503, "UNAVAILABLE");
    source.inject("GET", "/manifests/", 1, unavailable());
    destination.inject("PUT", "/manifests/", 1, unavailable());
    let copy = |times: &str| {
        let flags = [times, "--retry-delay=10ms"];
        home.copy(&flags, &source.reference("app:1"), &destination.reference("app:1"))
    };
    copy("--retry-times=3").expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    source.inject("GET", "/manifests/", 10, unavailable());
    let failed = copy("--retry-times=1");
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
}

#[test]
fn a_registry_that_wants_a_password_gets_it() {
    for access in [Access::basic("me", "se:cret"), Access::token("me", "se:cret")] {
        let (registry, home) = (Registry::start_with(access).unwrap(), Home::new());
        let image = Image::small(Format::Oci, Platform::AMD64, "password");
        image.write_layout(&home.path("in"), "1").unwrap();
        let (source, destination) = (home.reference("oci", "in:1"), registry.reference("app:1"));
        let refused = home.copy(&[], &source, &destination);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        let wrong = home.copy(&["--dest-creds=me:wrong"], &source, &destination);
        assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
        assert!(!wrong.stderr.contains("wrong\n") && !wrong.stderr.contains("bWU6"));
        home.copy(&["--dest-creds=me:se:cret"], &source, &destination).expect_success();
        image.check_in(&registry, "app", "1").unwrap();
        let flags = ["--src-username=me", "--src-password=se:cret"];
        home.copy(&flags, &destination, &home.reference("dir", "out")).expect_success();
    }
}

#[test]
fn what_does_not_exist_has_its_own_exit_code() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    Image::small(Format::Oci, Platform::AMD64, "exists").seed(&registry, "app", "1");
    let copy = |source: &str| home.copy(&[], source, &home.reference("dir", "out")).code;
    assert_eq!(copy(&registry.reference("app:2")), Some(2));
    assert_eq!(copy(&registry.reference("app:1")), Some(0));
    home.copy(&[], &registry.reference("app:1"), "oci:layout:1").expect_success();
    assert_eq!(copy("oci:layout:2"), Some(2));
    assert_eq!(copy("oci:nowhere:2"), Some(1));
    assert_eq!(copy("dir:nowhere"), Some(1));
}

#[test]
fn a_refused_manifest_type_is_tried_in_another() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    Image::small(Format::Oci, Platform::AMD64, "refused")
        .write_layout(&home.path("in"), "1")
        .unwrap();
    registry.inject("PUT", "/manifests/", 1, Fault::status(400, "MANIFEST_INVALID"));
    home.copy(&[], "oci:in:1", &registry.reference("app:1")).expect_success();
    let manifest = registry.manifest("app", "1").unwrap();
    assert_eq!(manifest.media_type, "application/vnd.docker.distribution.manifest.v2+json");
}

#[test]
fn layers_move_beside_each_other() {
    let (source, home) = (Registry::start().unwrap(), Home::new());
    let layers: Vec<_> = (0..4)
        .map(|n| LayerForm::new(Layer::new().file(&n.to_string(), "x"), Packing::Gzip))
        .collect();
    let image = Image::new(Format::Oci, Platform::AMD64, &layers);
    image.seed(&source, "app", "1");
    source.inject("GET", "/blobs/", 5, Fault::Hang(Duration::from_millis(700)));
    let start = Instant::now();
    let destination = Registry::start().unwrap();
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    assert!(start.elapsed() < Duration::from_millis(2600), "{:?}", start.elapsed());
}
