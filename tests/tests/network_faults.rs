//! Registries that fail for a moment, refuse, or answer in odd ways, and copies that arrive.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use diolkos_tests::{Answer, Fault, Format, Home, Image, Outcome, Platform, Registry, Run as _};

/// Two registries, one of which has an image, and a home.
struct World {
    source: Registry,
    destination: Registry,
    home: Home,
    image: Image,
}

impl World {
    fn new(image: Image) -> Self {
        let source = Registry::start().unwrap();
        image.seed(&source, "app", "1");
        Self { source, destination: Registry::start().unwrap(), home: Home::new(), image }
    }

    fn small(seed: &str) -> Self {
        Self::new(Image::small(Format::Oci, Platform::AMD64, seed))
    }

    fn copy(&self) -> Outcome {
        let (source, destination) =
            (self.source.reference("app:1"), self.destination.reference("app:1"));
        self.home.copy(&[], &source, &destination)
    }

    #[track_caller]
    fn copy_arrives(&self) {
        self.copy().expect_success();
        self.image.check_in(&self.destination, "app", "1").unwrap();
    }

    /// Copies; either everything arrives as it was, or nothing is visible.
    #[track_caller]
    fn copy_arrives_or_is_refused(&self) {
        let outcome = self.copy();
        if outcome.code == Some(0) {
            self.image.check_in(&self.destination, "app", "1").unwrap();
        } else {
            assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
            assert!(self.destination.manifest("app", "1").is_none(), "{}", outcome.stderr);
        }
    }
}

/// Every status that passes, each with another kind of body.
fn passing() -> [Answer; 7] {
    [
        Answer::empty(408),
        Answer::text(425, "too early\n"),
        Answer::error(429, "TOOMANYREQUESTS"),
        Answer::error(500, "UNKNOWN"),
        Answer::html(502),
        Answer::text(503, "<html>"),
        Answer::empty(504),
    ]
}

/// Runs a check for each value at the same time, since most of it is waiting.
fn at_once<T: Send>(values: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    let check = &check;
    thread::scope(|scope| {
        for value in values {
            scope.spawn(move || check(value));
        }
    });
}

#[test]
fn what_passes_is_tried_again_when_reading() {
    at_once(passing(), |answer| {
        let world = World::small("reading");
        let layer = &world.image.layers()[0];
        for part in ["/manifests/", layer] {
            world.source.inject("GET", part, 1, Fault::Answer(answer.clone()));
        }
        world.copy_arrives();
        assert_eq!(world.source.requests_of("GET", "/manifests/").len(), 2);
        assert_eq!(world.source.requests_of("GET", layer).len(), 2);
    });
}

#[test]
fn what_passes_is_tried_again_when_writing() {
    at_once(passing(), |answer| {
        let world = World::small("writing");
        for (method, part) in [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/manifests/")] {
            world.destination.inject(method, part, 1, Fault::Answer(answer.clone()));
        }
        world.copy_arrives();
        assert_eq!(world.destination.requests_of("PUT", "/manifests/").len(), 2);
    });
}

#[test]
fn what_passes_is_tried_again_when_bytes_are_sent() {
    at_once(passing(), |answer| {
        let world = World::new(Image::noise(&[2 << 20], 1));
        // Before the registry has read the body, as what stands in front of one answers.
        for method in ["PUT", "PATCH"] {
            let fault = Fault::Answer(answer.clone().early());
            world.destination.inject(method, "/uploads/", 1, fault);
        }
        world.copy_arrives();
    });
}

