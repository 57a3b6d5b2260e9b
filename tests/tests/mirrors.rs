//! What registries.conf says of where images are: mirrors, other places, and what is blocked.

use std::fs;
use std::net::TcpListener;

use diolkos_tests::{Answer, Fault, Format, Home, Image, Outcome, Platform, Registry, Run as _};

/// A registry that can be read by nobody who does not know where it really is.
const NAME: &str = "registry.test";

fn registry(seed: &str) -> (Registry, Image) {
    let registry = Registry::start().unwrap();
    let image = Image::small(Format::Oci, Platform::AMD64, seed);
    image.seed(&registry, "app", "1");
    (registry, image)
}

/// Writes the configuration that every program run in this home reads.
fn configure(home: &Home, text: &str) {
    fs::write(home.path("registries.conf"), text).unwrap();
}

/// Lets `NAME` be at `host`, with mirrors.
fn with_mirrors(host: &str, mirrors: &[String]) -> String {
    let head =
        format!("[[registry]]\nprefix = \"{NAME}\"\nlocation = \"{host}\"\ninsecure = true\n");
    mirrors.iter().fold(head, |text, mirror| {
        text + "[[registry.mirror]]\ninsecure = true\nlocation = \"" + mirror + "\"\n"
    })
}

/// Pulls without any flag about TLS: what is insecure is in the configuration.
fn pull(home: &Home, rest: &str) -> Outcome {
    let reference = format!("docker://{NAME}/{rest}");
    home.diolkos().args(["copy", &reference, "oci:out:1"]).run()
}

/// An address that nobody listens at.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_prefix_is_replaced_by_its_location() {
    let (registry, image) = registry("location");
    image.seed(&registry, "deep/down/app", "2");
    let home = Home::new();
    let at = |prefix: &str, location: &str| {
        let host = registry.host();
        configure(
            &home,
            &format!(
                "[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{host}{location}\"\n\
                 insecure = true\n"
            ),
        );
    };
    for (prefix, location, rest) in [
        (NAME, "", "app:1"),
        (NAME, "/deep/down", "app:2"),
        ("registry.test/team", "/deep/down", "team/app:2"),
        ("registry.test/team/x", "/deep/down/app", "team/x:2"),
        ("*.test", "", "app:1"),
    ] {
        at(prefix, location);
        let outcome = pull(&home, rest);
        assert_eq!(outcome.code, Some(0), "{prefix} {location}: {}", outcome.stderr);
    }
    at(NAME, "/deep");
    pull(&home, &format!("down/app@{}", image.digest())).expect_success();
}

#[test]
fn what_is_written_goes_where_it_is_told() {
    let (registry, image) = registry("location");
    let (elsewhere, _) = self::registry("elsewhere");
    let home = Home::new();
    image.write_layout(&home.path("in"), "1").unwrap();
    let (host, other) = (registry.host(), elsewhere.host());
    configure(
        &home,
        &format!(
            "[[registry]]\nprefix = \"{host}\"\nlocation = \"{other}\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"{other}\"\ninsecure = true\n"
        ),
    );
    // Other locations are for reading, as with the Go programs; whether TLS is wanted is for both.
    home.diolkos().args(["copy", "oci:in:1", &registry.reference("new:1")]).succeed();
    image.check_in(&registry, "new", "1").unwrap();
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn the_longest_prefix_counts() {
    let (first, _) = registry("first");
    let (second, _) = registry("second");
    let home = Home::new();
    configure(
        &home,
        &format!(
            "[[registry]]\nprefix = \"{NAME}\"\nlocation = \"{}\"\ninsecure = true\n\
             [[registry]]\nprefix = \"{NAME}/app\"\nlocation = \"{}/app\"\ninsecure = true\n",
            first.host(),
            second.host()
        ),
    );
    pull(&home, "app:1").expect_success();
    assert!(first.requests().is_empty() && !second.requests().is_empty());
}

#[test]
fn mirrors_come_first_and_in_order() {
    let (origin, _) = registry("mirrored");
    let (first, _) = registry("mirrored");
    let (second, _) = registry("mirrored");
    let home = Home::new();
    configure(&home, &with_mirrors(&origin.host(), &[first.host(), second.host()]));
    pull(&home, "app:1").expect_success();
    assert!(!first.requests().is_empty());
    assert!(second.requests().is_empty() && origin.requests().is_empty());
}

#[test]
fn a_mirror_that_fails_is_passed_over() {
    let mut faults: Vec<_> = [404, 403, 500, 502, 503]
        .map(|status| Some(Fault::Answer(Answer::html(status))))
        .into_iter()
        .collect();
    faults.push(Some(Fault::status(404, "MANIFEST_UNKNOWN")));
    faults.push(Some(Fault::status(404, "NAME_UNKNOWN")));
    faults.push(Some(Fault::Answer(Answer::empty(401))));
    faults.push(Some(Fault::Disconnect));
    // Nobody listens.
    faults.push(None);
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let (origin, image) = registry("passed over");
                let (mirror, _) = registry("passed over");
                let said = format!("{fault:?}");
                let host = if fault.is_some() { mirror.host() } else { nobody() };
                if let Some(fault) = fault {
                    mirror.always("", "/v2/", fault);
                }
                let home = Home::new();
                configure(&home, &with_mirrors(&origin.host(), &[host]));
                let outcome = pull(&home, "app:1");
                assert_eq!(outcome.code, Some(0), "{said}: {}", outcome.stderr);
                let layout = diolkos_tests::Layout::new(home.path("out"));
                assert_eq!(layout.tag("1").unwrap()["digest"], image.digest());
            });
        }
    });
}

