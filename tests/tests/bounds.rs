//! What a copy must not depend on: the size of a layer, the number of cores, who else is writing.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use diolkos_tests::{
    Format, Home, Image, Layer, LayerForm, Layout, Packing, Platform, Registry, Run as _,
    directory_digests, noise, peak_memory, require,
};

/// A layer that is small in the registry and large when it is unpacked.
fn inflating(megabytes: usize) -> Image {
    let mut content = Vec::new();
    for n in 0..megabytes * 16 {
        // Not so uniform that it becomes a handful of bytes.
        writeln!(content, "{n}").unwrap();
        content.resize((n + 1) << 16, b'x');
    }
    let layer = LayerForm::new(Layer::new().file("large", content), Packing::Gzip);
    Image::new(Format::Oci, Platform::AMD64, &[layer])
}

#[test]
fn memory_does_not_grow_with_the_size_of_a_layer() {
    let peaks = [8, 400].map(|megabytes| {
        let (registry, home) = (Registry::start().unwrap(), Home::new());
        inflating(megabytes).seed(&registry, "app", "1");
        let source = registry.reference("app:1");
        peak_memory(&mut home.copy_command(&["--dest-decompress"], &source, "dir:out"))
    });
    assert!(peaks[1] < peaks[0] + (40 << 20), "{peaks:?}");
    assert!(peaks[1] < 120 << 20, "{peaks:?}");
}

#[test]
fn memory_does_not_grow_with_what_is_sent() {
    let peaks = [2, 200].map(|megabytes| {
        let (source, destination, home) =
            (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
        let layer = Layer::new().file("noise", noise(megabytes << 20, 7));
        let layers = [LayerForm::new(layer, Packing::Plain)];
        Image::new(Format::Oci, Platform::AMD64, &layers).seed(&source, "app", "1");
        let peak = peak_memory(&mut home.copy_command(
            &[],
            &source.reference("app:1"),
            &destination.reference("app:1"),
        ));
        assert!(destination.manifest("app", "1").is_some());
        peak
    });
    assert!(peaks[1] < peaks[0] + (60 << 20), "{peaks:?}");
}

#[test]
fn the_result_is_the_same_on_one_core() {
    let Some(_) = require("taskset") else { return };
    let layers = [1, 2, 3].map(|seed| {
        let layer =
            Layer::new().file("noise", noise(3 << 20, seed)).file("text", "text ".repeat(400_000));
        LayerForm::new(layer, Packing::Plain)
    });
    let image = Image::new(Format::Oci, Platform::AMD64, &layers);
    let home = Home::new();
    image.write_directory(&home.path("in")).unwrap();
    for compression in ["gzip", "zstd"] {
        let flag = format!("--dest-compress-format={compression}");
        let copy = |destination: &str| home.copy_command(&[&flag], "dir:in", destination);
        copy("oci:all:1").succeed();
        let one = copy("oci:one:1");
        let mut pinned = home.command("taskset");
        pinned.args(["-c", "0"]).arg(one.get_program()).args(one.get_args());
        pinned.env("_CONTAINERS_ROOTLESS_UID", "1000").succeed();
        let read = |layout: &str| directory_digests(&home.path(layout).join("blobs/sha256"));
        assert_eq!(read("all").unwrap(), read("one").unwrap(), "{compression}");
    }
}

#[test]
fn copies_into_one_layout_at_the_same_time_all_arrive() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let images: Vec<_> = (0..6)
        .map(|n| {
            let image = Image::small(Format::Oci, Platform::AMD64, &format!("together {n}"));
            image.seed(&registry, "app", &n.to_string());
            image
        })
        .collect();
    let children: Vec<_> = (0..images.len())
        .map(|n| {
            let source = registry.reference(&format!("app:{n}"));
            home.copy_command(&[], &source, &format!("oci:layout:{n}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let layout = Layout::new(home.path("layout"));
    for (n, image) in images.iter().enumerate() {
        assert_eq!(layout.tag(&n.to_string()).unwrap()["digest"], image.digest());
    }
    assert!(layout.unsound().unwrap().is_empty());
}

#[test]
fn the_policy_is_asked_before_anything_moves() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "policy");
    image.seed(&registry, "app", "1");
    fs::write(home.path("policy.json"), r#"{"default":[{"type":"reject"}]}"#).unwrap();
    let refused = home
        .diolkos()
        .args(["--policy", "policy.json", "copy", "--src-tls-verify=false"])
        .args([registry.reference("app:1"), "oci:layout:1".to_owned()])
        .run()
        .expect_code(1);
    assert!(refused.stderr.contains("is rejected by policy"), "{}", refused.stderr);
    let blobs = registry.requests().iter().filter(|one| one.target.contains("/blobs/")).count();
    assert_eq!(blobs, 0);
    assert!(!home.path("layout/index.json").exists());
}
