//! Other programs read what we wrote, and we read what they wrote, through the real registry.

use std::fs;
use std::path::Path;

use diolkos_tests::{
    DockerRegistry, Format, Home, Image, Layer, LayerForm, Layout, Packing, Platform, Run as _,
    directory_digests, require, require_root, sha256,
};

/// Images of every kind that registries hold, by name.
fn images() -> Vec<(&'static str, Image)> {
    let layers = |packing| {
        let base = Layer::new()
            .directory("etc")
            .file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
            .file("etc/removed", "gone in the next layer\n")
            .file_with_xattr("etc/marked", "marked\n", "user.diolkos", &[0, 1, 254, 255])
            .hard_link("etc/shadow-copy", "etc/passwd")
            .symlink("lib", "usr/lib")
            .fifo("etc/pipe")
            .file("opaque/old", "hidden\n");
        let top = Layer::new()
            .whiteout("etc/removed")
            .opaque("opaque")
            .file("opaque/new", "seen\n")
            .program(&format!("opt/{}", "long-name-".repeat(18)), "#!/bin/sh\n");
        [base, top].map(|layer| LayerForm::new(layer, packing))
    };
    let image = |format, packing| Image::new(format, Platform::AMD64, &layers(packing));
    let several = |format| {
        let platforms = [Platform::AMD64, Platform::ARM64, Platform::ARM_V7];
        Image::index(
            format,
            platforms.map(|platform| Image::small(format, platform, "several")).to_vec(),
        )
    };
    vec![
        ("oci-gzip", image(Format::Oci, Packing::Gzip)),
        ("oci-zstd", image(Format::Oci, Packing::Zstd)),
        ("docker-gzip", image(Format::Docker, Packing::Gzip)),
        ("oci-index", several(Format::Oci)),
        ("docker-list", several(Format::Docker)),
    ]
}

