//! A store of podman's, with what is on disk in it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::program::{Home, Run as _, built_program};

/// A store in a home of its own.
#[derive(Debug)]
pub struct Store {
    /// `overlay` or `vfs`.
    pub driver: &'static str,
    /// Its directory.
    pub root: PathBuf,
    run_root: PathBuf,
}

impl Store {
    /// Names a store, which is not made yet.
    pub fn new(home: &Home, driver: &'static str, name: &str) -> Self {
        let (root, run_root) = (home.path(name), home.path(format!("run/{name}")));
        Self { driver, root, run_root }
    }

    /// Returns `containers-storage:[DRIVER@ROOT+RUNROOT]NAME`.
    pub fn reference(&self, name: &str) -> String {
        let (driver, root, run) = (self.driver, self.root.display(), self.run_root.display());
        format!("containers-storage:[{driver}@{root}+{run}]{name}")
    }

    /// Prepares podman or buildah with this store.
    pub fn program(&self, home: &Home, program: &str) -> Command {
        let mut command = home.command(program);
        command.arg("--root").arg(&self.root).arg("--runroot").arg(&self.run_root);
        command.args(["--storage-driver", self.driver]);
        command
    }

    fn records(&self, kind: &str) -> Vec<Value> {
        let path = self.dir(kind).join(format!("{kind}.json"));
        let text = fs::read_to_string(path).unwrap_or_else(|_| "[]".into());
        serde_json::from_str(&text).expect("records are JSON")
    }

    fn dir(&self, kind: &str) -> PathBuf {
        self.root.join(format!("{}-{kind}", self.driver))
    }

    /// Returns the records of layers.
    pub fn layers(&self) -> Vec<Value> {
        self.records("layers")
    }

    /// Returns the records of images.
    pub fn images(&self) -> Vec<Value> {
        self.records("images")
    }

    /// Returns the tree of a layer.
    pub fn tree(&self, layer: &str) -> PathBuf {
        match self.driver {
            "overlay" => self.root.join("overlay").join(layer).join("diff"),
            _ => self.root.join("vfs/dir").join(layer),
        }
    }

    /// Returns the lines of a layer's tar-split, neighbouring segments joined: where one ends says
    /// nothing.
    pub fn tar_split(&self, layer: &str) -> Vec<String> {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        let path = self.dir("layers").join(format!("{layer}.tar-split.gz"));
        let file = fs::File::open(path).expect("a layer has a tar-split");
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).expect("it is gzip");
        let mut lines = Vec::new();
        let mut segment: Vec<u8> = Vec::new();
        for line in text.lines() {
            let mut value: Value = serde_json::from_str(line).expect("each line is JSON");
            value.as_object_mut().expect("each is an object").remove("position");
            if value["type"] == 2 {
                let payload = value["payload"].as_str().expect("a segment has bytes");
                segment.extend(engine.decode(payload).expect("they are base64"));
            } else {
                if !segment.is_empty() {
                    lines.push(engine.encode(std::mem::take(&mut segment)));
                }
                lines.push(value.to_string());
            }
        }
        lines.push(engine.encode(segment));
        lines
    }

    /// Lists what does not fit together: layers and images without their files, files that belong to
    /// none, links that lead nowhere, what is half made.
    pub fn unsound(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let layers = self.layers();
        let ids: BTreeSet<String> = layers.iter().map(|layer| text(&layer["id"])).collect();
        for layer in &layers {
            let id = text(&layer["id"]);
            if layer["flags"]["incomplete"] == true {
                wrong.push(format!("layer {id} is incomplete"));
            }
            if !self.tree(&id).is_dir() {
                wrong.push(format!("layer {id} has no tree"));
            }
            if !self.dir("layers").join(format!("{id}.tar-split.gz")).is_file() {
                wrong.push(format!("layer {id} has no tar-split"));
            }
            if !layer["parent"].is_null() && !ids.contains(&text(&layer["parent"])) {
                wrong.push(format!("layer {id} has no parent"));
            }
        }
        let images = self.images();
        for image in &images {
            let id = text(&image["id"]);
            if !image["layer"].is_null() && !ids.contains(&text(&image["layer"])) {
                wrong.push(format!("image {id} has no layer"));
            }
            let files = names(&self.dir("images").join(&id));
            if !files.iter().any(|name| name == "manifest") {
                wrong.push(format!("image {id} has no manifest"));
            }
            let left = files.iter().filter(|name| name.starts_with(".tmp-"));
            wrong.extend(left.map(|name| format!("{id}/{name} is left")));
        }
        for name in names(&self.dir("images")) {
            let is_other = matches!(&*name, "images.json" | "images.lock");
            if name.starts_with(".tmp-") {
                wrong.push(format!("{name} is left"));
            } else if !is_other && !images.iter().any(|image| image["id"] == *name) {
                wrong.push(format!("image {name} has no record: it is left"));
            }
        }
        let trees = match self.driver {
            "overlay" => self.root.join("overlay"),
            _ => self.root.join("vfs/dir"),
        };
        for name in names(&trees) {
            match name.as_str() {
                "l" | ".has-mount-program" | "staging" => {}
                "tempdirs" => wrong.extend(
                    names(&trees.join(name)).into_iter().map(|name| format!("{name} is left")),
                ),
                id if ids.contains(id) => {}
                other => wrong.push(format!("{other} belongs to no layer")),
            }
        }
        if self.driver == "overlay" {
            for link in names(&trees.join("l")) {
                let path = trees.join("l").join(&link);
                let layer = fs::read_link(&path).expect("there are links alone");
                let layer = layer.components().nth(1).expect("it leads to a layer");
                let known = fs::read_to_string(trees.join(layer).join("link")).unwrap_or_default();
                if !path.is_dir() || known != link {
                    wrong.push(format!("the link {link} leads nowhere"));
                }
            }
        }
        for name in names(&self.dir("layers")) {
            let id = name.strip_suffix(".tar-split.gz").unwrap_or(&name);
            let is_other = matches!(&*name, "layers.json" | "layers.lock" | "volatile-layers.json");
            if name == "tmp" {
                let left = names(&self.dir("layers").join(name));
                wrong.extend(left.into_iter().map(|name| format!("{name} is left")));
            } else if name.starts_with(".tmp-") {
                wrong.push(format!("{name} is left"));
            } else if !is_other && !ids.contains(id) {
                wrong.push(format!("{name} belongs to no layer"));
            }
        }
        wrong
    }

    /// Lets the program under test copy, as root and not as somebody in a user namespace.
    #[track_caller]
    pub fn copy(home: &Home, source: &str, destination: &str) {
        Self::copying(home, source, destination).succeed();
    }

    /// Prepares what [`Store::copy`] runs.
    pub fn copying(home: &Home, source: &str, destination: &str) -> Command {
        let mut command = home.command(built_program());
        command.args(["copy", "--quiet", "--insecure-policy", source, destination]);
        command
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The driver overlay mounts its directory on itself, and leaves it so.
        let _ = Command::new("umount").arg("-q").arg(self.root.join("overlay")).output();
    }
}

/// Compiles a library that kills a program which is run with it as `LD_PRELOAD`, just before the
/// change of the file system that the variable `KILL_AT` says; 1 is the first.
pub fn killer(home: &Home) -> PathBuf {
    let library = home.path("kill_at.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kill_at.c");
    let mut compiler = home.command("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).succeed();
    library
}

/// Returns a record's text; nothing for what is none.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
