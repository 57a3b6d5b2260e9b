//! Killed at any moment, a destination holds the old image or the new one.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use diolkos_tests::{
    Fault, Format, Home, Image, Layer, LayerForm, Layout, Packing, Platform, Registry, Run as _,
    sha256,
};

fn image(seed: &str) -> Image {
    let noise = |n: u32| -> Vec<u8> {
        let salt = seed.bytes().fold(n, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        (0..100_000_u32)
            .flat_map(|i| (i ^ salt).wrapping_mul(2_654_435_761).to_le_bytes())
            .collect()
    };
    let layers: Vec<_> = (0..3)
        .map(|n| LayerForm::new(Layer::new().file(&format!("f{n}"), noise(n)), Packing::Gzip))
        .collect();
    Image::new(Format::Oci, Platform::AMD64, &layers)
}

/// Kills a copy when the request for `part` hangs, that is in the middle of its work.
fn kill_at(home: &Home, source: &Registry, part: &str, destination: &str) {
    source.forget_requests();
    source.inject("GET", part, 1, Fault::Hang(Duration::from_secs(3)));
    let mut child = home
        .copy_command(&[], &source.reference("app:1"), destination)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A hanging request is logged only once it is answered, so its neighbours tell the time.
    let deadline = Instant::now() + Duration::from_secs(10);
    let blobs = |registry: &Registry| {
        registry.requests().iter().filter(|one| one.target.contains("/blobs/")).count()
    };
    while blobs(source) < 2 && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_layout_keeps_its_old_image_and_can_be_written_again() {
    let (old, new) = (image("old"), image("new"));
    for layer in new.layers() {
        let (source, home) = (Registry::start().unwrap(), Home::new());
        old.write_layout(&home.path("layout"), "1").unwrap();
        new.seed(&source, "app", "1");
        kill_at(&home, &source, &layer, "oci:layout:1");
        let layout = Layout::new(home.path("layout"));
        assert_eq!(layout.tag("1").unwrap()["digest"], old.digest());
        assert!(layout.unsound().unwrap().is_empty());
        home.copy(&[], &source.reference("app:1"), "oci:layout:1").expect_success();
        assert_eq!(layout.tag("1").unwrap()["digest"], new.digest());
        assert!(layout.unsound().unwrap().is_empty());
    }
}

#[test]
fn a_tag_in_a_registry_stays_what_it_was() {
    let (old, new) = (image("old"), image("new"));
    let layer = &new.layers()[1];
    let (source, destination, home) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Home::new());
    old.seed(&destination, "app", "1");
    new.seed(&source, "app", "1");
    kill_at(&home, &source, layer, &destination.reference("app:1"));
    old.check_in(&destination, "app", "1").unwrap();
    home.copy(&[], &source.reference("app:1"), &destination.reference("app:1")).expect_success();
    new.check_in(&destination, "app", "1").unwrap();
}

#[test]
fn a_directory_is_whole_or_not_an_image() {
    let new = image("new");
    let layer = &new.layers()[2];
    let (source, home) = (Registry::start().unwrap(), Home::new());
    new.seed(&source, "app", "1");
    kill_at(&home, &source, layer, "dir:out");
    // Other programs take the version file for the sign of a whole directory.
    if home.path("out/version").exists() {
        let manifest = fs::read(home.path("out/manifest.json")).unwrap();
        assert_eq!(sha256(&manifest), new.digest());
    }
}

#[test]
fn a_copy_that_is_told_to_stop_stops_soon_and_cleans_up() {
    let (source, home) = (Registry::start().unwrap(), Home::new());
    let new = image("new");
    new.seed(&source, "app", "1");
    source.inject("GET", &new.layers()[0], 1, Fault::Hang(Duration::from_secs(5)));
    let mut child = home
        .copy_command(&[], &source.reference("app:1"), "oci:layout:1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(600));
    let start = Instant::now();
    home.command("kill").args(["-TERM", &child.id().to_string()]).succeed();
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    if home.path("layout").exists() {
        let left = Layout::new(home.path("layout")).top_files().unwrap();
        assert!(left.iter().all(|name| !name.contains("tmp") && !name.contains("put")), "{left:?}");
    }
}
