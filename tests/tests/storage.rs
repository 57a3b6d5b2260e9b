//! The store of podman and buildah: what they write we read, what we write they use, and skopeo
//! writes the same.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use diolkos_tests::{
    Entry, Format, Home, Image, Layer, LayerForm, Layout, Packing, Platform, Run as _, Store,
    built_program, killer, require, require_root, tree,
};
use serde_json::{Value, json};

const DRIVERS: [&str; 2] = ["overlay", "vfs"];

/// Prepares skopeo as root, accepting every image.
fn skopeo(home: &Home) -> Command {
    let mut command = home.command("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet"]);
    command
}

fn hard_things(home: &Home, packing: Packing) -> Image {
    let image = Image::hard_things(Format::Oci, packing);
    image.write_layout(&home.path("in"), "1").unwrap();
    image
}

/// Returns records without what differs by design: the times at which layers were made.
fn timeless(mut records: Vec<Value>) -> Vec<Value> {
    for record in &mut records {
        if !record["diff-digest"].is_null() {
            record.as_object_mut().unwrap().remove("created");
        }
    }
    records
}

#[test]
fn skopeo_writes_the_same_records_trees_and_tar_splits() {
    if !require_root() || require("skopeo").is_none() {
        return;
    }
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    for driver in DRIVERS {
        for packing in [Packing::Gzip, Packing::Plain] {
            let home = Home::new();
            hard_things(&home, packing);
            let (ours, theirs) =
                (Store::new(&home, driver, "ours"), Store::new(&home, driver, "theirs"));
            Store::copy(&home, "oci:in:1", &ours.reference("localhost/a:1"));
            skopeo(&home).args(["oci:in:1", &theirs.reference("localhost/a:1")]).succeed();
            assert_eq!(ours.unsound(), Vec::<String>::new());
            assert_eq!(timeless(ours.layers()), timeless(theirs.layers()), "{driver} {packing:?}");
            assert_eq!(ours.images(), theirs.images(), "{driver} {packing:?}");
            for layer in ours.layers() {
                let id = layer["id"].as_str().unwrap();
                let (our_tree, their_tree) =
                    (tree(&ours.tree(id)).unwrap(), tree(&theirs.tree(id)).unwrap());
                for (name, theirs) in &their_tree {
                    let mut ours = our_tree.get(name).cloned();
                    // A directory that the layer does not name was changed when it was made.
                    let made = |entry: &Entry| entry.changed.0 >= begin;
                    if let Some(ours) = ours.as_mut().filter(|ours| made(ours) && made(theirs)) {
                        ours.changed = theirs.changed;
                    }
                    assert_eq!(ours.as_ref(), Some(theirs), "{driver} {id} {}", name.display());
                }
                assert_eq!(our_tree.len(), their_tree.len(), "{driver} {id}");
                assert!(ours.tar_split(id) == theirs.tar_split(id), "{driver} {id}");
            }
        }
    }
}

#[test]
fn every_image_comes_back_with_its_diff_ids_config_and_manifest() {
    if !require_root() {
        return;
    }
    for driver in DRIVERS {
        for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
            let home = Home::new();
            let image = hard_things(&home, packing);
            let store = Store::new(&home, driver, "store");
            Store::copy(&home, "oci:in:1", &store.reference("localhost/a:1"));
            Store::copy(&home, &store.reference("localhost/a:1"), "oci:out:1");
            assert_eq!(Layout::new(home.path("out")).unsound().unwrap(), Vec::<String>::new());
            let config = |layout: &str| {
                let layout = Layout::new(home.path(layout));
                let manifest = layout.manifest("1").unwrap();
                layout.blob(manifest["config"]["digest"].as_str().unwrap()).unwrap()
            };
            assert!(config("in") == config("out"), "{driver} {packing:?}");
            let raw = |reference: &str| {
                let mut command = home.command(built_program());
                command.args(["inspect", "--raw", reference]).succeed().stdout
            };
            assert_eq!(raw(&store.reference("localhost/a:1")).as_bytes(), image.manifest);
            let by_digest = store.reference(&format!("localhost/a@{}", image.digest()));
            assert_eq!(raw(&by_digest).as_bytes(), image.manifest);
            let id = image.config().unwrap();
            let short = store.reference(&id["sha256:".len()..][..12]);
            assert_eq!(raw(&short).as_bytes(), image.manifest);
        }
    }
}

/// An image in which `cat` runs, with the libraries that it needs.
fn with_a_program(home: &Home, mark: &str) {
    let program = ["/usr/bin/cat", "/bin/cat"].into_iter().find(|path| Path::new(path).exists());
    let program = program.expect("there is a cat");
    let listed = home.command("ldd").arg(program).succeed().stdout;
    let files: Vec<&str> =
        listed.split_whitespace().filter(|word| word.starts_with('/')).chain([program]).collect();
    let mut layer = Layer::new();
    for path in files {
        let content = fs::read(path).unwrap();
        layer = layer.program(path.trim_start_matches('/'), content);
    }
    layer =
        layer.directory("proc").directory("sys").directory("dev").directory("tmp").directory("run");
    let base = LayerForm::new(layer.file("gone", "gone").file("mark", "old"), Packing::Gzip);
    let top = Layer::new().whiteout("gone").file("mark", mark);
    let image =
        Image::new(Format::Oci, Platform::AMD64, &[base, LayerForm::new(top, Packing::Gzip)]);
    image.write_layout(&home.path("program"), "1").unwrap();
}