#[test]
fn every_place_that_was_tried_is_named_with_its_reason() {
    let (origin, _) = registry("all fail");
    let (mirror, _) = registry("all fail");
    let gone = nobody();
    origin.always("GET", "/manifests/", Fault::status(403, "DENIED"));
    mirror.always("GET", "/manifests/", Fault::status(404, "MANIFEST_UNKNOWN"));
    let home = Home::new();
    configure(&home, &with_mirrors(&origin.host(), &[mirror.host(), gone.clone()]));
    let outcome = pull(&home, "app:1");
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    outcome.expect_words(&[
        &mirror.host(),
        "manifest unknown",
        &gone,
        "connection refused",
        &origin.host(),
        "denied",
    ]);
}

#[test]
fn a_layer_that_a_mirror_lost_comes_from_the_next() {
    let (origin, image) = registry("lost");
    let (mirror, _) = registry("lost");
    mirror.lose_blob("app", &image.layers()[0]);
    let home = Home::new();
    configure(&home, &with_mirrors(&origin.host(), &[mirror.host()]));
    // Once a mirror has given the manifest, others ask no other place: an error that names it
    // will do, content that is not whole will not.
    let outcome = pull(&home, "app:1");
    if outcome.code == Some(0) {
        let layout = diolkos_tests::Layout::new(home.path("out"));
        assert!(layout.unsound().unwrap().is_empty());
    } else {
        outcome.expect_words(&[&mirror.host(), &image.layers()[0]]);
    }
}

#[test]
fn mirrors_may_be_for_digests_or_for_tags_alone() {
    for (kind, by_tag, by_digest) in
        [("digest-only", false, true), ("tag-only", true, false), ("all", true, true)]
    {
        let (origin, image) = registry("kinds");
        let (mirror, _) = registry("kinds");
        let home = Home::new();
        let text = with_mirrors(&origin.host(), &[mirror.host()]);
        configure(&home, &format!("{text}pull-from-mirror = \"{kind}\"\n"));
        pull(&home, "app:1").expect_success();
        assert_eq!(!mirror.requests().is_empty(), by_tag, "{kind}");
        mirror.forget_requests();
        pull(&home, &format!("app@{}", image.digest())).expect_success();
        assert_eq!(!mirror.requests().is_empty(), by_digest, "{kind}");
    }
}

