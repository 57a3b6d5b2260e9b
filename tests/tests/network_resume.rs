//! Downloads and uploads that break off in the middle, and go on where they stopped.

use diolkos_tests::{Answer, Fault, Home, Image, Network, Proxy, Registry};

const MEGABYTE: u64 = 1 << 20;

/// Returns where the `Range` or `Content-Range` of a request begins.
fn start_of(range: Option<&str>) -> Option<u64> {
    let digits = range?.trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    digits.split('-').next()?.parse().ok()
}

/// An image with one layer of 4 MB, in a registry.
fn seeded(seed: u32) -> (Registry, Image, String) {
    let registry = Registry::start().unwrap();
    let image = Image::noise(&[4_000_000], seed);
    image.seed(&registry, "app", "1");
    let layer = image.layers()[0].clone();
    (registry, image, layer)
}

/// Sends an image with one layer of 4 MB to a registry that was prepared for it.
fn upload(seed: u32, prepare: impl FnOnce(&Registry)) -> Registry {
    let (source, image, _) = seeded(seed);
    let (destination, home) = (Registry::start().unwrap(), Home::new());
    prepare(&destination);
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    destination
}

/// Cuts the first bodies that are long enough, whichever method they are sent with. The config
/// may be among them.
fn cut_some(registry: &Registry) {
    for method in ["PUT", "PATCH"] {
        registry.inject(method, "/uploads/", 2, Fault::CutBody(1_500_000));
    }
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let (source, image, layer) = seeded(1);
    let (destination, home) = (Registry::start().unwrap(), Home::new());
    source.inject("GET", &layer, 1, Fault::CutAfter(1_500_000));
    source.inject("GET", &layer, 1, Fault::CutAfter(1_000_000));
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    let starts: Vec<_> = source
        .requests_of("GET", &layer)
        .iter()
        .map(|request| start_of(request.header("range")).unwrap_or(0))
        .collect();
    assert_eq!(starts, [0, 1_500_000, 2_500_000]);
    // Nothing came twice, but for manifests.
    assert!(source.sent() < image.size() + 20_000, "{} of {}", source.sent(), image.size());
}

/// Breaks a download off, and what is asked for then with this fault.
#[track_caller]
fn resume_with(fault: Fault) {
    let said = format!("{fault:?}");
    let (source, image, layer) = seeded(2);
    let (destination, home) = (Registry::start().unwrap(), Home::new());
    source.inject("GET", &layer, 1, Fault::CutAfter(1_500_000));
    source.inject("GET", &layer, 1, fault);
    let outcome = home.copy(&[], &source.reference("app:1"), &destination.reference("app:1"));
    assert_eq!(outcome.code, Some(0), "{said}: {}", outcome.stderr);
    image.check_in(&destination, "app", "1").unwrap();
}

#[test]
fn a_download_is_begun_again_where_parts_are_refused() {
    resume_with(Fault::Answer(Answer::error(416, "RANGE_INVALID")));
    resume_with(Fault::Answer(Answer::empty(400)));
}

#[test]
fn a_download_goes_on_where_the_whole_comes_in_place_of_a_part() {
    resume_with(Fault::IgnoreRange);
}

#[test]
fn a_part_that_is_shorter_than_asked_for_is_no_end() {
    let (source, image, layer) = seeded(10);
    let (destination, home) = (Registry::start().unwrap(), Home::new());
    source.inject("GET", &layer, 1, Fault::CutAfter(1_500_000));
    source.inject("GET", &layer, 1, Fault::ShortPart(400_000));
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    let requests = source.requests_of("GET", &layer);
    assert_eq!(start_of(requests[2].header("range")), Some(1_900_000));
}

#[test]
fn bytes_that_were_damaged_before_the_break_are_noticed() {
    let (source, _, layer) = seeded(3);
    let (destination, home) = (Registry::start().unwrap(), Home::new());
    source.always("GET", &layer, Fault::FlipByte(100));
    source.inject("GET", &layer, 1, Fault::CutAfter(1_500_000));
    let failed = home.copy(&[], &source.reference("app:1"), &destination.reference("app:1"));
    failed.expect_code(1).expect_words(&[&layer]);
    assert!(destination.manifest("app", "1").is_none());
    assert!(destination.blob("app", &layer).is_none());
}

#[test]
fn an_upload_asks_how_far_it_got_and_goes_on_there() {
    let registry = upload(4, |registry| {
        registry.always("", "/uploads/", Fault::CutBody(1_500_000));
    });
    assert!(registry.requests_of("GET", "/uploads/").len() >= 2, "it did not ask");
    let requests = registry.requests();
    let starts: Vec<_> =
        requests.iter().filter_map(|one| start_of(one.header("content-range"))).collect();
    assert!(starts.contains(&1_500_000) && starts.contains(&3_000_000), "{starts:?}");
    assert!(registry.received() < 4_500_000, "{} bytes", registry.received());
}

#[test]
fn an_upload_whose_state_cannot_be_told_for_a_moment_goes_on() {
    let registry = upload(11, |registry| {
        registry.inject("PUT", "/uploads/", 2, Fault::CutBody(1_500_000));
        registry.inject("PATCH", "/uploads/", 1, Fault::CutBody(500_000));
        registry.inject("GET", "/uploads/", 1, Fault::status(503, "UNAVAILABLE"));
    });
    assert!(registry.received() < 4_500_000, "{} bytes", registry.received());
}

#[test]
fn a_registry_that_claims_more_than_was_sent_is_not_believed() {
    upload(12, |registry| {
        let lie = Answer::empty(204).header("Range", "0-99999999");
        registry.always("GET", "/uploads/", Fault::Answer(lie));
        cut_some(registry);
    });
}