#[test]
fn podman_runs_mounts_and_pushes_what_we_wrote() {
    if !require_root() || require("podman").is_none() || require("crun").is_none() {
        return;
    }
    for driver in DRIVERS {
        let home = Home::new();
        with_a_program(&home, "marked");
        let store = Store::new(&home, driver, "store");
        Store::copy(&home, "oci:program:1", &store.reference("localhost/a:1"));
        let podman = || store.program(&home, "podman");
        let listed = podman().args(["images", "--format", "{{.Repository}}:{{.Tag}}"]).succeed();
        assert_eq!(listed.stdout.trim(), "localhost/a:1");
        let mounted = podman().args(["image", "mount", "localhost/a:1"]).succeed().stdout;
        let mounted = Path::new(mounted.trim());
        assert_eq!(fs::read_to_string(mounted.join("mark")).unwrap(), "marked");
        assert!(!mounted.join("gone").exists());
        podman().args(["image", "unmount", "localhost/a:1"]).succeed();
        let flags =
            ["--rm", "--network=none", "--cgroups=disabled", "--security-opt=seccomp=unconfined"];
        let run = podman()
            .args(["--cgroup-manager=cgroupfs", "--runtime=crun", "run"])
            .args(flags)
            .args(["localhost/a:1", "/usr/bin/cat", "/mark"])
            .run();
        if run.code == Some(0) {
            assert_eq!(run.stdout, "marked");
        } else {
            // Where no container can run, changing the root is as far as one gets.
            let buildah = || store.program(&home, "buildah");
            let container = buildah().args(["from", "localhost/a:1"]).succeed().stdout;
            let run = ["run", "--isolation=chroot", container.trim(), "/usr/bin/cat", "/mark"];
            assert_eq!(buildah().args(run).succeed().stdout, "marked", "podman: {}", run.len());
            buildah().args(["rm", container.trim()]).succeed();
        }
        let pushed = home.path("pushed");
        podman()
            .args(["push", "--quiet", "localhost/a:1"])
            .arg(format!("oci:{}:1", pushed.display()))
            .succeed();
        let config = |layout: &str| {
            Layout::new(home.path(layout)).manifest("1").unwrap()["config"]["digest"].clone()
        };
        assert_eq!(config("pushed"), config("program"));
        assert_eq!(store.unsound(), Vec::<String>::new());
        podman().args(["rmi", "localhost/a:1"]).succeed();
        assert_eq!(store.images().len() + store.layers().len(), 0);
        assert_eq!(store.unsound(), Vec::<String>::new());
    }
}

#[test]
fn what_podman_and_buildah_write_is_read_with_the_same_digests() {
    if !require_root() || require("podman").is_none() || require("buildah").is_none() {
        return;
    }
    for driver in DRIVERS {
        let home = Home::new();
        hard_things(&home, Packing::Gzip);
        let store = Store::new(&home, driver, "store");
        let podman = || store.program(&home, "podman");
        let name = "localhost/loaded:1";
        Store::copy(&home, "oci:in:1", &format!("oci-archive:in.tar:{name}"));
        podman().args(["load", "--quiet", "--input", "in.tar"]).succeed();
        let identity = |reference: &str| {
            let _ = fs::remove_dir_all(home.path("identity"));
            Store::copy(&home, reference, "oci:identity:1");
            let layout = Layout::new(home.path("identity"));
            assert_eq!(layout.unsound().unwrap(), Vec::<String>::new());
            let digest =
                layout.manifest("1").unwrap()["config"]["digest"].as_str().unwrap().to_owned();
            let config: Value = serde_json::from_slice(&layout.blob(&digest).unwrap()).unwrap();
            (digest, config["rootfs"]["diff_ids"].clone())
        };
        assert_eq!(identity(&store.reference(name)), identity("oci:in:1"));
        // A layer that buildah makes of what was changed.
        let buildah = || store.program(&home, "buildah");
        let container = buildah().args(["from", name]).succeed().stdout;
        fs::write(home.path("added"), "added").unwrap();
        buildah().args(["copy", container.trim()]).arg(home.path("added")).arg("/added").succeed();
        buildah().args(["commit", "--quiet", container.trim(), "localhost/built:1"]).succeed();
        let (config, diff_ids) = identity(&store.reference("localhost/built:1"));
        let built = podman().args(["inspect", "localhost/built:1"]).succeed().json();
        assert_eq!(config, format!("sha256:{}", built[0]["Id"].as_str().unwrap()));
        assert_eq!(diff_ids, built[0]["RootFS"]["Layers"]);
        // Its container uses the image.
        let mut delete = home.command(built_program());
        delete.args(["delete", &store.reference(name)]);
        delete.run().expect_code(1).expect_words(&["image is in use by a container"]);
        buildah().args(["rm", container.trim()]).succeed();
        let mut delete = home.command(built_program());
        delete.args(["delete", &store.reference(name)]).succeed();
        // Its layers stay, for the image that was built upon them.
        assert_eq!(identity(&store.reference("localhost/built:1")), (config, diff_ids));
        podman().args(["rmi", "localhost/built:1"]).succeed();
        assert_eq!(store.images().len() + store.layers().len(), 0);
    }
}

