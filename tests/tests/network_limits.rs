//! Registries that take only so much at a time.

use diolkos_tests::{Answer, Fault, Home, Image, Outcome, Registry};

/// Sends an image with one layer of 3 MB to a registry.
fn send(registry: &Registry, seed: u32) -> (Image, Outcome) {
    let (source, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[3_000_000], seed);
    image.seed(&source, "app", "1");
    let outcome = home.copy(&[], &source.reference("app:1"), &registry.reference("app:1"));
    (image, outcome)
}

/// Returns the sizes of all pieces that a registry took.
fn pieces(registry: &Registry) -> Vec<u64> {
    let requests = registry.requests_of("PATCH", "/uploads/");
    requests.iter().filter(|one| one.status == 202).map(|one| one.received).collect()
}

#[test]
fn a_limit_on_bodies_leads_to_smaller_pieces() {
    for limit in [1 << 20, 256 << 10] {
        let registry = Registry::start().unwrap();
        registry.always("", "", Fault::LimitBody(limit));
        let (image, outcome) = send(&registry, 1);
        outcome.expect_success();
        image.check_in(&registry, "app", "1").unwrap();
        let pieces = pieces(&registry);
        assert!(pieces.iter().all(|size| *size <= limit), "{pieces:?}");
        assert!(pieces.iter().sum::<u64>() >= 3_000_000, "{pieces:?}");
    }
}

#[test]
fn what_was_learnt_of_a_limit_is_used_for_the_next_layer() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[2_000_000; 6], 2);
    image.seed(&source, "app", "1");
    destination.always("", "", Fault::LimitBody(1 << 20));
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    let requests = destination.requests();
    let refused = requests.iter().filter(|one| one.status == 413).count();
    // Those that began together may all find out, but not each of them at every step.
    assert!(refused <= 12, "{refused} refusals");
}

#[test]
fn a_limit_that_no_piece_passes_is_named() {
    let registry = Registry::start().unwrap();
    registry.always("", "", Fault::LimitBody(10_000));
    let (_, outcome) = send(&registry, 3);
    outcome.expect_code(1).expect_words(&["413", "limit", &registry.host()]);
    assert!(registry.manifest("app", "1").is_none());
}

#[test]
fn a_limit_on_manifests_is_named() {
    let registry = Registry::start().unwrap();
    registry.always("PUT", "/manifests/", Fault::Answer(Answer::html(413)));
    let (_, outcome) = send(&registry, 4);
    outcome.expect_code(1).expect_words(&["413", &registry.host()]);
}

#[test]
fn pieces_are_not_smaller_than_the_registry_wants_them() {
    let least = 700 << 10;
    let registry = Registry::start().unwrap();
    registry.always("", "", Fault::LimitBody(1 << 20));
    let header = Fault::header("OCI-Chunk-Min-Length", least.to_string());
    registry.always("POST", "/uploads/", header);
    let (image, outcome) = send(&registry, 5);
    outcome.expect_success();
    image.check_in(&registry, "app", "1").unwrap();
    let pieces = pieces(&registry);
    // The last of the layer may be smaller, and the config is small.
    let small = pieces.iter().filter(|size| **size < least).count();
    assert!(small <= 2, "{pieces:?}");
}

#[test]
fn pieces_say_where_they_belong() {
    let registry = Registry::start().unwrap();
    registry.always("", "", Fault::LimitBody(1 << 20));
    let (_, outcome) = send(&registry, 6);
    outcome.expect_success();
    let mut at = 0;
    for piece in registry.requests_of("PATCH", "/uploads/").iter().filter(|one| one.received > 1000)
    {
        let range = piece.header("content-range").expect("a piece says where it belongs");
        assert_eq!(range, format!("{at}-{}", at + piece.received - 1));
        at += piece.received;
    }
}
