//! Networks that are slow on one side, or stand still.

use std::time::{Duration, Instant};

use diolkos_tests::{Fault, Home, Image, Registry, Run as _, peak_memory};

/// The most memory that a copy may take, whatever it copies.
const MEMORY: u64 = 60 << 20;

/// Copies a layer of 200 MB; returns the most memory that it took.
fn copy(prepare: impl FnOnce(&Registry, &Registry)) -> u64 {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[200_000_000], 1);
    image.seed(&source, "app", "1");
    prepare(&source, &destination);
    let peak = peak_memory(&mut home.copy_command(
        &[],
        &source.reference("app:1"),
        &destination.reference("app:1"),
    ));
    image.check_in(&destination, "app", "1").unwrap();
    peak
}

#[test]
fn a_slow_source_does_not_make_the_destination_give_up() {
    let peak = copy(|source, _| source.always("GET", "/blobs/", Fault::SlowAnswer(50 << 20)));
    assert!(peak < MEMORY, "{} MB", peak >> 20);
}

#[test]
fn a_slow_destination_does_not_fill_the_memory() {
    let peak = copy(|_, destination| {
        destination.always("", "/uploads/", Fault::SlowIntake(50 << 20));
    });
    assert!(peak < MEMORY, "{} MB", peak >> 20);
}

#[test]
fn a_crawling_network_is_no_failure() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[30_000], 2);
    image.seed(&source, "app", "1");
    source.always("GET", "/blobs/", Fault::SlowAnswer(10_000));
    destination.always("", "/uploads/", Fault::SlowIntake(20_000));
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    assert_eq!(source.requests_of("GET", &image.layers()[0]).len(), 1);
}

#[test]
fn a_network_that_stands_still_is_left_when_the_time_is_over() {
    let (source, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[3_000_000], 3);
    image.seed(&source, "app", "1");
    source.always("GET", &image.layers()[0], Fault::StallAfter(1_000_000));
    let start = Instant::now();
    home.diolkos()
        .args(["--command-timeout=2s", "copy", "--src-tls-verify=false"])
        .args([&source.reference("app:1"), "oci:out:1"])
        .run()
        .expect_code(1);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(!home.path("out/index.json").exists());
}