#[test]
fn one_of_an_index_is_found_by_the_digest_of_either() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let instances = [Platform::AMD64, Platform::ARM64]
        .map(|platform| Image::small(Format::Oci, platform, "list"));
    let index = Image::index(Format::Oci, instances.to_vec());
    index.write_layout(&home.path("in"), "1").unwrap();
    let (ours, theirs) =
        (Store::new(&home, "overlay", "ours"), Store::new(&home, "overlay", "theirs"));
    for platform in ["amd64", "arm64"] {
        let name = format!("localhost/a:{platform}");
        let mut copy = Store::copying(&home, "oci:in:1", &ours.reference(&name));
        copy.args(["--override-arch", platform]).succeed();
        if require("skopeo").is_some() {
            let mut copy = home.command("skopeo");
            copy.args(["--insecure-policy", "--override-arch", platform, "copy", "--quiet"]);
            copy.args(["oci:in:1", &theirs.reference(&name)]).succeed();
            assert_eq!(ours.images(), theirs.images());
        }
    }
    let raw = |flags: &[&str], name: &str| {
        let mut command = home.command(built_program());
        command.args(flags).args(["inspect", "--raw", &ours.reference(name)]).succeed().stdout
    };
    // What they are of finds the one that fits.
    let by_index = format!("localhost/a@{}", index.digest());
    assert_eq!(raw(&[], &by_index).as_bytes(), index.manifest);
    for (platform, image) in ["amd64", "arm64"].iter().zip(&instances) {
        let mut copy = Store::copying(&home, &ours.reference(&by_index), "dir:out");
        copy.args(["--override-arch", platform]).succeed();
        let copied: Value =
            serde_json::from_slice(&fs::read(home.path("out/manifest.json")).unwrap()).unwrap();
        assert_eq!(copied["config"]["digest"], image.config().unwrap());
    }
    let by_instance = format!("localhost/a@{}", instances[1].digest());
    assert_eq!(raw(&[], &by_instance).as_bytes(), instances[1].manifest);
    assert_eq!(ours.images().len(), 2);
}

/// Makes a home with an empty store and with busy images of these seeds to copy from.
fn overlay_store(seeds: &[u32]) -> (Home, Store) {
    let home = Home::new();
    let store = Store::new(&home, "overlay", "store");
    for seed in seeds {
        busy_image(&home, *seed);
    }
    (home, store)
}

/// Prepares a copy of a thousand small files and some noise, and returns the image.
fn busy_image(home: &Home, seed: u32) -> Image {
    let files = |part: u32| {
        let mut layer = Layer::new();
        for n in 0..400 {
            layer = layer.file(&format!("d{part}/{}/{n}", n % 7), format!("{seed} {n}").repeat(40));
        }
        LayerForm::new(
            layer.file("noise", diolkos_tests::noise(400_000, seed + part)),
            Packing::Gzip,
        )
    };
    // All images have the lowest layer in common.
    let base = LayerForm::new(Layer::new().file("base", vec![7; 200_000]), Packing::Gzip);
    let image = Image::new(Format::Oci, Platform::AMD64, &[base, files(1), files(2)]);
    image.write_layout(&home.path(format!("in{seed}")), "1").unwrap();
    image
}

#[test]
fn writers_of_ours_and_podman_lose_nothing_of_each_other() {
    if !require_root() || require("podman").is_none() {
        return;
    }
    for driver in DRIVERS {
        let home = Home::new();
        let store = Store::new(&home, driver, "store");
        for seed in 0..4 {
            busy_image(&home, seed * 10);
        }
        Store::copy(&home, "oci:in0:1", "oci-archive:load.tar:localhost/loaded:1");
        let podman = || store.program(&home, "podman");
        for round in 0..10 {
            let ours = |n: u32| {
                let source = format!("oci:in{}:1", n * 10);
                Store::copying(
                    &home,
                    &source,
                    &store.reference(&format!("localhost/ours{n}:{round}")),
                )
            };
            std::thread::scope(|scope| {
                let mut running = Vec::new();
                for mut command in [ours(1), ours(2), {
                    let mut load = podman();
                    load.args(["load", "--quiet", "--input", "load.tar"]);
                    load
                }] {
                    running.push(scope.spawn(move || command.run()));
                }
                scope.spawn(|| {
                    // What may be there or not by now.
                    let (old, new) = ("localhost/loaded:1", format!("localhost/tagged:{round}"));
                    podman().args(["tag", old, &new]).run();
                    podman().args(["rmi", &new]).run();
                });
                for running in running {
                    running.join().unwrap().expect_success();
                }
            });
            assert_eq!(store.unsound(), Vec::<String>::new(), "{driver} {round}");
            let listed =
                podman().args(["images", "--format", "{{.Repository}}:{{.Tag}}"]).succeed();
            let names: Vec<&str> = listed.stdout.lines().collect();
            for n in [1, 2] {
                for round in 0..=round {
                    let name = format!("localhost/ours{n}:{round}");
                    assert!(names.contains(&name.as_str()), "{driver} {round}: {names:?}");
                }
            }
            if round % 3 == 2 {
                // Begin without these again.
                podman().args(["rmi", "--all", "--force"]).succeed();
                assert_eq!(store.images().len() + store.layers().len(), 0);
                Store::copy(&home, "oci:in30:1", &store.reference("localhost/other:1"));
                for n in [1, 2] {
                    for round in 0..=round {
                        let name = store.reference(&format!("localhost/ours{n}:{round}"));
                        Store::copy(&home, &format!("oci:in{}:1", n * 10), &name);
                    }
                }
            }
        }
        if podman().args(["system", "check", "--help"]).run().stdout.contains("--repair") {
            podman().args(["system", "check"]).succeed();
        }
        for n in [1, 2] {
            let name = store.reference(&format!("localhost/ours{n}:9"));
            Store::copy(&home, &name, &format!("oci:back{n}:1"));
            let back = Layout::new(home.path(format!("back{n}")));
            assert_eq!(back.unsound().unwrap(), Vec::<String>::new());
        }
    }
}

