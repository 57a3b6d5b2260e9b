//! Images in files of Singularity, made with `mksquashfs`, beside skopeo.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use diolkos_tests::{Home, Layout, Run as _, noise, peak_memory, require, require_root, sha256};
use serde_json::Value;

const DEFINITION: &str = "Bootstrap: docker\nFrom: alpine\n%environment\n    export A=1\n\
                          %runscript\n    exec /bin/app \"$@\"\n";

/// Writes a file with a squashfs as its primary partition, and perhaps a definition.
fn write_sif(path: &Path, squashfs: &[u8], definition: Option<&str>) {
    let mut objects: Vec<(i32, [i32; 2], &[u8])> = Vec::new();
    if let Some(text) = definition {
        objects.push((0x4001, [0, 0], text.as_bytes()));
    }
    objects.push((0x4004, [1, 2], squashfs));
    let mut file = vec![0; 128];
    file[..20].copy_from_slice(b"#!/usr/bin/env run-s");
    file[32..42].copy_from_slice(b"SIF_MAGIC\0");
    file[42..48].copy_from_slice(b"01\x0002\0");
    file[48..64].copy_from_slice(&[7; 16]);
    file[72..80].copy_from_slice(&1_700_000_000_i64.to_le_bytes());
    file[88..96].copy_from_slice(&(objects.len() as u64).to_le_bytes());
    file[96..104].copy_from_slice(&128_i64.to_le_bytes());
    file[104..112].copy_from_slice(&(585 * objects.len() as u64).to_le_bytes());
    // As its makers do, data begins at a page.
    let mut offset = 4096;
    for (number, (kind, extra, bytes)) in (1_u32..).zip(&objects) {
        let mut object = [0; 585];
        object[..4].copy_from_slice(&kind.to_le_bytes());
        object[4] = 1;
        object[5..9].copy_from_slice(&number.to_le_bytes());
        object[17..25].copy_from_slice(&(offset as u64).to_le_bytes());
        object[25..33].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        object[201..205].copy_from_slice(&extra[0].to_le_bytes());
        object[205..209].copy_from_slice(&extra[1].to_le_bytes());
        object[209..212].copy_from_slice(b"02\0");
        file.extend(object);
        offset = (offset + bytes.len()).next_multiple_of(4096);
    }
    for (_, _, bytes) in objects {
        file.resize(file.len().next_multiple_of(4096), 0);
        file.extend(bytes);
    }
    fs::write(path, file).unwrap();
}

/// Makes a tree of files of all kinds, as far as this user may.
fn write_tree(root: &Path) {
    for dir in ["bin", "etc/deep/er", "tmp", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("bin/app"), noise(700_000, 1)).unwrap();
    fs::set_permissions(root.join("bin/app"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::hard_link(root.join("bin/app"), root.join("bin/link")).unwrap();
    fs::hard_link(root.join("bin/app"), root.join("etc/link")).unwrap();
    // Equal, and not the same.
    fs::write(root.join("bin/equal"), noise(700_000, 1)).unwrap();
    fs::write(root.join("etc/zeros"), vec![0; 300_000]).unwrap();
    fs::write(root.join("etc/none"), "").unwrap();
    fs::write(root.join("etc/deep/er").join("long-name-".repeat(20)), "text").unwrap();
    fs::write(root.join("etc/na\u{ef}ve \u{2603}"), "text").unwrap();
    symlink("../bin/app", root.join("etc/soft")).unwrap();
    let mut make = Command::new("mkfifo");
    make.arg(root.join("etc/pipe")).succeed();
    if diolkos_tests::is_root() {
        chown(root.join("etc/none"), Some(1234), Some(70_000)).unwrap();
        Command::new("mknod").arg(root.join("etc/device")).args(["c", "260", "300"]).succeed();
        assert!(fs::metadata(root.join("etc/device")).unwrap().file_type().is_char_device());
    }
}

fn squashfs(home: &Home, compression: &str) -> Vec<u8> {
    let target = home.path(format!("{compression}.squashfs"));
    let mut command = home.command("mksquashfs");
    command.arg(home.path("tree")).arg(&target).args(["-noappend", "-comp", compression]);
    command.stdout(Stdio::null()).succeed();
    fs::read(target).unwrap()
}

/// What an entry of an archive is.
type Entry = (String, u32, u64, u64, u64, String, String);

/// Returns the entries of the one layer of `oci:DIRECTORY:1`, and its config.
fn image(home: &Home, directory: &str) -> (BTreeMap<String, Entry>, Value) {
    let layout = Layout::new(home.path(directory));
    assert!(layout.unsound().unwrap().is_empty());
    let manifest = layout.manifest("1").unwrap();
    let blob = |value: &Value| layout.blob(value["digest"].as_str().unwrap()).unwrap();
    let config = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
    let layer = blob(&manifest["layers"][0]);
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(&layer[..]));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let name = name.trim_end_matches('/').to_owned();
        let target = entry.link_name_bytes().map(|it| String::from_utf8_lossy(&it).into_owned());
        let header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let kind = match header.entry_type() {
            tar::EntryType::Char => {
                let (major, minor) = (header.device_major(), header.device_minor());
                format!("{:?} {:?}", major.unwrap(), minor.unwrap())
            }
            kind => format!("{kind:?}"),
        };
        let what = (
            kind,
            header.mode().unwrap() & 0o7777,
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            target.unwrap_or_default(),
            sha256(&content),
        );
        assert!(entries.insert(name, what).is_none());
    }
    (entries, config)
}

