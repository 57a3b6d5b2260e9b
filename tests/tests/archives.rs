//! Images in tar archives, beside skopeo and podman, and archives that are not what they should be.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use diolkos_tests::{
    DockerDaemon, Fault, Format, Home, Image, Layer, LayerForm, Layout, Packing, Platform,
    Registry, Run as _, require, require_root, sha256,
};
use serde_json::{Value, json};

fn image(packing: Packing) -> Image {
    Image::hard_things(Format::Oci, packing)
}

fn world() -> (Home, Image) {
    let (home, image) = (Home::new(), image(Packing::Gzip));
    image.write_layout(&home.path("in"), "1").unwrap();
    (home, image)
}

/// Returns the digest of an image's config and what it says of the layers, by way of a copy.
fn identity(home: &Home, reference: &str) -> (String, Value) {
    let to = home.path("identity");
    let _ = fs::remove_dir_all(&to);
    home.copy(&[], reference, "oci:identity:1").expect_success();
    let layout = Layout::new(&to);
    assert!(layout.unsound().unwrap().is_empty(), "{reference}");
    let config = layout.manifest("1").unwrap()["config"]["digest"].as_str().unwrap().to_owned();
    let config: Value = serde_json::from_slice(&layout.blob(&config).unwrap()).unwrap();
    (sha256(config["rootfs"].to_string().as_bytes()), config["rootfs"]["diff_ids"].clone())
}

fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn write_archive(path: &Path, members: &BTreeMap<String, Vec<u8>>) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn a_docker_archive_is_the_one_that_skopeo_writes() {
    if require("skopeo").is_none() {
        return;
    }
    let (home, _) = world();
    for (n, reference) in ["", ":app:1", ":r.example:5000/team/app:2"].iter().enumerate() {
        let (ours, theirs) = (format!("ours{n}.tar"), format!("theirs{n}.tar"));
        let tags = ["--additional-tag", "other:3", "--additional-tag", "other:4"];
        let to = format!("docker-archive:{ours}{reference}");
        home.copy(&tags, "oci:in:1", &to).expect_success();
        let to = format!("docker-archive:{theirs}{reference}");
        home.skopeo().arg("copy").args(tags).args(["oci:in:1", &to]).succeed();
        assert!(
            fs::read(home.path(&ours)).unwrap() == fs::read(home.path(&theirs)).unwrap(),
            "{reference}: {:?} and {:?}",
            members(&home.path(&ours)).keys(),
            members(&home.path(&theirs)).keys()
        );
        let list = |program: &mut Command| {
            let listed = program.args(["list-tags", &format!("docker-archive:{ours}")]).succeed();
            listed.json()
        };
        assert_eq!(list(&mut home.diolkos()), list(&mut home.skopeo()));
        let raw = |program: &mut Command| {
            program
                .args(["inspect", "--raw", &format!("docker-archive:{theirs}:other:3")])
                .succeed()
        };
        assert_eq!(raw(&mut home.diolkos()).stdout, raw(&mut home.skopeo()).stdout);
    }
}

#[test]
fn skopeo_reads_and_writes_the_same_oci_archives() {
    if require("skopeo").is_none() {
        return;
    }
    let (home, image) = world();
    home.copy(&[], "oci:in:1", "oci-archive:ours.tar:app").expect_success();
    home.skopeo().args(["copy", "oci-archive:ours.tar:app", "dir:back"]).succeed();
    assert_eq!(sha256(&fs::read(home.path("back/manifest.json")).unwrap()), image.digest());
    home.skopeo().args(["copy", "oci:in:1", "oci-archive:theirs.tar:app"]).succeed();
    home.copy(&["--preserve-digests"], "oci-archive:theirs.tar", "dir:again").expect_success();
    assert_eq!(sha256(&fs::read(home.path("again/manifest.json")).unwrap()), image.digest());
    // Nothing but the image is in it.
    let names: Vec<_> = members(&home.path("ours.tar")).into_keys().collect();
    assert_eq!(names.len(), image.blobs.len() + 3, "{names:?}");
    home.diolkos()
        .args(["inspect", "oci-archive:ours.tar:other"])
        .run()
        .expect_code(2)
        .expect_words(&["other", "`app`"]);
}