#[test]
fn killed_at_each_change_of_the_store_the_next_one_mends_it() {
    if !require_root() || require("podman").is_none() {
        return;
    }
    for driver in DRIVERS {
        let home = Home::new();
        let killer = killer(&home);
        let store = Store::new(&home, driver, "store");
        let base = || LayerForm::new(Layer::new().file("base", "below"), Packing::Gzip);
        let mut images = Vec::new();
        for name in ["old", "new"] {
            let own = Layer::new().file(&format!("d/{name}"), name);
            let layers = [base(), LayerForm::new(own, Packing::Gzip)];
            let image = Image::new(Format::Oci, Platform::AMD64, &layers);
            image.write_layout(&home.path(name), "1").unwrap();
            images.push((format!("oci:{name}:1"), store.reference(&format!("localhost/{name}:1"))));
        }
        let [(old, old_name), (new, new_name)] = images.as_slice() else { unreachable!() };
        let copy = || Store::copying(&home, new, new_name);
        let delete = || {
            let mut command = home.command(built_program());
            command.args(["delete", new_name]);
            command
        };
        // With another type of manifest the image has a file more.
        let add = || {
            let mut command = copy();
            command.args(["--format", "v2s2"]);
            command
        };
        Store::copy(&home, old, old_name);
        for job in ["copy", "add", "delete"] {
            let mut kills = 0;
            loop {
                copy().succeed();
                let mut command = match job {
                    "copy" => {
                        delete().succeed();
                        copy()
                    }
                    "add" => {
                        delete().succeed();
                        copy().succeed();
                        add()
                    }
                    _ => delete(),
                };
                command.env("LD_PRELOAD", &killer).env("KILL_AT", (kills + 1).to_string());
                let outcome = command.run();
                if outcome.code.is_some() {
                    outcome.expect_success();
                    break;
                }
                kills += 1;
                let what = format!("{driver}, {job} {kills}");
                // The one that comes next is podman, or a copy of another image, or of this one.
                match kills % 3 {
                    0 => {
                        let listed = store.program(&home, "podman").arg("images").succeed();
                        assert!(listed.stdout.contains("localhost/old"), "{what}: {listed:?}");
                    }
                    1 => {
                        Store::copy(&home, old, old_name);
                        assert_eq!(store.unsound(), Vec::<String>::new(), "{what}, another");
                    }
                    _ => {}
                }
                copy().succeed();
                assert_eq!(store.unsound(), Vec::<String>::new(), "{what}");
            }
            assert!(kills >= if job == "add" { 5 } else { 20 }, "{driver}, {job}: {kills}");
        }
        copy().succeed();
        for (number, (_, reference)) in images.iter().enumerate() {
            Store::copy(&home, reference, &format!("oci:back{number}:1"));
            let back = Layout::new(home.path(format!("back{number}")));
            assert_eq!(back.unsound().unwrap(), Vec::<String>::new());
        }
    }
}