#[test]
fn what_is_blocked_is_not_asked() {
    let (registry, _) = registry("blocked");
    let home = Home::new();
    let host = registry.host();
    configure(
        &home,
        &format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\nblocked = true\n"),
    );
    let file = home.path("registries.conf").display().to_string();
    for arguments in [
        ["copy", &registry.reference("app:1"), "dir:out"],
        ["inspect", &registry.reference("app:1"), "--raw"],
    ] {
        let said = home.diolkos().args(arguments).run().expect_code(1);
        said.expect_words(&[&format!("registry {host} is blocked in"), &file]);
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn insecure_registries_are_reached_without_a_flag_and_others_not() {
    let (registry, _) = registry("insecure");
    let home = Home::new();
    let run = || home.diolkos().args(["copy", &registry.reference("app:1"), "dir:out"]).run();
    run().expect_code(1);
    configure(
        &home,
        &format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host()),
    );
    run().expect_success();
    // A flag is stronger than a file.
    let said = home
        .diolkos()
        .args(["copy", "--src-tls-verify=true", &registry.reference("app:1"), "dir:out"])
        .run();
    said.expect_code(1);
}

#[test]
fn the_configuration_is_where_flag_and_environment_say() {
    let (registry, _) = registry("places");
    let home = Home::new();
    let other = home.path("other.conf");
    fs::write(&other, with_mirrors(&registry.host(), &[])).unwrap();
    let reference = format!("docker://{NAME}/app:1");
    let prepared = || {
        let mut command = home.diolkos();
        command.env_remove("CONTAINERS_REGISTRIES_CONF").env_remove("XDG_CONFIG_HOME");
        command
    };
    prepared()
        .arg(format!("--registries-conf={}", other.display()))
        .args(["copy", &reference, "dir:out"])
        .succeed();
    prepared()
        .env("CONTAINERS_REGISTRIES_CONF", &other)
        .args(["copy", &reference, "dir:out"])
        .succeed();
    let own = home.path(".config/containers/registries.conf");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::copy(&other, &own).unwrap();
    prepared().args(["copy", &reference, "dir:out"]).succeed();
    // A file of the directory beside it adds to it, and what is named later wins.
    let dropped = home.path(".config/containers/registries.conf.d/50-blocked.conf");
    fs::create_dir_all(dropped.parent().unwrap()).unwrap();
    fs::write(&dropped, format!("[[registry]]\nlocation = \"{NAME}\"\nblocked = true\n")).unwrap();
    let said = prepared().args(["copy", &reference, "dir:out"]).run().expect_code(1);
    said.expect_words(&["is blocked in"]);
    prepared()
        .arg(format!("--registries-conf={}", home.path("missing.conf").display()))
        .args(["copy", &reference, "dir:out"])
        .run()
        .expect_code(1)
        .expect_words(&["missing.conf"]);
}

#[test]
fn a_broken_configuration_is_named_with_its_place() {
    let home = Home::new();
    configure(&home, "[[registry]]\nlocation = 5\n");
    let file = home.path("registries.conf").display().to_string();
    pull(&home, "app:1").expect_code(1).expect_words(&[&file]);
}

#[test]
fn a_directory_of_registries_d_that_makes_no_sense_is_named() {
    let (registry, _) = registry("lookaside");
    let home = Home::new();
    fs::create_dir(home.path("registries.d")).unwrap();
    let copy = || {
        let mut program = home.diolkos();
        program.arg(format!("--registries.d={}", home.path("registries.d").display())).args([
            "copy",
            "--src-tls-verify=false",
            &registry.reference("app:1"),
            "dir:out",
        ]);
        program
    };
    let write = |text: &str| fs::write(home.path("registries.d/tests.yaml"), text).unwrap();
    write("docker:\n  registry.example:\n    lookaside: https://sigs.example\n");
    copy().succeed();
    write("docker: [not, a, map]\n");
    copy().run().expect_code(1).expect_words(&["registries.d/tests.yaml"]);
}

#[test]
fn a_mirror_that_breaks_off_again_and_again_is_left() {
    let (registry, image) = (Registry::start().unwrap(), Image::noise(&[3_000_000], 41));
    let mirror = Registry::start().unwrap();
    for place in [&registry, &mirror] {
        image.seed(place, "app", "1");
    }
    let layer = &image.layers()[0];
    mirror.inject("GET", layer, 1, Fault::CutAfter(1_000_000));
    mirror.always("GET", layer, Fault::CutAfter(0));
    let home = Home::new();
    configure(&home, &with_mirrors(&registry.host(), &[mirror.host()]));
    pull(&home, "app:1").expect_success();
    assert!(!registry.requests_of("GET", layer).is_empty());
    let requests = mirror.requests_of("GET", layer).len();
    assert!(requests <= 6, "{requests}");
}

#[test]
fn a_mirror_that_refuses_a_layer_or_has_another_manifest_is_passed_over() {
    let (registry, image) = registry("refused");
    let (mirror, _) = self::registry("refused");
    let home = Home::new();
    configure(&home, &with_mirrors(&registry.host(), &[mirror.host()]));
    mirror.always("GET", &image.layers()[0], Fault::status(403, "DENIED"));
    pull(&home, "app:1").expect_success();
    mirror.behave();
    let other = Answer::empty(200).header("Content-Type", "application/json").body("{}");
    mirror.always("GET", "/manifests/", Fault::Answer(other));
    pull(&home, &format!("app@{}", image.digest())).expect_success();
}