#[test]
fn a_blob_that_is_tried_again_as_a_whole_begins_at_its_first_byte() {
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[8_000_000], 14);
    image.seed(&source, "app", "1");
    destination.inject("PUT", "/uploads/", 2, Fault::CutBody(4_000_000));
    let busy = Answer::error(503, "UNAVAILABLE").retry_after(0);
    destination.inject("PATCH", "/uploads/", 8, Fault::Answer(busy));
    let (from, to) = (source.reference("app:1"), destination.reference("app:1"));
    home.copy(&["--retry-times=3", "--retry-delay=10ms"], &from, &to).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
}

#[test]
fn pieces_are_as_large_as_the_registry_wants_them() {
    const LEAST: u64 = 3 << 20;
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[8_000_000; 3], 13);
    image.seed(&source, "app", "1");
    destination.always(
        "POST",
        "/uploads/",
        Fault::header("OCI-Chunk-Min-Length", LEAST.to_string()),
    );
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    let patches = destination.requests_of("PATCH", "/uploads/");
    let lengths: Vec<u64> = patches
        .iter()
        .filter_map(|patch| {
            let (first, last) = patch.header("content-range")?.split_once('-')?;
            Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
        })
        .collect();
    // The last piece of each layer is what is left.
    let short = lengths.iter().filter(|length| **length < LEAST).count();
    assert!(short <= 3, "{lengths:?}");
}

#[test]
fn an_upload_whose_beginning_is_forgotten_starts_again() {
    let registry = upload(5, |registry| {
        registry.always("", "/uploads/", Fault::ForgetUpload);
        cut_some(registry);
    });
    // One for the config, two or more for the layer.
    assert!(registry.requests_of("POST", "/uploads/").len() >= 3);
}

#[test]
fn an_upload_that_a_registry_says_nothing_about_starts_again() {
    for answer in [
        Answer::empty(405),
        Answer::error(404, "UNSUPPORTED"),
        // What the most common registry says of an upload that broke off.
        Answer::error(400, "BLOB_UPLOAD_INVALID"),
        Answer::empty(204),
    ] {
        upload(6, |registry| {
            registry.always("GET", "/uploads/", Fault::Answer(answer));
            cut_some(registry);
        });
    }
}

#[test]
fn a_registry_that_has_another_number_of_bytes_is_believed() {
    upload(7, |registry| {
        // So that there are several pieces, of which the second is not where it should be.
        registry.always("", "/uploads/", Fault::LimitBody(MEGABYTE));
        let answer = Answer::empty(416).header("Range", "0-99");
        registry.inject("PATCH", "/uploads/", 1, Fault::Answer(answer));
    });
}

#[test]
fn an_answer_that_is_lost_after_the_deed_does_no_harm() {
    upload(8, |registry| {
        for (method, part) in [
            ("POST", "/uploads/"),
            ("PUT", "/uploads/"),
            ("PATCH", "/uploads/"),
            ("PUT", "/manifests/"),
        ] {
            registry.inject(method, part, 1, Fault::LoseAnswer);
        }
    });
}

/// Copies an image of 120 MB through two networks; returns it with the ways to source and
/// destination.
///
/// The one upload that finds out that connections break costs what was on its way: up to 12 MB of
/// sockets' buffers, however large the image is.
fn copy_large(near: Network, far: Network) -> (Image, Proxy, Proxy) {
    let image = Image::noise(&[40_000_000, 32_000_000, 24_000_000, 16_000_000, 8_000_000], 9);
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    image.seed(&source, "app", "1");
    let (near, far) = (
        Proxy::start(&source.host(), near).unwrap(),
        Proxy::start(&destination.host(), far).unwrap(),
    );
    home.copy(&[], &near.reference("app:1"), &far.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    (image, near, far)
}

#[track_caller]
fn moved_little_more_than(image: &Image, near: &Proxy, far: &Proxy) {
    let (size, came, went) = (image.size(), near.to_client(), far.to_server());
    let most = size / 10 * 12;
    assert!(came <= most && went <= most, "of {size} bytes {came} came and {went} went");
}

fn bad() -> Network {
    Network::good().cutting_after(5_000_000)
}

#[test]
fn a_large_image_comes_through_a_network_that_breaks_every_few_megabytes() {
    let (image, near, far) = copy_large(bad(), Network::good());
    assert!(near.cuts() >= 10, "{} cuts", near.cuts());
    moved_little_more_than(&image, &near, &far);
}

#[test]
fn a_large_image_goes_through_a_network_that_breaks_every_few_megabytes() {
    let (image, near, far) = copy_large(Network::good(), bad());
    // One upload goes ahead and is cut; those after it avoid that.
    assert!(far.cuts() >= 1, "{} cuts", far.cuts());
    moved_little_more_than(&image, &near, &far);
}

#[test]
fn a_large_image_passes_two_networks_that_break_every_few_megabytes() {
    let (image, near, far) = copy_large(bad(), bad());
    assert!(near.cuts() >= 10 && far.cuts() >= 1, "{} and {} cuts", near.cuts(), far.cuts());
    moved_little_more_than(&image, &near, &far);
}

#[test]
fn a_far_network_costs_a_few_round_trips() {
    let image = Image::noise(&[30_000; 10], 10);
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    image.seed(&source, "app", "1");
    let far = Network::good().with_latency(std::time::Duration::from_millis(50));
    let (near, far) = (
        Proxy::start(&source.host(), far).unwrap(),
        Proxy::start(&destination.host(), far).unwrap(),
    );
    let start = std::time::Instant::now();
    home.copy(&[], &near.reference("app:1"), &far.reference("app:1")).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    // One after the other, ten layers alone would take four round trips each.
    assert!(start.elapsed().as_secs() < 4, "{:?}", start.elapsed());
}