#[test]
fn a_file_of_singularity_is_the_image_that_skopeo_makes_of_it() {
    let (Some(_), Some(_), Some(_)) =
        (require("skopeo"), require("mksquashfs"), require("fakeroot"))
    else {
        return;
    };
    let home = Home::new();
    write_tree(&home.path("tree"));
    for (name, compression, definition) in
        [("script", "gzip", Some(DEFINITION)), ("plain", "gzip", None), ("zstd", "zstd", None)]
    {
        let from = format!("sif:{name}.sif");
        write_sif(&home.path(format!("{name}.sif")), &squashfs(&home, compression), definition);
        let [ours, theirs] = ["ours", "theirs"].map(|who| format!("{who}-{name}"));
        home.copy(&[], &from, &format!("oci:{ours}:1")).expect_success();
        home.skopeo().args(["copy", &from, &format!("oci:{theirs}:1")]).succeed();
        let ((ours, config), (theirs, their_config)) = (image(&home, &ours), image(&home, &theirs));
        // Of a file with several names, either may be the first; times of what is made are now.
        let comparable = |entries: &BTreeMap<String, Entry>| {
            let links: Vec<_> = ["bin/app", "bin/link", "etc/link"]
                .iter()
                .map(|name| entries[*name].clone())
                .filter(|entry| entry.0 == "Link")
                .collect();
            assert_eq!(links.len(), 2);
            let mut rest = entries.clone();
            for name in ["bin/app", "bin/link", "etc/link"] {
                rest.remove(name);
            }
            for made in ["", "podman", "podman/runscript"] {
                if let Some(entry) = rest.get_mut(made) {
                    (entry.2, entry.3, entry.4) = (0, 0, 0);
                }
            }
            rest
        };
        assert_eq!(comparable(&ours), comparable(&theirs), "{name}");
        let strip = |mut config: Value| {
            config["rootfs"]["diff_ids"] = Value::Null;
            config["history"][0]["created_by"] = Value::Null;
            config
        };
        assert_eq!(strip(config), strip(their_config), "{name}");
    }
}