#[test]
fn three_failures_in_a_row_are_outlasted_and_not_more_than_that_for_ever() {
    let world = World::small("outlasted");
    world.source.inject("GET", "/manifests/", 3, Fault::Answer(Answer::html(502)));
    world.copy_arrives();
    world.source.forget_requests();
    world.source.always("GET", "/manifests/", Fault::Answer(Answer::html(502)));
    let start = Instant::now();
    world.copy().expect_code(1).expect_words(&["502", &world.source.host()]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let tries = world.source.requests_of("GET", "/manifests/").len();
    assert!((3..=8).contains(&tries), "{tries} tries");
}

#[test]
fn a_registry_that_fails_everything_is_not_asked_for_ever() {
    let world = World::new(Image::noise(&[1000; 12], 7));
    world.source.always("GET", "/blobs/", Fault::Answer(Answer::html(503)));
    let start = Instant::now();
    world.copy().expect_code(1).expect_words(&["503", &world.source.host()]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let tries = world.source.requests_of("GET", "/blobs/").len();
    assert!(tries <= 60, "{tries} tries for 13 blobs");
}

#[test]
fn the_time_that_a_registry_asks_for_is_waited() {
    // Some of it is over when the registry is asked.
    let in_seconds = || Answer::empty(503).retry_at(SystemTime::now() + Duration::from_secs(4));
    let answers: [fn() -> Answer; 2] = [
        || Answer::error(429, "TOOMANYREQUESTS").retry_after(1),
        || Answer::empty(503).retry_after(1),
    ];
    let answers = answers.map(|make| make()).into_iter().chain([in_seconds()]);
    at_once(answers, |answer| {
        let world = World::small("waits");
        world.source.inject("GET", "/manifests/", 1, Fault::Answer(answer));
        world.copy_arrives();
        let times: Vec<_> =
            world.source.requests_of("GET", "/manifests/").iter().map(|one| one.at).collect();
        let waited = times[1].saturating_sub(times[0]);
        assert!(waited >= Duration::from_millis(950), "{times:?}");
        assert!(waited < Duration::from_secs(8), "{times:?}");
    });
}

#[test]
fn a_storm_of_limits_is_outlasted() {
    let world = World::small("storm");
    let answer = Answer::error(429, "TOOMANYREQUESTS").retry_after(1);
    world.source.inject("GET", "/manifests/", 4, Fault::Answer(answer));
    world.copy_arrives();
    assert_eq!(world.source.requests_of("GET", "/manifests/").len(), 5);
}

#[test]
fn a_wait_of_more_than_two_minutes_is_an_error_that_tells_how_long() {
    for status in [429, 503] {
        let world = World::small("long wait");
        let answer = Answer::error(status, "TOOMANYREQUESTS").retry_after(3600);
        world.source.always("GET", "/manifests/", Fault::Answer(answer));
        let start = Instant::now();
        // Whoever waits after all is stopped.
        let outcome = world
            .home
            .diolkos()
            .args(["--command-timeout=8s", "copy", "--src-tls-verify=false"])
            .args([&world.source.reference("app:1"), "dir:out"])
            .run()
            .expect_code(1)
            .expect_words(&[&world.source.host()]);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let said = outcome.stderr.to_lowercase();
        let forms = ["3600 s", "3600s", "60 min", "1 h", "1h"];
        assert!(forms.iter().any(|form| said.contains(form)), "{said}");
        assert_eq!(world.source.requests_of("GET", "/manifests/").len(), 1);
    }
}

#[test]
fn one_limit_holds_back_everything_to_that_host() {
    let world = World::new(Image::noise(&[40_000; 12], 2));
    // Each takes a while, so that without a gate others would begin all the time.
    world.source.always("GET", "/blobs/", Fault::SlowAnswer(100_000));
    let answer = Answer::error(429, "TOOMANYREQUESTS").retry_after(2);
    world.source.inject("GET", "/blobs/", 1, Fault::Answer(answer));
    world.copy_arrives();
    let blobs = world.source.requests_of("GET", "/blobs/");
    let limited = blobs.iter().find(|one| one.status == 429).unwrap().at;
    // What was under way at that moment may still arrive.
    let (from, to) = (limited + Duration::from_millis(300), limited + Duration::from_millis(1900));
    let early: Vec<_> = blobs.iter().filter(|one| one.at > from && one.at < to).collect();
    assert!(early.is_empty(), "limited at {limited:?}, but {early:?}");
}

#[test]
fn a_connection_that_is_dropped_before_the_answer_is_made_again() {
    let world = World::small("dropped");
    let layer = &world.image.layers()[0];
    for (registry, method, part) in [
        (&world.source, "GET", "/manifests/"),
        (&world.source, "GET", layer.as_str()),
        (&world.destination, "HEAD", "/blobs/"),
        (&world.destination, "PUT", "/manifests/"),
    ] {
        registry.inject(method, part, 1, Fault::Disconnect);
    }
    world.copy_arrives();
}

#[test]
fn a_registry_that_is_slow_to_answer_is_waited_for() {
    let world = World::small("slow");
    world.source.inject("GET", "/manifests/", 1, Fault::Hang(Duration::from_secs(2)));
    world.destination.inject("PUT", "/manifests/", 1, Fault::Hang(Duration::from_secs(2)));
    world.copy_arrives();
    assert_eq!(world.source.requests_of("GET", "/manifests/").len(), 1);
}

#[test]
fn an_odd_status_is_shown_with_what_the_registry_said() {
    for (answer, words) in [
        (Answer::error(418, "UNKNOWN"), "injected"),
        (Answer::text(418, "short and stout"), "short and stout"),
        (Answer::html(418), "418"),
        (Answer::empty(418), "418"),
        (Answer::html(403), "403"),
    ] {
        let world = World::small("odd");
        world.source.always("GET", "/manifests/", Fault::Answer(answer));
        world.copy().expect_code(1).expect_words(&[words, &world.source.host()]);
        assert_eq!(world.source.requests_of("GET", "/manifests/").len(), 1, "{words}");
    }
}

#[test]
fn wrong_lengths_never_make_wrong_content() {
    let size = |world: &World| world.image.blobs[&world.image.layers()[0]].len();
    for offset in [-20, 20] {
        for part in ["/manifests/", "/blobs/"] {
            let world = World::small("lengths");
            let length = if part == "/blobs/" { size(&world) } else { world.image.manifest.len() };
            let length = length.checked_add_signed(offset).unwrap();
            world.source.inject("GET", part, 1, Fault::Announce(length));
            world.copy_arrives_or_is_refused();
        }
    }
}

#[test]
fn lengths_need_not_be_announced() {
    let world = World::new(Image::noise(&[1 << 20, 3000], 3));
    world.source.always("GET", "", Fault::Chunked);
    world.copy_arrives();
}

#[test]
fn a_digest_in_a_header_proves_nothing() {
    let world = World::small("lies");
    let lie = diolkos_tests::sha256(b"something else");
    for part in ["/manifests/", "/blobs/"] {
        world.source.behave();
        world.source.always("GET", part, Fault::header("Docker-Content-Digest", lie.as_str()));
        world.copy_arrives_or_is_refused();
    }
    // By digest, content is what counts: other content is refused whatever the header says.
    let other = Image::small(Format::Oci, Platform::AMD64, "another");
    other.seed(&world.source, "other", "1");
    let wanted = world.image.digest();
    let bytes = String::from_utf8(other.manifest.clone()).unwrap();
    let answer = Answer::empty(200)
        .header("Content-Type", other.media_type.as_str())
        .header("Docker-Content-Digest", wanted.as_str())
        .body(bytes);
    world.source.behave();
    world.source.always("GET", "/manifests/", Fault::Answer(answer));
    let reference = world.source.reference(&format!("other@{wanted}"));
    world.home.copy(&[], &reference, "dir:out").expect_code(1).expect_words(&[&wanted]);
    assert!(!world.home.path("out/manifest.json").exists());
}

#[test]
fn a_tag_that_moves_in_the_middle_gives_one_of_both_images() {
    for method in ["HEAD", "GET"] {
        let world = World::small("before");
        let after = Image::small(Format::Oci, Platform::AMD64, "after");
        after.seed(&world.source, "app", "2");
        world.source.inject(method, "/manifests/1", 1, Fault::MoveTag(after.digest()));
        world.copy().expect_success();
        let arrived = world.destination.manifest("app", "1").unwrap().digest;
        let image = if arrived == after.digest() { &after } else { &world.image };
        image.check_in(&world.destination, "app", "1").unwrap();
    }
}

#[test]
fn wrong_media_types_in_headers_do_not_matter() {
    for media_type in ["text/plain; charset=utf-8", "application/json", "application/octet-stream"]
    {
        let world = World::small("types");
        world.source.always("GET", "", Fault::header("Content-Type", media_type));
        world.copy_arrives();
    }
    let world = World::small("no types");
    world.source.always("GET", "", Fault::WithoutHeader("Content-Type".to_owned()));
    world.copy_arrives();
}

#[test]
fn a_registry_that_knows_no_head_gets_the_image_all_the_same() {
    let world = World::small("head");
    for registry in [&world.source, &world.destination] {
        registry.always("HEAD", "", Fault::Answer(Answer::empty(405)));
    }
    world.copy_arrives();
    world
        .home
        .diolkos()
        .args(["inspect", "--tls-verify=false", &world.source.reference("app:1")])
        .succeed();
}

#[test]
fn redirects_are_followed_and_not_in_circles() {
    let world = World::small("redirects");
    let layer = &world.image.layers()[0];
    // A relative one, and on to where the bytes are.
    let location = format!("/v2/app/blobs/{layer}?once=1");
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::empty(status).header("Location", location.as_str());
        world.source.inject("GET", layer, 1, Fault::Answer(answer));
    }
    world.copy_arrives();
    assert_eq!(world.source.requests_of("GET", layer).len(), 6);
    let world = World::small("circles");
    world.source.always("GET", "/blobs/", Fault::Redirect(world.source.host()));
    world.copy().expect_code(1).expect_words(&["redirect", &world.source.host()]);
    let most = world.image.blobs.len() * 50;
    assert!(world.source.requests().len() < most, "{}", world.source.requests().len());
}

#[test]
fn a_registry_that_mounts_nothing_is_sent_the_bytes() {
    let faults = [405, 404, 400].map(|status| Fault::Answer(Answer::error(status, "UNSUPPORTED")));
    for fault in faults.into_iter().chain([Fault::IgnoreMount]) {
        let (registry, home) = (Registry::start().unwrap(), Home::new());
        let image = Image::small(Format::Oci, Platform::AMD64, "mount");
        image.seed(&registry, "team/app", "1");
        registry.always("POST", "mount=", fault);
        home.copy(&[], &registry.reference("team/app:1"), &registry.reference("other:1"))
            .expect_success();
        image.check_in(&registry, "other", "1").unwrap();
    }
}

#[test]
fn uploads_may_go_on_at_a_relative_or_an_absolute_place() {
    let world = World::new(Image::noise(&[700_000], 4));
    world.copy_arrives();
    let world = World::new(Image::noise(&[700_000], 5));
    let host = world.destination.host();
    world.destination.always("", "/uploads/", Fault::LocationAt(host));
    world.copy_arrives();
}

/// Cuts one answer short, of which there are these first bytes.
#[track_caller]
fn survives_a_cut(method: &str, part: &str, bytes: usize, work: impl FnOnce(&Registry, &Home)) {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::noise(&[400_000, 1000], 31);
    image.seed(&registry, "app", "1");
    let part = match part {
        "layer" => image.layers()[0].clone(),
        "config" => image.config().unwrap(),
        part => part.to_owned(),
    };
    registry.inject(method, &part, 1, Fault::CutAfter(bytes));
    work(&registry, &home);
    assert!(registry.requests_of(method, &part).len() >= 2, "{part}");
}

#[test]
fn whatever_breaks_off_is_read_again() {
    let copy = |registry: &Registry, home: &Home| {
        home.copy(&[], &registry.reference("app:1"), "oci:out:1").expect_success();
    };
    let inspect = |registry: &Registry, home: &Home| {
        let reference = registry.reference("app:1");
        home.diolkos().args(["inspect", "--tls-verify=false", &reference]).run().expect_success();
    };
    for bytes in [0, 3] {
        survives_a_cut("GET", "layer", bytes, copy);
        survives_a_cut("GET", "config", bytes, copy);
        survives_a_cut("GET", "config", bytes, inspect);
        survives_a_cut("GET", "/manifests/", bytes, copy);
        survives_a_cut("GET", "/tags/list", bytes, inspect);
    }
}

#[test]
fn an_image_whose_deletion_was_not_confirmed_is_deleted() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    Image::noise(&[1000], 32).seed(&registry, "app", "1");
    registry.inject("DELETE", "/manifests/", 1, Fault::LoseAnswer);
    let reference = registry.reference("app:1");
    home.diolkos().args(["delete", "--tls-verify=false", &reference]).run().expect_success();
    assert!(registry.manifest("app", "1").is_none());
}

#[test]
fn sizes_that_cannot_be_are_no_accident() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let layer = |digit: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{}", digit.repeat(64)),
            "size": i64::MAX,
        })
    };
    let config = registry.seed_blob("app", b"{}".to_vec());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2,
        },
        "layers": [layer("a"), layer("b"), layer("c")],
    });
    registry.seed_manifest("app", Some("1"), media_type, manifest.to_string().as_bytes());
    let outcome = home.copy(&["--dry-run"], &registry.reference("app:1"), "dir:out");
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}