/// Puts an image into a registry with skopeo.
fn push_with_skopeo(home: &Home, image: &Image, reference: &str) {
    let directory = home.path("to-push");
    image.write_directory(&directory).unwrap();
    home.skopeo()
        .args(["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"])
        .args([&format!("dir:{}", directory.display()), reference])
        .succeed();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_skopeo_pushed_is_pulled_and_pushed_again_byte_for_byte() {
    let (Some(_), Some(_)) = (require("skopeo"), require("docker-registry")) else { return };
    let registry = DockerRegistry::start().unwrap();
    for (name, image) in images() {
        let home = Home::new();
        push_with_skopeo(&home, &image, &registry.reference(&format!("{name}/in:1")));
        let steps = [
            (registry.reference(&format!("{name}/in:1")), home.reference("dir", "one")),
            (home.reference("dir", "one"), registry.reference(&format!("{name}/out:1"))),
            (registry.reference(&format!("{name}/out:1")), home.reference("dir", "two")),
        ];
        for (source, destination) in &steps {
            home.copy(&["--all", "--preserve-digests"], source, destination).expect_success();
        }
        let raw = home
            .skopeo()
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(registry.reference(&format!("{name}/out:1")))
            .succeed();
        assert_eq!(sha256(raw.stdout.as_bytes()), image.digest(), "{name}");
        let files = directory_digests(&home.path("two")).unwrap();
        assert_eq!(files["manifest.json"], image.digest(), "{name}");
        for digest in image.blobs.keys() {
            assert_eq!(files[digest.trim_start_matches("sha256:")], *digest, "{name}");
        }
        assert_eq!(files, directory_digests(&home.path("one")).unwrap(), "{name}");
    }
}

#[test]
fn skopeo_copies_from_the_layouts_and_directories_we_write() {
    let (Some(_), Some(_)) = (require("skopeo"), require("docker-registry")) else { return };
    let registry = DockerRegistry::start().unwrap();
    for (name, image) in images() {
        let home = Home::new();
        let source = registry.reference(&format!("{name}:1"));
        push_with_skopeo(&home, &image, &source);
        for written in ["oci:layout:a/b:1", "dir:directory"] {
            home.copy(&["--all"], &source, written).expect_success();
            let copied = home.path(format!("by-skopeo-{}", &written[..3]));
            home.skopeo()
                .args(["copy", "--all", written, &format!("dir:{}", copied.display())])
                .succeed();
            let files = directory_digests(&copied).unwrap();
            let same_form = written.starts_with("dir:") || image.format == Format::Oci;
            if same_form {
                assert_eq!(files["manifest.json"], image.digest(), "{name} through {written}");
            }
            // A conversion changes the config, but never a layer.
            for digest in image.manifests().flat_map(Image::layers) {
                let file = digest.trim_start_matches("sha256:");
                assert!(files.contains_key(file), "{name} through {written} lacks {digest}");
            }
        }
        assert!(Layout::new(home.path("layout")).unsound().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn converting_there_and_back_gives_the_same_as_skopeo() {
    let Some(_) = require("skopeo") else { return };
    // Old versions of skopeo lose the variant of a platform on the way, so there is none here.
    let plain = Platform { variant: None, ..Platform::ARM64 };
    let several = |format| {
        let platforms = [Platform::AMD64, plain.clone()];
        Image::index(format, platforms.map(|one| Image::small(format, one, "convert")).to_vec())
    };
    let mut images = images();
    images.retain(|(_, image)| image.instances.is_empty());
    images.push(("oci-index", several(Format::Oci)));
    images.push(("docker-list", several(Format::Docker)));
    // Schema 2 has no zstd.
    images.retain(|(name, _)| *name != "oci-zstd");
    for (name, image) in images {
        let (ours, theirs) = (Home::new(), Home::new());
        image.write_directory(&ours.path("in")).unwrap();
        image.write_directory(&theirs.path("in")).unwrap();
        // Into a layout, out of it as schema 2, and into a layout again.
        let steps: [(&[&str], &str, &str); 3] = [
            (&["--all"], "dir:in", "oci:one:1"),
            (&["--all", "--format=v2s2"], "oci:one:1", "dir:two"),
            (&["--all"], "dir:two", "oci:three:1"),
        ];
        for (flags, source, destination) in steps {
            ours.copy(flags, source, destination).expect_success();
            theirs.skopeo().arg("copy").args(flags).args([source, destination]).succeed();
        }
        for directory in ["two", "one/blobs/sha256", "three/blobs/sha256"] {
            let read = |home: &Home| directory_digests(&home.path(directory)).unwrap();
            assert_eq!(read(&ours), read(&theirs), "{name}: {directory}");
        }
        // What came from one conversion comes back from the opposite one as it was.
        let top = |layout: &str| Layout::new(ours.path(layout)).tag("1").unwrap()["digest"].clone();
        if image.format == Format::Docker {
            assert_eq!(top("one"), top("three"), "{name}");
        }
    }
}

#[test]
fn umoci_unpacks_our_layouts() {
    let (Some(_), true) = (require("umoci"), require_root()) else { return };
    let home = Home::new();
    let image = &images()[0].1;
    image.write_directory(&home.path("in")).unwrap();
    home.copy(&[], "dir:in", "oci:layout:latest").expect_success();
    home.command("umoci").args(["unpack", "--image", "layout:latest", "bundle"]).succeed();
    let root = home.path("bundle/rootfs");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("etc/shadow-copy"), read("etc/passwd"));
    assert_eq!(read("opaque/new"), "seen\n");
    for hidden in ["etc/removed", "opaque/old"] {
        assert!(!root.join(hidden).exists(), "{hidden}");
    }
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("usr/lib"));
}

#[test]
fn podman_pulls_what_we_pushed_and_we_copy_what_it_pushed() {
    let (Some(_), Some(_), true) = (require("podman"), require("docker-registry"), require_root())
    else {
        return;
    };
    let registry = DockerRegistry::start().unwrap();
    let home = Home::new();
    for (name, image) in images().into_iter().filter(|(_, image)| image.instances.is_empty()) {
        image.write_directory(&home.path(name)).unwrap();
        let reference = registry.reference(&format!("{name}:1"));
        home.copy(&[], &format!("dir:{name}"), &reference).expect_success();
        let pulled = home
            .with_storage("podman")
            .args(["pull", "--quiet", "--tls-verify=false", &reference])
            .succeed();
        let id = format!("sha256:{}", pulled.stdout.trim());
        assert_eq!(Some(id), image.config(), "{name}");
        let back = registry.reference(&format!("{name}-by-podman:1"));
        home.with_storage("podman")
            .args(["push", "--quiet", "--tls-verify=false", pulled.stdout.trim(), &back])
            .succeed();
        let copy = format!("{name}-copy");
        home.copy(&["--preserve-digests"], &back, &format!("dir:{copy}")).expect_success();
        let files = directory_digests(&home.path(&copy)).unwrap();
        let config = image.config().unwrap();
        assert_eq!(files[config.trim_start_matches("sha256:")], config, "{name}");
        home.copy(&[], &back, &format!("oci:{name}-layout:1")).expect_success();
        let layout = Layout::new(home.path(format!("{name}-layout")));
        assert!(layout.unsound().unwrap().is_empty(), "{name}");
        assert_eq!(layout.manifest("1").unwrap()["schemaVersion"], 2, "{name}");
    }
}

#[test]
fn podman_loads_our_layouts_and_directories() {
    let (Some(_), true) = (require("podman"), require_root()) else { return };
    let home = Home::new();
    for (name, image) in images().into_iter().filter(|(_, image)| image.instances.is_empty()) {
        image.write_directory(&home.path(name)).unwrap();
        let source = format!("dir:{name}");
        for (n, flags) in [vec![], vec!["--dest-decompress"]].iter().enumerate() {
            let copy = format!("dir:{name}-{n}");
            home.copy(flags, &source, &copy).expect_success();
            home.with_storage("podman").args(["pull", "--quiet", &copy]).succeed();
        }
        let layout = format!("oci:{name}-layout:1");
        home.copy(&[], &source, &layout).expect_success();
        home.with_storage("podman").args(["pull", "--quiet", &layout]).succeed();
    }
}

#[test]
fn what_buildah_commits_is_copied_in_every_form() {
    let (Some(_), Some(_), true) = (require("buildah"), require("docker-registry"), require_root())
    else {
        return;
    };
    let registry = DockerRegistry::start().unwrap();
    let home = Home::new();
    let buildah = |arguments: &[&str]| home.with_storage("buildah").args(arguments).succeed();
    fs::write(home.path("file"), "from buildah\n").unwrap();
    let container = buildah(&["from", "scratch"]).stdout.trim().to_owned();
    buildah(&["add", &container, "file", "/file"]);
    buildah(&["config", "--author", "tests", "--entrypoint", r#"["/file"]"#, &container]);
    for format in ["oci", "docker"] {
        let pushed = registry.reference(&format!("{format}:1"));
        for (target, name) in [(pushed.as_str(), "registry"), ("dir:built", "dir")] {
            let format = format!("--format={format}");
            buildah(&["commit", "--quiet", &format, "--tls-verify=false", &container, target]);
            let layout = format!("oci:{format}-{name}:1");
            home.copy(&[], target, &layout).expect_success();
            let layout = Layout::new(home.path(format!("{format}-{name}")));
            assert!(layout.unsound().unwrap().is_empty());
            let config = layout.manifest("1").unwrap()["config"]["digest"].clone();
            let config = layout.blob(config.as_str().unwrap()).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/file"]));
        }
        // Only what the tests put there is removed for the next round.
        fs::remove_dir_all(home.path("built")).unwrap();
    }
}
