//! What `inspect`, `list-tags`, `manifest-digest` and `delete` print is what skopeo prints.

use diolkos_tests::{
    DockerRegistry, Format, Home, Image, Outcome, Platform, Registry, Run as _, require,
};

/// Runs the same arguments with both programs.
fn both(home: &Home, arguments: &[&str]) -> (Outcome, Outcome) {
    (home.diolkos().args(arguments).run(), home.skopeo().args(arguments).run())
}

fn index(format: Format) -> Image {
    let platforms = [Platform::AMD64, Platform::ARM64];
    Image::index(format, platforms.map(|one| Image::small(format, one, "inspect")).to_vec())
}

#[test]
fn inspect_prints_what_skopeo_prints() {
    let Some(_) = require("skopeo") else { return };
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    for (name, image) in [
        ("docker", Image::small(Format::Docker, Platform::AMD64, "inspect")),
        ("oci", Image::small(Format::Oci, Platform::AMD64, "inspect")),
        ("index", index(Format::Oci)),
        ("list", index(Format::Docker)),
    ] {
        image.seed(&registry, name, "1");
        image.seed(&registry, name, "another");
        let reference = registry.reference(&format!("{name}:1"));
        for flags in [
            &["inspect", "--tls-verify=false"][..],
            &["inspect", "--tls-verify=false", "--raw"],
            &["inspect", "--tls-verify=false", "--config"],
            &["inspect", "--tls-verify=false", "--config", "--raw"],
            &["inspect", "--tls-verify=false", "--no-tags"],
            &["inspect", "--tls-verify=false", "--format", "{{.Name}} {{.Digest}} {{len .Layers}}"],
        ] {
            let (ours, theirs) = both(&home, &[flags, &[reference.as_str()]].concat());
            assert_eq!(ours.code, theirs.code, "{name} {flags:?}: {}", ours.stderr);
            if theirs.stdout.starts_with('{') {
                // Newer versions have more fields than the one that is installed may have.
                let (mut ours, theirs) = (ours.json(), theirs.json());
                if let (Some(ours), Some(theirs)) = (ours.as_object_mut(), theirs.as_object()) {
                    ours.retain(|key, _| theirs.contains_key(key));
                }
                assert_eq!(ours, theirs, "{name} {flags:?}");
            } else {
                assert_eq!(ours.stdout, theirs.stdout, "{name} {flags:?}");
            }
        }
    }
}

#[test]
fn tags_are_listed_as_skopeo_lists_them() {
    let (Some(_), Some(_)) = (require("skopeo"), require("docker-registry")) else { return };
    let (registry, home) = (DockerRegistry::start().unwrap(), Home::new());
    Image::small(Format::Oci, Platform::AMD64, "tags").write_layout(&home.path("in"), "1").unwrap();
    for tag in ["b", "a", "latest", "1.0", "1.0-rc"] {
        home.copy(&[], "oci:in:1", &registry.reference(&format!("app:{tag}"))).expect_success();
    }
    let (ours, theirs) =
        both(&home, &["list-tags", "--tls-verify=false", &registry.reference("app")]);
    assert_eq!(ours.expect_success().stdout, theirs.expect_success().stdout);
    let (ours, theirs) =
        both(&home, &["list-tags", "--tls-verify=false", &registry.reference("nothing")]);
    assert_eq!(ours.code, theirs.code);
}

#[test]
fn manifest_digest_needs_no_image() {
    let home = Home::new();
    for format in [Format::Oci, Format::Docker] {
        let image = Image::small(format, Platform::AMD64, "digest");
        std::fs::write(home.path("manifest.json"), &image.manifest).unwrap();
        let digest = home.diolkos().args(["manifest-digest", "manifest.json"]).succeed();
        assert_eq!(digest.stdout, format!("{}\n", image.digest()));
    }
}

#[test]
fn a_deleted_image_is_gone() {
    let Some(_) = require("docker-registry") else { return };
    let (registry, home) = (DockerRegistry::start().unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "delete");
    image.write_layout(&home.path("in"), "1").unwrap();
    let reference = registry.reference("app:1");
    home.copy(&[], "oci:in:1", &reference).expect_success();
    home.diolkos().args(["delete", "--tls-verify=false", &reference]).succeed();
    let gone = home.diolkos().args(["inspect", "--tls-verify=false", &reference]).run();
    assert_eq!(gone.code, Some(2), "{}", gone.stderr);
    home.diolkos().args(["delete", "oci:in:1"]).succeed();
    let gone = home.diolkos().args(["inspect", "oci:in:1"]).run();
    assert_eq!(gone.code, Some(2), "{}", gone.stderr);
    assert_eq!(std::fs::read_dir(home.path("in/blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn a_digest_file_holds_the_digest_and_no_newline() {
    let home = Home::new();
    let image = Image::small(Format::Oci, Platform::AMD64, "digestfile");
    image.write_layout(&home.path("in"), "1").unwrap();
    let file = home.path("digest");
    let flag = format!("--digestfile={}", file.display());
    home.copy(&[&flag], "oci:in:1", "dir:out").expect_success();
    assert_eq!(std::fs::read_to_string(file).unwrap(), image.digest());
}