#[test]
fn podman_loads_what_we_write_and_we_read_what_it_saves() {
    let (Some(_), true) = (require("podman"), require_root()) else { return };
    let (home, _) = world();
    let expected = identity(&home, "oci:in:1");
    for (name, to) in [
        ("docker.tar", "docker-archive:docker.tar:example.test/app:1"),
        ("oci.tar", "oci-archive:oci.tar:example.test/app:1"),
    ] {
        home.copy(&[], "oci:in:1", to).expect_success();
        let said = home.with_storage("podman").args(["load", "--quiet", "-i", name]).succeed();
        assert!(said.stdout.contains("example.test/app:1"), "{}", said.stdout);
    }
    for (n, format) in ["docker-archive", "oci-archive"].iter().enumerate() {
        let file = format!("saved{n}.tar");
        let names = ["example.test/app:1", "-o", &file, "--format", format];
        home.with_storage("podman").args(["save", "--quiet"]).args(names).succeed();
        assert_eq!(identity(&home, &format!("{format}:{file}")), expected, "{format}");
    }
    // Several images in one archive.
    home.with_storage("podman")
        .args(["tag", "example.test/app:1", "example.test/other:2"])
        .succeed();
    let names = ["example.test/app:1", "example.test/other:2"];
    let several = ["--multi-image-archive", "-o", "several.tar", "--format", "docker-archive"];
    home.with_storage("podman").args(["save", "--quiet"]).args(several).args(names).succeed();
    for which in ["example.test/other:2", "@0"] {
        assert_eq!(identity(&home, &format!("docker-archive:several.tar:{which}")), expected);
    }
}

#[test]
fn docker_loads_what_we_write_and_we_read_what_it_saves() {
    let Some(daemon) = DockerDaemon::start() else { return };
    let (home, _) = world();
    let expected = identity(&home, "oci:in:1");
    home.copy(&["--additional-tag=b:2"], "oci:in:1", "docker-archive:a.tar:a:1").expect_success();
    let path = |name: &str| home.path(name).display().to_string();
    let said = daemon.docker(&["load", "-i", &path("a.tar")]).succeed();
    assert!(said.stdout.contains("a:1") && said.stdout.contains("b:2"), "{}", said.stdout);
    daemon.docker(&["save", "-o", &path("saved.tar"), "a:1", "b:2"]).succeed();
    for which in ["a:1", "b:2"] {
        assert_eq!(identity(&home, &format!("docker-archive:saved.tar:{which}")), expected);
    }
}

