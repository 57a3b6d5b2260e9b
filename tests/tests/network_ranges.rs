//! Large layers that come over several connections, where one alone is slow.

use diolkos_tests::{Answer, Fault, Home, Image, Logged, Outcome, Registry, Run as _, peak_memory};

const MEGABYTE: u64 = 1 << 20;
/// What each connection is held to, in bytes a second.
const SLOW: u64 = 8 << 20;
/// Large enough to be worth several connections.
const SIZE: usize = 72 << 20;

/// An image with one large layer, in a registry that gives each connection its share.
fn slow(seed: u32) -> (Registry, Image, String) {
    let registry = Registry::start().unwrap();
    let image = Image::noise(&[SIZE], seed);
    image.seed(&registry, "app", "1");
    let layer = image.layers()[0].clone();
    registry.always("GET", &layer, Fault::SlowAnswer(SLOW));
    (registry, image, layer)
}

fn copy(source: &Registry, home: &Home) -> Outcome {
    home.copy(&[], &source.reference("app:1"), "dir:out")
}

/// Returns where the ranges begin and end that were asked for.
fn ranges(requests: &[Logged]) -> Vec<(u64, Option<u64>)> {
    let range = |request: &Logged| {
        let (first, last) = request.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    };
    requests.iter().filter_map(range).collect()
}

#[test]
fn a_large_layer_comes_over_several_connections_where_each_is_slow() {
    let (source, image, layer) = slow(1);
    let home = Home::new();
    let peak = peak_memory(&mut home.copy_command(&[], &source.reference("app:1"), "oci:out:1"));
    home.diolkos().args(["copy", "oci:out:1", "dir:out.dir"]).run().expect_success();
    let requests = source.requests_of("GET", &layer);
    let ranges = ranges(&requests);
    assert!(ranges.len() >= 5, "{ranges:?}");
    assert!(ranges.iter().all(|(_, last)| last.is_some()), "{ranges:?}");
    // The first part and those behind it are all of the layer, and little of it came twice.
    let end = *ranges.iter().map(|(_, last)| last).max().unwrap();
    assert!(end > Some(SIZE as u64) && end < Some(image.size()), "{ranges:?}");
    let sent = source.sent();
    assert!(sent < image.size() + 6 * MEGABYTE, "{sent} of {}", image.size());
    assert!(peak < 60 << 20, "{} MB", peak >> 20);
}

#[test]
fn a_registry_that_knows_no_parts_is_asked_for_none() {
    let (source, _, layer) = slow(2);
    source.always("GET", &layer, Fault::WithoutHeader("Accept-Ranges".to_owned()));
    copy(&source, &Home::new()).expect_success();
    assert_eq!(source.requests_of("GET", &layer).len(), 1);
}

#[test]
fn a_layer_that_comes_as_fast_as_the_network_is_moved_once() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[SIZE], 3);
    image.seed(&registry, "app", "1");
    copy(&registry, &home).expect_success();
    // On a machine that is busy several connections may have been tried.
    let sent = registry.sent();
    assert!(sent < image.size() + 6 * MEGABYTE, "{sent} of {}", image.size());
}

/// Treats the second and following requests for the layer, which are for parts, with this fault.
#[track_caller]
fn with_broken_parts(seed: u32, times: usize, fault: Fault) -> Vec<(u64, Option<u64>)> {
    let said = format!("{fault:?}");
    let (source, image, layer) = slow(seed);
    source.inject("GET", &layer, 1, Fault::Header("X-First".to_owned(), String::new()));
    source.inject("GET", &layer, times, fault);
    let (destination, home) = (Registry::start().unwrap(), Home::new());
    let outcome = home.copy(&[], &source.reference("app:1"), &destination.reference("app:1"));
    assert_eq!(outcome.code, Some(0), "{said}: {}", outcome.stderr);
    image.check_in(&destination, "app", "1").unwrap();
    ranges(&source.requests_of("GET", &layer))
}

#[test]
fn a_part_that_breaks_off_is_asked_for_again_from_there() {
    let ranges = with_broken_parts(4, 2, Fault::CutAfter(700_000));
    let begun = ranges[0].0;
    assert!(ranges.iter().any(|(first, _)| *first == begun + 700_000), "{ranges:?}");
}

#[test]
fn a_part_that_stands_still_is_asked_for_over_another_connection() {
    let ranges = with_broken_parts(5, 1, Fault::StallAfter(700_000));
    let begun = ranges[0].0;
    assert!(ranges.iter().any(|(first, _)| *first == begun + 700_000), "{ranges:?}");
}

#[test]
fn parts_that_are_refused_end_nothing() {
    with_broken_parts(6, 2, Fault::IgnoreRange);
    with_broken_parts(6, 2, Fault::Answer(Answer::error(416, "RANGE_INVALID")));
    with_broken_parts(6, 2, Fault::Answer(Answer::empty(503)));
    with_broken_parts(6, 2, Fault::Answer(Answer::empty(404)));
    with_broken_parts(6, 2, Fault::header("Content-Range", "bytes 5-9/20"));
    with_broken_parts(6, 2, Fault::Disconnect);
}

#[test]
fn parts_that_bring_next_to_nothing_are_not_asked_for_for_ever() {
    let (source, _, layer) = slow(8);
    source.inject("GET", &layer, 1, Fault::Header("X-First".to_owned(), String::new()));
    source.inject("GET", &layer, 100_000, Fault::CutAfter(1));
    copy(&source, &Home::new()).expect_code(1);
    let requests = source.requests_of("GET", &layer).len();
    assert!(requests < 100, "{requests}");
}

#[test]
fn a_part_with_other_bytes_is_noticed() {
    let (source, _, layer) = slow(7);
    source.inject("GET", &layer, 1, Fault::Header("X-First".to_owned(), String::new()));
    source.always("GET", &layer, Fault::FlipByte(SIZE - 100));
    let home = Home::new();
    copy(&source, &home).expect_code(1).expect_words(&[&layer]);
    assert!(!home.path("out/manifest.json").exists());
}