#[test]
fn the_same_file_is_the_same_image_and_needs_no_other_program() {
    let Some(_) = require("mksquashfs") else { return };
    let home = Home::new();
    write_tree(&home.path("tree"));
    for compression in ["gzip", "xz", "lz4", "zstd"] {
        let path = home.path(format!("{compression}.sif"));
        write_sif(&path, &squashfs(&home, compression), Some(DEFINITION));
        let from = format!("sif:{compression}.sif");
        let inspect = || {
            let mut command = home.diolkos();
            command.env("PATH", "/nowhere").args(["inspect", &from]).succeed().stdout
        };
        assert_eq!(inspect(), inspect());
        let mut copy = home.copy_command(&[], &from, &format!("dir:{compression}"));
        copy.env("PATH", "/nowhere").succeed();
        home.copy(&[], &from, &format!("docker-archive:{compression}.tar")).expect_success();
    }
    assert_eq!(fs::read_dir(home.path("tmp")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn podman_runs_what_the_definition_says() {
    let (Some(_), Some(_), true) = (require("mksquashfs"), require("podman"), require_root())
    else {
        return;
    };
    let home = Home::new();
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::write(tree.join("bin/app"), "").unwrap();
    write_sif(&home.path("a.sif"), &squashfs(&home, "gzip"), Some(DEFINITION));
    home.copy(&[], "sif:a.sif", "docker-archive:a.tar:app:1").expect_success();
    let podman = |arguments: &[&str]| home.with_storage("podman").args(arguments).succeed().stdout;
    podman(&["load", "--quiet", "-i", "a.tar"]);
    let id = podman(&["create", "app:1"]);
    podman(&["cp", &format!("{}:/podman/runscript", id.trim()), "script"]);
    let script = fs::read_to_string(home.path("script")).unwrap();
    assert_eq!(script, "#!/bin/bash\nexport A=1\nexec /bin/app \"$@\"\n");
    let said = podman(&["inspect", "--format", "{{.Config.Cmd}}", id.trim()]);
    assert_eq!(said.trim(), "[/podman/runscript]");
}

#[test]
fn what_is_no_sound_file_is_refused_and_named() {
    let Some(_) = require("mksquashfs") else { return };
    let home = Home::new();
    write_tree(&home.path("tree"));
    let squashfs = squashfs(&home, "gzip");
    let refuse = |words: &[&str]| {
        home.copy(&[], "sif:a.sif", "dir:out").expect_code(1).expect_words(words);
        assert!(!home.path("out/manifest.json").exists());
        assert_eq!(fs::read_dir(home.path("tmp")).unwrap().count(), 0, "nothing is left");
    };
    refuse(&["loading SIF file", "no such file or directory"]);
    fs::write(home.path("a.sif"), "not at all").unwrap();
    refuse(&["a.sif is no sound SIF file", "hint: "]);
    write_sif(&home.path("a.sif"), &squashfs, None);
    let whole = fs::read(home.path("a.sif")).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 20) {
        fs::write(home.path("a.sif"), &whole[..length]).unwrap();
        refuse(&["a.sif is no sound SIF file"]);
    }
    // A file system that was cut short, and damaged ones.
    write_sif(&home.path("a.sif"), &squashfs[..squashfs.len() / 2], None);
    refuse(&["converting rootfs from SquashFS to Tarball", "is damaged"]);
    let copy = |squashfs: &[u8]| {
        write_sif(&home.path("a.sif"), squashfs, None);
        let _ = fs::remove_dir_all(home.path("out"));
        let said = home.copy(&[], "sif:a.sif", "oci:out:1");
        assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
        assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
        (said.code == Some(0)).then(|| image(&home, "out").0.into_keys().collect::<Vec<_>>())
    };
    let names = copy(&squashfs).expect("it is sound");
    let mut command = home.command("mksquashfs");
    command.arg(home.path("tree")).arg(home.path("plain.squashfs")).args(["-noappend", "-noI"]);
    command.stdout(Stdio::null()).succeed();
    let plain = fs::read(home.path("plain.squashfs")).unwrap();
    let tables = u64::from_le_bytes(plain[64..72].try_into().unwrap());
    let tables = usize::try_from(tables).unwrap();
    // The superblock, and then each part of the tables, which say what files there are.
    for (bytes, at) in [0, 4, 8, 12, 20, 32, 48, 64, 72, 80, 88]
        .map(|at| (&squashfs, at))
        .into_iter()
        .chain((tables..plain.len() - 4).step_by(31).map(|at| (&plain, at)))
    {
        let mut damaged = bytes.clone();
        for byte in &mut damaged[at..at + 4] {
            *byte = !*byte;
        }
        let Some(found) = copy(&damaged) else { continue };
        assert_eq!(found.len(), names.len(), "{at}: a file is lost: {found:?} of {names:?}");
    }
    // What is of another kind is not called damaged.
    let mut big_endian = squashfs.clone();
    big_endian[..4].copy_from_slice(b"sqsh");
    write_sif(&home.path("a.sif"), &big_endian, None);
    refuse(&["the root file system"]);
    write_sif(&home.path("a.sif"), &squashfs, None);
    home.copy(&[], "sif:a.sif", "sif:b.sif")
        .expect_code(1)
        .expect_words(&["\"sif:\" locations can only be read from, not written to"]);
}

#[test]
fn memory_does_not_grow_with_the_files_of_an_image() {
    let Some(_) = require("mksquashfs") else { return };
    let home = Home::new();
    fs::create_dir(home.path("tree")).unwrap();
    // Small ones, of which the file system keeps several in a block.
    for n in 0..3000 {
        let content = noise(40_000, n);
        fs::write(home.path(format!("tree/{n}")), content).unwrap();
    }
    write_sif(&home.path("a.sif"), &squashfs(&home, "lz4"), None);
    let mut command = home.copy_command(&[], "sif:a.sif", "dir:out");
    let peak = peak_memory(&mut command);
    assert!(peak < 80 << 20, "{peak} bytes for 120 MB of files");
}

#[test]
fn directories_in_directories_end_nothing() {
    let Some(_) = require("mksquashfs") else { return };
    let home = Home::new();
    let mut path = home.path("tree");
    fs::create_dir(&path).unwrap();
    // As deep as a path can be.
    for _ in 0..1500 {
        path.push("d");
        if fs::create_dir(&path).is_err() {
            break;
        }
    }
    write_sif(&home.path("a.sif"), &squashfs(&home, "gzip"), None);
    home.copy(&[], "sif:a.sif", "oci:out:1").expect_success();
    assert!(image(&home, "out").0.len() > 1000);
}
