//! Images that are made of tar archives, beside skopeo.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use diolkos_tests::{Home, Layer, Layout, Run as _, require, sha256};

/// A home with two archives: one plain, one compressed.
fn world() -> Home {
    let home = Home::new();
    let base = Layer::new().directory("etc").file("etc/base", vec![7; 300_000]).tar();
    let top = Layer::new().file("etc/top", "top\n").tar();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&top).unwrap();
    for (name, bytes, age) in [("base.tar", base, 100), ("top.tar.gz", gzip.finish().unwrap(), 50)]
    {
        fs::write(home.path(name), bytes).unwrap();
        let changed =
            SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_120_000_000 - age);
        File::options().write(true).open(home.path(name)).unwrap().set_modified(changed).unwrap();
    }
    home
}

#[test]
fn the_image_is_the_one_that_skopeo_makes() {
    if require("skopeo").is_none() {
        return;
    }
    let home = world();
    for (n, source) in ["tarball:base.tar", "tarball:base.tar:top.tar.gz"].iter().enumerate() {
        let (ours, theirs) = (format!("dir:ours{n}"), format!("dir:theirs{n}"));
        home.copy(&[], source, &ours).expect_success();
        home.skopeo().env("TZ", "UTC").args(["copy", source, &theirs]).succeed();
        let manifest = |name: &str| {
            let text = fs::read_to_string(home.path(format!("{name}{n}/manifest.json"))).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let (ours, theirs) = (manifest("ours"), manifest("theirs"));
        assert_eq!(ours["config"]["digest"], theirs["config"]["digest"], "{source}");
        assert_eq!(ours["layers"], theirs["layers"], "{source}");
    }
}

#[test]
fn an_archive_comes_from_the_standard_input_too() {
    let home = world();
    let mut child = home
        .copy_command(&[], "tarball:base.tar:-", "oci:out:1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let top = fs::read(home.path("top.tar.gz")).unwrap();
    child.stdin.take().unwrap().write_all(&top).unwrap();
    assert!(child.wait().unwrap().success());
    let layout = Layout::new(home.path("out"));
    assert!(layout.unsound().unwrap().is_empty());
    let manifest = layout.manifest("1").unwrap();
    assert_eq!(manifest["layers"][1]["digest"], sha256(&top));
    assert_eq!(fs::read_dir(home.path("tmp")).unwrap().count(), 0);
    let inspected = home.diolkos().args(["inspect", "oci:out:1"]).succeed().json();
    assert_eq!(inspected["Os"], "linux");
}

#[test]
fn what_cannot_be_a_layer_is_named() {
    let home = world();
    fs::write(home.path("broken.gz"), &fs::read(home.path("top.tar.gz")).unwrap()[..40]).unwrap();
    fs::create_dir(home.path("directory")).unwrap();
    for (source, words) in [
        ("tarball:missing.tar", "missing.tar"),
        ("tarball:base.tar:missing.tar", "missing.tar"),
        ("tarball:broken.gz", "broken.gz"),
        ("tarball:directory", "directory"),
        ("tarball:-:-", "standard input"),
        ("tarball:", "no path"),
    ] {
        home.copy(&[], source, "dir:out").expect_code(1).expect_words(&[words]);
        assert!(!home.path("out/manifest.json").exists(), "{source}");
    }
    home.copy(&[], "tarball:base.tar", "tarball:x").expect_code(1);
}