#[test]
fn killed_at_any_moment_the_store_is_as_good_as_before() {
    if !require_root() || require("podman").is_none() {
        return;
    }
    let (home, store) = overlay_store(&[10, 50]);
    Store::copy(&home, "oci:in50:1", &store.reference("localhost/old:1"));
    let podman = || store.program(&home, "podman");
    let begin = Instant::now();
    Store::copy(&home, "oci:in10:1", &store.reference("localhost/new:1"));
    let mut whole = begin.elapsed();
    let (mut killed, mut left) = (0, 0);
    for round in 0..50_u32 {
        podman().args(["rmi", "localhost/new:1"]).succeed();
        let mut copy = Store::copying(&home, "oci:in10:1", &store.reference("localhost/new:1"));
        let mut child = copy.spawn().unwrap();
        std::thread::sleep(whole * round / 45);
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        let unsound = store.unsound();
        left += u32::from(!unsound.is_empty());
        // What is half made may be there, but only as such.
        let broken = |what: &String| !what.contains("is left") && !what.contains("is incomplete");
        let incomplete = unsound.iter().any(|what| what.contains("is incomplete"));
        assert!(incomplete || !unsound.iter().any(broken), "{round}: {unsound:?}");
        let listed = podman().args(["images", "--format", "{{.Repository}}:{{.Tag}}"]).succeed();
        assert!(listed.stdout.contains("localhost/old:1"), "{round}: {}", listed.stdout);
        let mounted = podman().args(["image", "mount", "localhost/old:1"]).succeed().stdout;
        assert!(Path::new(mounted.trim()).join("d1/0/0").exists(), "{round}");
        podman().args(["image", "unmount", "localhost/old:1"]).succeed();
        // As long as the last one took: the machine has other things to do at times.
        let begin = Instant::now();
        Store::copy(&home, "oci:in10:1", &store.reference("localhost/new:1"));
        whole = begin.elapsed();
        assert_eq!(store.unsound(), Vec::<String>::new(), "{round}");
    }
    assert!(killed >= 25, "{killed} of 50 were killed on the way");
    assert!(left > 0, "nothing was ever left: the kills came too early or too late");
    for name in ["old", "new"] {
        let reference = store.reference(&format!("localhost/{name}:1"));
        Store::copy(&home, &reference, &format!("oci:{name}:1"));
        assert_eq!(Layout::new(home.path(name)).unsound().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn layers_of_a_store_that_is_only_read_are_built_upon_and_stay_as_they_are() {
    if !require_root() || require("podman").is_none() {
        return;
    }
    let home = Home::new();
    let shared = Store::new(&home, "overlay", "shared");
    let store = Store::new(&home, "overlay", "store");
    busy_image(&home, 10);
    busy_image(&home, 20);
    Store::copy(&home, "oci:in10:1", &shared.reference("localhost/shared:1"));
    let before = tree(&shared.root).unwrap();
    let conf = home.path("storage.conf");
    let text = format!(
        "[storage]\ndriver='overlay'\ngraphroot='{}'\nrunroot='{}'\n[storage.options]\nadditionalimagestores=['{}']\n",
        store.root.display(),
        home.path("run/store").display(),
        shared.root.display()
    );
    fs::write(&conf, text).unwrap();
    let diolkos = |arguments: &[&str]| {
        let mut command = home.command(built_program());
        command.env("CONTAINERS_STORAGE_CONF", &conf).args(arguments);
        command
    };
    let copy = |from: &str, to: &str| {
        diolkos(&["copy", "--quiet", "--insecure-policy", from, to]).succeed();
    };
    // Its base layer is in the shared store.
    copy("oci:in20:1", "containers-storage:localhost/own:1");
    assert_eq!(store.layers().len(), 2);
    let podman = |arguments: &[&str]| {
        let mut command = home.command("podman");
        command.env("CONTAINERS_STORAGE_CONF", &conf).args(arguments).succeed().stdout
    };
    let listed = podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert!(
        listed.contains("localhost/own:1") && listed.contains("localhost/shared:1"),
        "{listed}"
    );
    let mounted = podman(&["image", "mount", "localhost/own:1"]);
    assert!(
        Path::new(mounted.trim()).join("base").exists()
            && Path::new(mounted.trim()).join("d2").exists()
    );
    podman(&["image", "unmount", "localhost/own:1"]);
    for name in ["own", "shared"] {
        copy(&format!("containers-storage:localhost/{name}:1"), &format!("oci:{name}:1"));
        assert_eq!(Layout::new(home.path(name)).unsound().unwrap(), Vec::<String>::new());
    }
    // A name that an image of the shared store gets is in the own store.
    copy("oci:in10:1", "containers-storage:localhost/renamed:1");
    let listed = podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert!(listed.contains("localhost/renamed:1"), "{listed}");
    diolkos(&["delete", "containers-storage:localhost/renamed:1"]).succeed();
    diolkos(&["delete", "containers-storage:localhost/own:1"]).succeed();
    let mut again = diolkos(&["delete", "containers-storage:localhost/shared:1"]);
    again.run().expect_code(1).expect_words(&["which is only read"]);
    assert_eq!(store.images().len() + store.layers().len(), 0);
    let mut after = tree(&shared.root).unwrap();
    // Who reads makes lock files where there are none.
    after.retain(|name, _| before.contains_key(name));
    for (name, entry) in &before {
        assert_eq!(after[name].content, entry.content, "{}", name.display());
    }
    let _ = home.command("umount").arg("-q").arg(store.root.join("overlay")).run();
}

#[test]
fn what_is_not_known_is_refused_and_left_as_it_is() {
    if !require_root() {
        return;
    }
    let (home, store) = overlay_store(&[10, 20]);
    Store::copy(&home, "oci:in10:1", &store.reference("localhost/a:1"));
    let refused = |conf: Option<&str>, reference: &str, words: &[&str]| {
        let before = tree(&store.root).unwrap();
        let mut command = Store::copying(&home, "oci:in20:1", reference);
        if let Some(conf) = conf {
            let text = format!("[storage]\ngraphroot='{}'\n{conf}", store.root.display());
            fs::write(home.path("storage.conf"), text).unwrap();
            command.env("CONTAINERS_STORAGE_CONF", home.path("storage.conf"));
        }
        command.run().expect_code(1).expect_words(words);
        let mut after = tree(&store.root).unwrap();
        after.retain(|name, _| !name.ends_with("storage.lock") && !name.ends_with("layers.lock"));
        for (name, entry) in &after {
            let old = before.get(name).map(|entry| (&entry.content, entry.mode));
            assert_eq!(old, Some((&entry.content, entry.mode)), "{}", name.display());
        }
    };
    let plain = "containers-storage:localhost/b:1";
    refused(Some("transient_store=true\n"), plain, &["the store is transient"]);
    refused(Some("driver='btrfs'\n"), plain, &["`btrfs` is not supported"]);
    let composefs = "[storage.options.overlay]\nuse_composefs='true'\n";
    refused(Some(composefs), plain, &["set up with composefs"]);
    refused(Some("[storage.options]\nforce_mask='700'\n"), plain, &["force_mask"]);
    refused(Some("imagestore='/elsewhere'\n"), plain, &["imagestore"]);
    refused(Some("[storage.options\n"), plain, &["storage.conf makes no sense"]);
    refused(None, &store.reference("localhost/b:1").replace("overlay@", "zfs@"), &["`zfs`"]);
    let layers = store.root.join("overlay-layers/layers.json");
    let images = store.root.join("overlay-images/images.json");
    let old_layers = fs::read_to_string(&layers).unwrap();
    let reference = store.reference("localhost/b:1");
    for (field, words) in [
        (r#""shape":"odd","#, ["a field `shape` that is not known", "newer"]),
        (
            r#""uidmap":[{"container_id":0,"host_id":1000,"size":1}],"#,
            ["owners mapped", "can be read"],
        ),
    ] {
        fs::write(&layers, old_layers.replace(r#"{"id""#, &format!(r#"{{{field}"id""#))).unwrap();
        refused(None, &reference, &words);
        // It can be read all the same, since what is read is verified.
        Store::copy(&home, &store.reference("localhost/a:1"), "dir:read");
    }
    fs::write(&layers, old_layers).unwrap();
    for (file, text) in [(&layers, "{\"id\":"), (&images, "[1]")] {
        let kept = fs::read_to_string(file).unwrap();
        fs::write(file, text).unwrap();
        refused(None, &reference, &["makes no sense"]);
        fs::write(file, kept).unwrap();
    }
    Store::copy(&home, "oci:in20:1", &reference);
    assert_eq!(store.unsound(), Vec::<String>::new());
}

#[test]
fn lost_links_are_made_again() {
    if !require_root() || require("podman").is_none() {
        return;
    }
    let (home, store) = overlay_store(&[10, 20]);
    Store::copy(&home, "oci:in10:1", &store.reference("localhost/a:1"));
    // Of one layer the link's name is lost, of the others the link.
    let base = store.layers()[0]["id"].as_str().unwrap().to_owned();
    for link in fs::read_dir(store.root.join("overlay/l")).unwrap() {
        let link = link.unwrap().path();
        if !fs::read_link(&link).unwrap().to_string_lossy().contains(&base) {
            fs::remove_file(link).unwrap();
        }
    }
    fs::write(store.root.join("overlay").join(base).join("link"), "").unwrap();
    Store::copy(&home, "oci:in20:1", &store.reference("localhost/b:1"));
    assert_eq!(store.unsound(), Vec::<String>::new());
    for name in ["localhost/a:1", "localhost/b:1"] {
        let mounted =
            store.program(&home, "podman").args(["image", "mount", name]).succeed().stdout;
        assert!(Path::new(mounted.trim()).join("base").exists(), "{name}");
        store.program(&home, "podman").args(["image", "unmount", name]).succeed();
    }
}

#[test]
fn signatures_are_kept_as_skopeo_keeps_them() {
    if !require_root() || require("skopeo").is_none() {
        return;
    }
    let home = Home::new();
    // Other layers than uncompressed ones cannot leave the store as the signed manifest names them.
    let layer = LayerForm::new(Layer::new().file("file", "content"), Packing::Plain);
    let image = Image::new(Format::Docker, Platform::AMD64, &[layer]);
    image.write_directory(&home.path("signed")).unwrap();
    // What a signature says is for the policy; here it is bytes.
    for (number, length) in [(1, 300), (2, 70)] {
        // As the old form of OpenPGP begins.
        let bytes = [&[0xa3][..], &vec![number; length]].concat();
        fs::write(home.path(format!("signed/signature-{number}")), bytes).unwrap();
    }
    let (ours, theirs) = (Store::new(&home, "vfs", "ours"), Store::new(&home, "vfs", "theirs"));
    Store::copy(&home, "dir:signed", &ours.reference("localhost/a:1"));
    skopeo(&home).args(["dir:signed", &theirs.reference("localhost/a:1")]).succeed();
    let sorted = |store: &Store| {
        let mut image = store.images().remove(0);
        // Two keys in an order that depends on nothing.
        let names = image["big-data-names"].as_array_mut().unwrap();
        names.sort_by_key(ToString::to_string);
        image
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    Store::copy(&home, &theirs.reference("localhost/a:1"), "dir:back");
    for number in [1, 2] {
        let read = |dir: &str| fs::read(home.path(format!("{dir}/signature-{number}"))).unwrap();
        assert!(read("back") == read("signed"));
    }
}

#[test]
fn a_layer_of_two_hundred_thousand_files_takes_little_memory() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let mut layer = Layer::new();
    for n in 0..200_000_u32 {
        layer = layer
            .file(&format!("usr/share/{}/{}/file-{n}", n % 50, n % 1000), (n % 10).to_string());
    }
    let image = Image::new(Format::Oci, Platform::AMD64, &[LayerForm::new(layer, Packing::Gzip)]);
    image.write_layout(&home.path("in"), "1").unwrap();
    let store = Store::new(&home, "overlay", "store");
    let reference = store.reference("localhost/a:1");
    let written = diolkos_tests::peak_memory(&mut Store::copying(&home, "oci:in:1", &reference));
    let read = diolkos_tests::peak_memory(&mut Store::copying(&home, &reference, "oci:out:1"));
    assert_eq!(Layout::new(home.path("out")).unsound().unwrap(), Vec::<String>::new());
    assert!(written < 80 << 20 && read < 80 << 20, "{written} and {read} bytes");
}

#[test]
fn an_ordinary_user_has_a_store_in_a_user_namespace() {
    if !require_root() || require("podman").is_none() || require("newuidmap").is_none() {
        return;
    }
    let Some(user) = User::find() else {
        eprintln!("skipped: there is no user `diolkos-test` with IDs in /etc/subuid");
        assert!(!diolkos_tests::in_ci(), "`cargo xtask test` makes the user");
        return;
    };
    for driver in DRIVERS {
        let home = Home::new();
        let base = Layer::new()
            .directory("etc")
            .file_with_xattr("etc/marked", "marked", "user.diolkos", &[0, 255])
            .device("null", 1, 3)
            .odd(b"owned", 0o4755, (1234, 4321), 1_700_000_000);
        let top = Layer::new().whiteout("etc/marked").directory("etc").opaque("etc");
        let layers = [base, top].map(|layer| LayerForm::new(layer, Packing::Gzip));
        let image = Image::new(Format::Oci, Platform::AMD64, &layers);
        image.write_layout(&home.path("in"), "1").unwrap();
        // The program and its plugins must be the user's, or where root installs.
        let programs = home.path("bin");
        fs::create_dir(&programs).unwrap();
        for entry in fs::read_dir(built_program().parent().unwrap()).unwrap().flatten() {
            let path = entry.path();
            let is_plugin = path.extension().is_some_and(|it| it == "so" || it == "toml");
            if is_plugin || path == built_program() {
                fs::copy(&path, programs.join(entry.file_name())).unwrap();
            }
        }
        home.command("chown").args(["-R", "diolkos-test:"]).arg(home.path("")).succeed();
        let store = Store::new(&home, driver, "store");
        let reference = store.reference("localhost/a:1");
        let copy = |from: &str, to: &str| {
            let mut command = user.command(&home, &programs.join("diolkos"));
            command.args(["copy", "--quiet", "--insecure-policy", from, to]).succeed();
        };
        copy("oci:in:1", &reference);
        let podman = |arguments: &[&str]| {
            let mut command = user.command(&home, Path::new("podman"));
            command.arg("--root").arg(&store.root).arg("--runroot").arg(home.path("run/store"));
            command.args(["--storage-driver", driver]).args(arguments).succeed().stdout
        };
        let listed = podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(listed.trim(), "localhost/a:1");
        copy(&reference, "oci:out:1");
        assert_eq!(Layout::new(home.path("out")).unsound().unwrap(), Vec::<String>::new());
        let mut delete = user.command(&home, &programs.join("diolkos"));
        delete.args(["delete", &reference]).succeed();
        assert_eq!(podman(&["images", "--quiet"]), "");
        // Files of other owners can only be removed from within.
        let mut remove = user.command(&home, Path::new("podman"));
        remove.args(["unshare", "rm", "-rf"]).arg(&store.root).succeed();
    }
}

/// An ordinary user that the system gives further IDs.
struct User {
    uid: String,
    gid: String,
}

impl User {
    fn find() -> Option<Self> {
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let line = passwd.lines().find(|line| line.starts_with("diolkos-test:"))?;
        let mut fields = line.split(':').skip(2).map(str::to_owned);
        let has_ids = fs::read_to_string("/etc/subuid").ok()?.contains("diolkos-test:");
        has_ids.then_some(Self { uid: fields.next()?, gid: fields.next()? })
    }

    fn command(&self, home: &Home, program: &Path) -> Command {
        let mut command = home.command("setpriv");
        command.args(["--reuid", &self.uid, "--regid", &self.gid, "--init-groups", "--"]);
        command.arg(program).env("XDG_RUNTIME_DIR", home.path("run"));
        command
    }
}

#[test]
fn a_config_that_podman_could_not_read_never_gets_into_the_store() {
    if !require_root() || require("podman").is_none() {
        return;
    }
    let home = Home::new();
    let store = Store::new(&home, "vfs", "store");
    let layer = || LayerForm::new(Layer::new().file("file", "content"), Packing::Gzip);
    let image = Image::new(Format::Oci, Platform::AMD64, &[layer()]);
    image.write_layout(&home.path("good"), "1").unwrap();
    Store::copy(&home, "oci:good:1", &store.reference("localhost/good:1"));
    let (old, digest) = (image.config().unwrap(), image.digest());
    let config: Value = serde_json::from_slice(&image.blobs[&old]).unwrap();
    for (key, value) in [
        ("created", json!("-000001-01-01T00:00:00Z")),
        ("created", json!("yesterday")),
        ("architecture", json!(5)),
        ("history", json!("x")),
        ("config", json!({"Labels": {"a": 1}})),
    ] {
        let mut bad = config.clone();
        bad[key] = value.clone();
        let bytes = bad.to_string().into_bytes();
        let new = diolkos_tests::sha256(&bytes);
        let mut manifest = image.json();
        manifest["config"]["digest"] = new.clone().into();
        manifest["config"]["size"] = bytes.len().into();
        let manifest = manifest.to_string().into_bytes();
        let mut bad = image.clone();
        bad.blobs.remove(&old);
        bad.blobs.insert(new, bytes.into());
        bad.manifest = manifest;
        assert_ne!(bad.digest(), digest);
        let _ = fs::remove_dir_all(home.path("bad"));
        bad.write_layout(&home.path("bad"), "1").unwrap();
        let mut copy = Store::copying(&home, "oci:bad:1", &store.reference("localhost/bad:1"));
        copy.run().expect_code(1).expect_words(&["parsing image configuration"]);
        let listed = store.program(&home, "podman").args(["images", "--quiet"]).succeed();
        assert_eq!(listed.stdout.lines().count(), 1, "{key}: {value}");
    }
    assert_eq!(store.unsound(), Vec::<String>::new());
}

#[test]
fn an_artifact_that_is_no_image_never_gets_into_the_store() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let store = Store::new(&home, "vfs", "store");
    let layer = LayerForm::new(Layer::new().file("file", "content"), Packing::Gzip);
    let mut artifact = Image::new(Format::Oci, Platform::AMD64, &[layer]);
    let mut manifest = artifact.json();
    manifest["config"]["mediaType"] = "application/vnd.example.thing+json".into();
    artifact.manifest = manifest.to_string().into_bytes();
    artifact.write_layout(&home.path("in"), "1").unwrap();
    let mut copy = Store::copying(&home, "oci:in:1", &store.reference("localhost/a:1"));
    copy.run().expect_code(1).expect_words(&["unsupported image-specific operation on artifact"]);
    assert_eq!(store.images().len() + store.layers().len(), 0);
    assert_eq!(store.unsound(), Vec::<String>::new());
}

#[test]
fn names_move_and_are_remembered_as_with_skopeo() {
    if !require_root() || require("skopeo").is_none() {
        return;
    }
    let home = Home::new();
    busy_image(&home, 10);
    busy_image(&home, 20);
    let (ours, theirs) = (Store::new(&home, "vfs", "ours"), Store::new(&home, "vfs", "theirs"));
    for (source, name) in [
        ("oci:in10:1", "localhost/a:1"),
        ("oci:in10:1", "localhost/a:2"),
        ("oci:in20:1", "localhost/a:1"),
        ("oci:in10:1", "localhost/b:1"),
        ("oci:in10:1", "localhost/a:1"),
    ] {
        Store::copy(&home, source, &ours.reference(name));
        skopeo(&home).args([source, &theirs.reference(name)]).succeed();
        assert_eq!(ours.images(), theirs.images(), "{source} {name}");
    }
    assert_eq!(timeless(ours.layers()), timeless(theirs.layers()));
}

#[test]
fn a_layer_that_was_pulled_by_parts_is_read_where_its_diff_id_is_known() {
    if !require_root() {
        return;
    }
    let (home, store) = overlay_store(&[10]);
    Store::copy(&home, "oci:in10:1", &store.reference("localhost/a:1"));
    let file = store.root.join("overlay-layers/layers.json");
    let mut layers = store.layers();
    for layer in &mut layers {
        let layer = layer.as_object_mut().unwrap();
        let diff_id = layer.remove("diff-digest").unwrap();
        layer.insert("toc-digest".into(), diff_id.clone());
        layer.insert("diff-size".into(), json!(-1));
        layer.insert("flags".into(), json!({"expected-layer-diffid": diff_id}));
    }
    fs::write(&file, json!(layers).to_string()).unwrap();
    Store::copy(&home, &store.reference("localhost/a:1"), "oci:out:1");
    assert_eq!(Layout::new(home.path("out")).unsound().unwrap(), Vec::<String>::new());
    for layer in &mut layers {
        layer.as_object_mut().unwrap().remove("flags");
    }
    fs::write(&file, json!(layers).to_string()).unwrap();
    let mut copy = Store::copying(&home, &store.reference("localhost/a:1"), "oci:out:2");
    copy.run().expect_code(1).expect_words(&["its diff ID is not known", "pull the image again"]);
}

#[test]
fn a_layer_for_other_owners_has_its_files_in_the_one_below() {
    if !require_root() {
        return;
    }
    let (home, store) = overlay_store(&[10]);
    Store::copy(&home, "oci:in10:1", &store.reference("localhost/a:1"));
    // As a container with owners of its own leaves it: nothing of the layer is in its own tree.
    let mut layers = store.layers();
    let layer = layers.iter_mut().find(|layer| !layer["parent"].is_null()).unwrap();
    layer["uidmap"] = json!([{"container_id": 0, "host_id": 1000, "size": 1}]);
    let own = store.root.join("overlay").join(layer["id"].as_str().unwrap());
    let below = store.root.join("overlay/below");
    fs::create_dir(&below).unwrap();
    fs::rename(own.join("diff"), below.join("diff")).unwrap();
    fs::create_dir(own.join("diff")).unwrap();
    std::os::unix::fs::symlink("../below/diff", store.root.join("overlay/l/BELOW")).unwrap();
    let lower = fs::read_to_string(own.join("lower")).unwrap();
    fs::write(own.join("lower"), format!("l/BELOW:{lower}")).unwrap();
    fs::write(store.root.join("overlay-layers/layers.json"), json!(layers).to_string()).unwrap();
    Store::copy(&home, &store.reference("localhost/a:1"), "oci:out:1");
    assert_eq!(Layout::new(home.path("out")).unsound().unwrap(), Vec::<String>::new());
    fs::write(own.join("lower"), "l/../below/diff").unwrap();
    let mut copy = Store::copying(&home, &store.reference("localhost/a:1"), "oci:out:2");
    copy.run().expect_code(1).expect_words(&["lower names what is no link"]);
}

#[test]
fn an_image_that_is_there_changes_nothing() {
    if !require_root() {
        return;
    }
    for driver in DRIVERS {
        let home = Home::new();
        let store = Store::new(&home, driver, "store");
        busy_image(&home, 10);
        let name = store.reference("localhost/a:1");
        Store::copy(&home, "oci:in10:1", &name);
        let (before, cache) = (tree(&store.root).unwrap(), home.path("blob-info-cache"));
        let mut copy = Store::copying(&home, "oci:in10:1", &name);
        copy.env("_CONTAINERS_ROOTLESS_UID", "1000").env("XDG_DATA_HOME", &cache).succeed();
        assert!(tree(&store.root).unwrap() == before, "{driver}");
        assert!(!cache.exists(), "nothing was learnt that another copy could use");
    }
}

#[test]
fn images_that_are_kept_apart_from_containers_are_read() {
    if !require_root() {
        return;
    }
    let (home, store) = overlay_store(&[10]);
    Store::copy(&home, "oci:in10:1", &store.reference("localhost/a:1"));
    // As a store has it with `imagestore`: of layers, only the tar-splits are in its own directory.
    let apart = home.path("apart");
    fs::create_dir_all(apart.join("overlay-layers")).unwrap();
    for name in ["overlay", "overlay-images", "overlay-layers/layers.json"] {
        fs::rename(store.root.join(name), apart.join(name)).unwrap();
    }
    let text = format!(
        "[storage]\ndriver='overlay'\ngraphroot='{}'\nimagestore='{}'\n",
        store.root.display(),
        apart.display()
    );
    fs::write(home.path("storage.conf"), text).unwrap();
    let mut copy = Store::copying(&home, "containers-storage:localhost/a:1", "oci:out:1");
    copy.env("CONTAINERS_STORAGE_CONF", home.path("storage.conf")).succeed();
    assert_eq!(Layout::new(home.path("out")).unsound().unwrap(), Vec::<String>::new());
}