#[test]
fn archives_come_through_pipes_and_compressed() {
    let (home, _) = world();
    let expected = identity(&home, "oci:in:1");
    for transport in ["docker-archive", "oci-archive"] {
        let file = format!("{transport}.tar");
        home.copy(&[], "oci:in:1", &format!("{transport}:{file}:app:1")).expect_success();
        let whole = fs::read(home.path(&file)).unwrap();
        // Nothing but the archive is on the standard output.
        let said = home
            .copy_command(&[], "oci:in:1", &format!("{transport}:/dev/stdout:app:1"))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(said.status.success() && said.stdout == whole, "{transport}");
        let mut child = home
            .copy_command(&[], &format!("{transport}:/dev/stdin"), "oci:piped:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&whole).unwrap();
        assert!(child.wait().unwrap().success(), "{transport}");
        assert_eq!(identity(&home, "oci:piped:1"), expected);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&whole).unwrap();
        for (form, bytes) in
            [("gz", gzip.finish().unwrap()), ("zst", zstd::bulk::compress(&whole, 1).unwrap())]
        {
            fs::write(home.path(form), bytes).unwrap();
            assert_eq!(identity(&home, &format!("{transport}:{form}")), expected, "{form}");
        }
        assert_eq!(fs::read_dir(home.path("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn layers_may_be_compressed_and_links() {
    let (home, _) = world();
    let expected = identity(&home, "oci:in:1");
    home.copy(&[], "oci:in:1", "docker-archive:plain.tar:app:1").expect_success();
    let mut all = members(&home.path("plain.tar"));
    for (name, content) in &mut all {
        if !name.contains('/') && Path::new(name).extension().is_some_and(|it| it == "tar") {
            *content = zstd::bulk::compress(content, 1).unwrap();
        }
    }
    all.retain(|name, _| !name.contains('/'));
    write_archive(&home.path("compressed.tar"), &all);
    assert_eq!(identity(&home, "docker-archive:compressed.tar"), expected);
    let raw = |name: &str| {
        let reference = format!("docker-archive:{name}.tar");
        home.diolkos().args(["inspect", "--raw", &reference]).succeed().stdout
    };
    assert_eq!(raw("plain"), raw("compressed"), "sizes are those of the layers themselves");
    // As the oldest form has it: by the link in the layer's own directory.
    let mut all = members(&home.path("plain.tar"));
    let mut list: Value = serde_json::from_slice(&all["manifest.json"]).unwrap();
    let mut builder = tar::Builder::new(File::create(home.path("links.tar")).unwrap());
    let layers = list[0]["Layers"].as_array_mut().unwrap();
    for (n, layer) in layers.iter_mut().enumerate() {
        let target = format!("../{}", layer.as_str().unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        *layer = json!(format!("layer{n}/layer.tar"));
        builder.append_link(&mut header, layer.as_str().unwrap(), target).unwrap();
    }
    all.insert("manifest.json".to_owned(), list.to_string().into_bytes());
    for (name, content) in all.iter().filter(|(name, _)| !name.contains('/')) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    drop(builder);
    // The same layer stands there twice, under two names.
    assert_eq!(identity(&home, "docker-archive:links.tar"), expected);
}

#[test]
fn images_are_chosen_by_name_and_position_and_errors_name_them() {
    let (home, _) = world();
    home.copy(&["--additional-tag=b:2"], "oci:in:1", "docker-archive:a.tar:a:1").expect_success();
    let mut all = members(&home.path("a.tar"));
    let mut list: Value = serde_json::from_slice(&all["manifest.json"]).unwrap();
    let untagged =
        json!({"Config": list[0]["Config"], "RepoTags": null, "Layers": list[0]["Layers"]});
    list.as_array_mut().unwrap().push(untagged);
    all.insert("manifest.json".to_owned(), list.to_string().into_bytes());
    write_archive(&home.path("two.tar"), &all);
    for good in ["a:1", "docker.io/library/b:2", "@0", "@1"] {
        let reference = format!("docker-archive:two.tar:{good}");
        home.diolkos().args(["inspect", &reference]).succeed();
    }
    for (bad, words) in [
        ("", "expected 1 item, got 2"),
        (":c", "Tag \"docker.io/library/c:latest\" not found"),
        (":@2", "only 2 manifest items"),
        (":@x", "not an integer"),
        (":a@sha256:aaaa", "docker-archive parsing reference"),
    ] {
        let reference = format!("docker-archive:two.tar{bad}");
        let outcome = home.diolkos().args(["inspect", &reference]).run();
        outcome.expect_code(1).expect_words(&[words]);
    }
    let refused = home.copy(&[], "oci:in:1", "docker-archive:x.tar:@0").expect_code(1);
    assert!(refused.stderr.contains("must not contain a manifest index"), "{}", refused.stderr);
    let wrong = home.diolkos().args(["inspect", "oci-archive:a.tar"]).run().expect_code(1);
    wrong.expect_words(&["index.json", "docker-archive:"]);
}

#[test]
fn an_archive_appears_when_it_is_complete_and_an_old_one_stays_until_then() {
    let (registry, image, home) = (Registry::start().unwrap(), image(Packing::Gzip), Home::new());
    image.seed(&registry, "app", "1");
    image.write_layout(&home.path("in"), "1").unwrap();
    let source = registry.reference("app:1");
    let files = || {
        let entries = fs::read_dir(home.path("out")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    fs::create_dir(home.path("out")).unwrap();
    let layer = image.layers()[2].clone();
    for transport in ["docker-archive", "oci-archive"] {
        registry.always("GET", &layer, Fault::FlipByte(20));
        let to = format!("{transport}:out/{transport}.tar:app:1");
        home.copy(&[], &source, &to).expect_code(1).expect_words(&[&layer]);
        assert!(files().is_empty(), "{:?}", files());
        registry.behave();
        home.copy(&[], &source, &to).expect_success();
        let old = fs::read(home.path(format!("out/{transport}.tar"))).unwrap();
        registry.always("GET", &layer, Fault::FlipByte(20));
        home.copy(&[], &source, &to).expect_code(1);
        assert!(fs::read(home.path(format!("out/{transport}.tar"))).unwrap() == old);
        assert_eq!(files(), [format!("{transport}.tar")]);
        registry.behave();
        fs::remove_file(home.path(format!("out/{transport}.tar"))).unwrap();
    }
    // A killed one leaves something, which goes with the next.
    registry.inject("GET", &layer, 1, Fault::Hang(Duration::from_secs(5)));
    let mut child = home
        .copy_command(&[], &source, "oci-archive:out/a.tar")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while files().is_empty() {
        sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(files().len(), 1);
    home.copy(&[], "oci:in:1", "oci-archive:out/a.tar").expect_success();
    assert_eq!(files(), ["a.tar"]);
    // An archive is replaced where skopeo does so, and refused where it does that.
    home.copy(&[], "oci:in:1", "oci-archive:out/a.tar").expect_success();
    home.copy(&[], "oci:in:1", "docker-archive:out/a.tar")
        .expect_code(1)
        .expect_words(&["docker-archive doesn't support modifying existing images"]);
    // An empty file is none.
    File::create(home.path("out/b.tar")).unwrap();
    home.copy(&[], "oci:in:1", "docker-archive:out/b.tar").expect_success();
}

#[test]
fn archives_that_are_damaged_are_refused_and_nothing_is_written() {
    let (home, _) = world();
    for transport in ["docker-archive", "oci-archive"] {
        home.copy(&[], "oci:in:1", &format!("{transport}:whole.tar:app:1")).expect_success();
        let whole = fs::read(home.path("whole.tar")).unwrap();
        let blocks = whole.len() / 512;
        // The last blocks are empty.
        for cut in (0..blocks - 2).step_by((blocks / 12).max(1)) {
            fs::write(home.path("cut.tar"), &whole[..cut * 512 + 100]).unwrap();
            let outcome = home.copy(&[], &format!("{transport}:cut.tar"), "oci:out:1");
            assert_eq!(outcome.code, Some(1), "{transport} {cut}: {}", outcome.stderr);
            assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
            assert!(!home.path("out/index.json").exists());
        }
        fs::remove_file(home.path("whole.tar")).unwrap();
    }
    home.copy(&[], "oci:in:1", "docker-archive:a.tar:app:1").expect_success();
    let all = members(&home.path("a.tar"));
    let list: Value = serde_json::from_slice(&all["manifest.json"]).unwrap();
    let config = list[0]["Config"].as_str().unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut list: Value = serde_json::from_slice(&all["manifest.json"]).unwrap();
        change(&mut list);
        let mut all = all.clone();
        all.insert("manifest.json".to_owned(), list.to_string().into_bytes());
        write_archive(&home.path("bad.tar"), &all);
        let outcome = home.copy(&[], "docker-archive:bad.tar", "oci:out:1").expect_code(1);
        assert!(!home.path("out/index.json").exists());
        outcome
    };
    with(&|list| list[0]["Config"] = json!("../../etc/passwd")).expect_words(&["does not exist"]);
    with(&|list| list[0]["Config"] = json!("/etc/passwd")).expect_words(&["does not exist"]);
    with(&|list| list[0]["Layers"] = json!([])).expect_words(&["Inconsistent layer count"]);
    with(&|list| list[0]["Layers"][0] = json!("missing")).expect_words(&["\"missing\" is missing"]);
    with(&|list| list[0]["Layers"][0] = json!(config)).expect_words(&["sha256:"]);
    with(&|list| *list = json!({"a": 1})).expect_words(&["decoding tar manifest.json"]);
    let huge = BTreeMap::from([("manifest.json".to_owned(), vec![b' '; 100 << 20])]);
    write_archive(&home.path("bad.tar"), &huge);
    home.copy(&[], "docker-archive:bad.tar", "oci:out:1").expect_code(1).expect_words(&["larger"]);
    fs::write(home.path("text"), "no archive at all").unwrap();
    for transport in ["docker-archive", "oci-archive"] {
        for what in ["text", "in", "nothing"] {
            let reference = format!("{transport}:{what}");
            home.copy(&[], &reference, "oci:out:1").expect_code(1).expect_words(&[what]);
        }
    }
}

#[test]
fn a_second_image_is_added_to_an_archive_and_all_of_them_are_found() {
    let (home, _) = world();
    let first = identity(&home, "oci:in:1");
    let own = Layer::new().file("own", "text\n");
    let shared = Layer::new().file("twice", "the same\n");
    let layers = [shared, own].map(|layer| LayerForm::new(layer, Packing::Gzip));
    let other = Image::new(Format::Oci, Platform::AMD64, &layers);
    other.write_layout(&home.path("other"), "1").unwrap();
    let second = identity(&home, "oci:other:1");
    let add = |from: &str, to: &str| home.copy(&["--append"], from, to);
    // The first one makes the archive, as it would be without the flag.
    add("oci:in:1", "docker-archive:all.tar:app:1").expect_success();
    home.copy(&[], "oci:in:1", "docker-archive:plain.tar:app:1").expect_success();
    assert!(fs::read(home.path("all.tar")).unwrap() == fs::read(home.path("plain.tar")).unwrap());
    add("oci:other:1", "docker-archive:all.tar:r.example/other:2").expect_success();
    let tags = |path: &str| {
        let listed =
            home.diolkos().args(["list-tags", &format!("docker-archive:{path}")]).succeed();
        listed.json()["Tags"].clone()
    };
    assert_eq!(tags("all.tar"), json!(["docker.io/library/app:1", "r.example/other:2"]));
    assert_eq!(identity(&home, "docker-archive:all.tar:app:1"), first);
    assert_eq!(identity(&home, "docker-archive:all.tar:r.example/other:2"), second);
    // What both have is there once; an image that is there already gets another name.
    let layers = |path: &str| {
        let mut archive = tar::Archive::new(File::open(home.path(path)).unwrap());
        let name = |entry: std::io::Result<tar::Entry<'_, File>>| {
            entry.unwrap().path().unwrap().display().to_string()
        };
        let names = archive.entries().unwrap().map(name);
        names.filter(|name| name.len() == 68 && !name.contains('/')).count()
    };
    assert_eq!(layers("all.tar"), layers("plain.tar") + 1);
    add("oci:in:1", "docker-archive:all.tar:r.example/other:2").expect_success();
    assert_eq!(layers("all.tar"), layers("plain.tar") + 1);
    assert_eq!(identity(&home, "docker-archive:all.tar:r.example/other:2"), first);
    assert_eq!(identity(&home, "docker-archive:all.tar:@1"), second, "it has lost its name");
    assert_eq!(tags("all.tar"), json!(["docker.io/library/app:1", "r.example/other:2"]));
    let mut archive = tar::Archive::new(File::open(home.path("all.tar")).unwrap());
    let lists = archive
        .entries()
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().unwrap() == Path::new("manifest.json"));
    assert_eq!(lists.count(), 1, "programs that take the first one find all images");
    // Whoever reads such archives reads this one.
    if require("skopeo").is_some() {
        for (which, expected) in [("app:1", &first), ("@1", &second)] {
            let to = format!("oci:theirs{}:1", which.len());
            home.skopeo().args(["copy", &format!("docker-archive:all.tar:{which}"), &to]).succeed();
            assert_eq!(identity(&home, &to), *expected);
        }
    }
    if let Some(daemon) = DockerDaemon::start() {
        let path = home.path("all.tar").display().to_string();
        daemon.docker(&["load", "-q", "-i", &path]).succeed();
        let said = daemon.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).succeed();
        let mut names: Vec<_> = said.stdout.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["<none>:<none>", "app:1", "r.example/other:2"]);
        // And to what Docker saved, another one is added.
        let saved = home.path("saved.tar").display().to_string();
        daemon.docker(&["save", "-o", &saved, "app:1"]).succeed();
        add("oci:other:1", "docker-archive:saved.tar:other:3").expect_success();
        assert_eq!(identity(&home, "docker-archive:saved.tar:app:1"), first);
        assert_eq!(identity(&home, "docker-archive:saved.tar:other:3"), second);
        daemon.docker(&["load", "-q", "-i", &saved]).succeed();
    }
}

#[test]
fn what_an_archive_holds_is_looked_at_before_it_is_used_again() {
    let (home, _) = world();
    home.copy(&[], "oci:in:1", "docker-archive:a.tar:app:1").expect_success();
    let expected = identity(&home, "docker-archive:a.tar");
    let mut bytes = fs::read(home.path("a.tar")).unwrap();
    let at = bytes.windows(6).position(|bytes| bytes == b"marked").unwrap();
    bytes[at + 600] ^= 1;
    fs::write(home.path("a.tar"), &bytes).unwrap();
    fs::set_permissions(home.path("a.tar"), Permissions::from_mode(0o666)).unwrap();
    home.copy(&["--append"], "oci:in:1", "docker-archive:a.tar:app:2").expect_success();
    assert_eq!(identity(&home, "docker-archive:a.tar:app:2"), expected);
    let mode = fs::metadata(home.path("a.tar")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666, "it is the same file to others");
    // What else the list says of an image stays.
    let mut members = members(&home.path("a.tar"));
    let mut list: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    list[0]["Parent"] = "p".into();
    members.insert("manifest.json".to_owned(), list.to_string().into_bytes());
    write_archive(&home.path("b.tar"), &members);
    home.copy(&["--append"], "oci:in:1", "docker-archive:b.tar:app:3").expect_success();
    let again: Value =
        serde_json::from_slice(&self::members(&home.path("b.tar"))["manifest.json"]).unwrap();
    assert_eq!(again[0]["Parent"], "p");
}

#[test]
fn of_several_that_make_an_archive_one_does_and_the_others_are_told() {
    let (home, _) = world();
    for round in 0..5 {
        let path = format!("all{round}.tar");
        let children: Vec<_> = (0..4)
            .map(|n| {
                let to = format!("docker-archive:{path}:app:{n}");
                let mut command = home.copy_command(&["--append"], "oci:in:1", &to);
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let done = children.into_iter().filter_map(|mut child| child.wait().unwrap().code());
        let done = done.filter(|code| *code == 0).count();
        let listed =
            home.diolkos().args(["list-tags", &format!("docker-archive:{path}")]).succeed();
        assert_eq!(listed.json()["Tags"].as_array().unwrap().len(), done, "nobody's image is lost");
        assert!(done > 0);
    }
}

#[test]
fn an_archive_that_cannot_be_added_to_stays_as_it_was() {
    let (home, _) = world();
    home.copy(&[], "oci:in:1", "docker-archive:a.tar:app:1").expect_success();
    let whole = fs::read(home.path("a.tar")).unwrap();
    let compressed = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&whole).unwrap();
        encoder.finish().unwrap()
    };
    home.copy(&[], "oci:in:1", "oci-archive:oci.tar:app").expect_success();
    let oci = fs::read(home.path("oci.tar")).unwrap();
    for (before, words) in [
        (&compressed[..], "is compressed: nothing can be added to it"),
        (&whole[..whole.len() / 2], "is no sound tar archive"),
        (&oci, "loading tar component \"manifest.json\""),
        (b"text", "is no sound tar archive"),
    ] {
        fs::write(home.path("b.tar"), before).unwrap();
        home.copy(&["--append"], "oci:in:1", "docker-archive:b.tar:app:2")
            .expect_code(1)
            .expect_words(&["cannot add an image to `b.tar`", words]);
        assert!(fs::read(home.path("b.tar")).unwrap() == before);
    }
    // A copy that fails, and one beside another.
    home.copy(&["--append"], "oci:in:nosuch", "docker-archive:a.tar:app:2").expect_code(2);
    let held = File::open(home.path("a.tar")).unwrap();
    held.lock().unwrap();
    home.copy(&["--append"], "oci:in:1", "docker-archive:a.tar:app:2")
        .expect_code(1)
        .expect_words(&["somebody else writes a.tar"]);
    drop(held);
    assert!(fs::read(home.path("a.tar")).unwrap() == whole);
    home.copy(&[], "oci:in:1", "docker-archive:a.tar:app:2")
        .expect_code(1)
        .expect_words(&["doesn't support modifying existing images", "--dest-append"]);
    let left = fs::read_dir(home.path("")).unwrap().flatten();
    let left = left.filter(|it| it.file_name().to_string_lossy().starts_with(".diolkos"));
    assert_eq!(left.count(), 0);
}
