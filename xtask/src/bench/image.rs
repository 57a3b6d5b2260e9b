//! The image that is measured: a real Debian system of about 700 MB, packed in three gzip
//! layers of 250 MB in all.
//!
//! Made once into a cache directory, by `debootstrap` and `apt-get` as root; each part is made
//! under a temporary name and renamed when it is whole, so that a run that was cut short is
//! repaired by the next one. Beside the layout stand the same image as a directory and as one
//! with uncompressed layers.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use diolkos_tests::{Layout, sha256};
use flate2::bufread::MultiGzDecoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::shell::{self, Result};

const SUITE: &str = "bookworm";
/// What the second and the third layer add to a minimal system.
const PACKAGES: [&[&str]; 2] = [&["g++", "git", "python3", "perl"], &["golang-src", "nodejs"]];
/// Directories whose content is not part of an image.
const VOLATILE: [&str; 5] = ["proc", "sys", "dev", "tmp", "run"];
const EPOCH: &str = "1970-01-01T00:00:00Z";
const OCI: &str = "application/vnd.oci.image.";

/// The image in all forms that jobs start from.
pub struct Images {
    /// OCI layout, tag `bench`.
    pub layout: PathBuf,
    /// The same as `dir:`.
    pub directory: PathBuf,
    /// As `dir:` with uncompressed layers.
    pub uncompressed: PathBuf,
}

impl Images {
    /// Makes what is missing in `cache`.
    pub fn make(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache)?;
        let images = Self {
            layout: cache.join("image"),
            directory: cache.join("image-directory"),
            uncompressed: cache.join("image-uncompressed"),
        };
        let once = |path: &Path, make: &dyn Fn(&Path) -> Result<()>| -> Result<()> {
            if path.exists() {
                return Ok(());
            }
            eprintln!("making {}", path.display());
            let work = tempfile::tempdir_in(cache)?;
            make(work.path())?;
            fs::rename(work.path().join("done"), path)?;
            Ok(())
        };
        once(&images.layout, &build)?;
        once(&images.directory, &|work| as_directory(&images.layout, &work.join("done")))?;
        once(&images.uncompressed, &|work| as_uncompressed(&images.layout, &work.join("done")))?;
        Ok(images)
    }
}

/// Builds the layout as `done` in an empty directory.
fn build(work: &Path) -> Result<()> {
    if !diolkos_tests::is_root() {
        return Err("making the image needs root, for debootstrap and chroot".into());
    }
    if !shell::installed("debootstrap") {
        return Err("debootstrap is not installed: `apt-get install debootstrap`, or the package \
                    of that name of your distribution"
            .into());
    }
    let root = work.join("root");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", SUITE]).arg(&root).args(mirror());
    shell::run(command.stdout(Stdio::null()).stdin(Stdio::null()))?;
    tidy(&root)?;
    let mut before = Tree::new();
    let mut layers = vec![pack(work, &root, 1, &mut before)?];
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, Permissions::from_mode(0o755))?;
    before = walk(&root)?;
    for (packages, number) in PACKAGES.iter().zip(2..) {
        install(&root, packages)?;
        tidy(&root)?;
        layers.push(pack(work, &root, number, &mut before)?);
    }
    // Compressing went on beside the next layer's installation.
    for layer in &mut layers {
        let status = layer.gzip.wait()?;
        if !status.success() {
            return Err(format!("gzip: {status}").into());
        }
    }
    assemble(work, &layers)
}

/// The archive that this machine's own package manager reads, if it tells.
fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| !line.trim_start().starts_with('#'))
        .find_map(|line| {
            let word = line.split_ascii_whitespace().find(|word| {
                word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian")
            })?;
            Some(word.to_owned())
        })
}

/// Runs `apt-get` in the system, with `/proc` mounted for its length only.
fn install(root: &Path, packages: &[&str]) -> Result<()> {
    let script = format!(
        "apt-get -q update && apt-get -q install -y --no-install-recommends {}",
        packages.join(" ")
    );
    let outer = "mount -t proc proc \"$1/proc\"; exec chroot \"$1\" sh -ec \"$2\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec", outer, "sh"])
        .arg(root)
        .arg(script)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .stdout(Stdio::null())
        .stdin(Stdio::null());
    shell::run(&mut command)
}

/// Drops what differs from run to run and belongs in no image.
fn tidy(root: &Path) -> Result<()> {
    let script = r#"
        cd "$1"
        rm -rf var/cache/apt/* var/lib/apt/lists/* var/cache/ldconfig/* var/cache/debconf/*-old \
            var/lib/dpkg/*-old tmp/* run/*
        find var/log -type f -delete
        find . -xdev -name __pycache__ -type d -prune -exec rm -rf {} +"#;
    shell::run(Command::new("sh").args(["-ec", script, "sh"]).arg(root))
}

/// What is in a system: for each path, enough to see that it was changed.
type Tree = BTreeMap<PathBuf, Vec<i64>>;

fn walk(root: &Path) -> Result<Tree> {
    fn below(root: &Path, path: &Path, tree: &mut Tree) -> io::Result<()> {
        for entry in fs::read_dir(root.join(path))? {
            let entry = entry?;
            let name = path.join(entry.file_name());
            let metadata = entry.metadata()?;
            let mut key = vec![
                i64::from(metadata.mode()),
                i64::from(metadata.uid()),
                i64::from(metadata.gid()),
            ];
            let directory = metadata.is_dir();
            if !directory {
                let inode = i64::from_ne_bytes(metadata.ino().to_ne_bytes());
                key.extend([metadata.mtime(), metadata.mtime_nsec(), inode]);
            }
            let volatile = path.as_os_str().is_empty()
                && VOLATILE.iter().any(|volatile| entry.file_name() == *volatile);
            tree.insert(name.clone(), if volatile { Vec::new() } else { key });
            if directory && !volatile {
                below(root, &name, tree)?;
            }
        }
        Ok(())
    }
    let mut tree = Tree::from([(PathBuf::from("."), Vec::new())]);
    below(root, Path::new(""), &mut tree)?;
    Ok(tree)
}

/// A layer whose compression is under way.
struct Packed {
    tar: PathBuf,
    gzip: Child,
}

/// Makes a layer of what changed, starts compressing it, and takes the new state as known.
fn pack(work: &Path, root: &Path, number: usize, before: &mut Tree) -> Result<Packed> {
    let after = walk(root)?;
    let mut paths: BTreeSet<PathBuf> = after
        .iter()
        .filter(|(path, key)| before.get(*path) != Some(key))
        .map(|(path, _)| path.clone())
        .collect();
    let mut markers = Vec::new();
    for gone in before.keys().filter(|path| !after.contains_key(*path)) {
        let (Some(parent), Some(name)) = (gone.parent(), gone.file_name()) else { continue };
        if parent.as_os_str().is_empty() || after.contains_key(parent) {
            let mut marker = OsString::from(".wh.");
            marker.push(name);
            let marker = parent.join(marker);
            File::create(root.join(&marker))?;
            markers.push(root.join(&marker));
            paths.insert(marker);
        }
    }
    let parents: Vec<_> = paths
        .iter()
        .flat_map(|path| path.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>())
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    paths.extend(parents);
    let tar = work.join(format!("layer{number}.tar"));
    write_tar(root, &paths, &tar)?;
    for marker in markers {
        fs::remove_file(marker)?;
    }
    *before = after;
    let gzip = Command::new("gzip")
        .args(["-6", "-n"])
        .stdin(File::open(&tar)?)
        .stdout(File::create(tar.with_extension("tar.gz"))?)
        .spawn()?;
    Ok(Packed { tar, gzip })
}

/// Writes a reproducible archive of the given paths.
fn write_tar(root: &Path, paths: &BTreeSet<PathBuf>, tar: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(root)
        .args(["--format=posix", "--sort=name", "--mtime=@0", "--numeric-owner"])
        .arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime,delete=mtime")
        .args(["--no-recursion", "--null", "--verbatim-files-from", "-T", "-", "-cf"])
        .arg(tar)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped());
    let mut child = command.spawn()?;
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
    }
    child.stdin.take().expect("it is piped").write_all(&list)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("tar: {status}").into()) }
}

/// Makes the layout of packed layers.
fn assemble(work: &Path, layers: &[Packed]) -> Result<()> {
    let layout = work.join("done");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (mut descriptors, mut diff_ids, mut history) = (Vec::new(), Vec::new(), Vec::new());
    for (layer, number) in layers.iter().zip(1..) {
        let packed = layer.tar.with_extension("tar.gz");
        let digest = file_digest(&packed)?;
        descriptors.push(json!({
            "mediaType": format!("{OCI}layer.v1.tar+gzip"),
            "digest": digest,
            "size": packed.metadata()?.len(),
        }));
        diff_ids.push(file_digest(&layer.tar)?);
        history.push(json!({"created": EPOCH, "created_by": format!("layer {number}")}));
        fs::rename(&packed, blobs.join(digest.trim_start_matches("sha256:")))?;
    }
    let put = |kind: &str, value: &Value| -> Result<Value> {
        let bytes = value.to_string().into_bytes();
        let digest = sha256(&bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), &bytes)?;
        Ok(json!({
            "mediaType": format!("{OCI}{kind}"), "digest": digest, "size": bytes.len(),
        }))
    };
    let config = put(
        "config.v1+json",
        &json!({
            "created": EPOCH,
            "architecture": architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        }),
    )?;
    let mut top = put(
        "manifest.v1+json",
        &json!({
            "schemaVersion": 2,
            "mediaType": format!("{OCI}manifest.v1+json"),
            "config": config,
            "layers": descriptors,
        }),
    )?;
    top["annotations"] = json!({"org.opencontainers.image.ref.name": "bench"});
    fs::write(
        layout.join("index.json"),
        json!({"schemaVersion": 2, "manifests": [top]}).to_string(),
    )?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn file_digest(path: &Path) -> Result<String> {
    let mut sum = Summing { inner: io::sink(), hash: Sha256::new(), size: 0 };
    io::copy(&mut File::open(path)?, &mut sum)?;
    Ok(sum.digest())
}

/// Passes bytes on and hashes them.
struct Summing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Summing<W> {
    fn digest(self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("sha256:");
        for byte in self.hash.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Lays the blobs of a layout out as a directory; they are the same files.
fn as_directory(layout: &Path, directory: &Path) -> Result<()> {
    let source = Layout::new(layout);
    let manifest = source.manifest("bench")?;
    start_directory(directory, &source.blob(digest_of(&source.tag("bench")?))?)?;
    for blob in blobs_of(&manifest) {
        let hex = digest_of(blob).trim_start_matches("sha256:");
        fs::hard_link(layout.join("blobs/sha256").join(hex), directory.join(hex))?;
    }
    Ok(())
}

/// Lays them out with uncompressed layers and a manifest that says so.
fn as_uncompressed(layout: &Path, directory: &Path) -> Result<()> {
    let source = Layout::new(layout);
    let mut manifest = source.manifest("bench")?;
    fs::create_dir(directory)?;
    for layer in manifest["layers"].as_array_mut().into_iter().flatten() {
        let hex = digest_of(layer).trim_start_matches("sha256:").to_owned();
        let temporary = directory.join("layer");
        let packed = BufReader::new(File::open(layout.join("blobs/sha256").join(hex))?);
        let mut sum = Summing { inner: File::create(&temporary)?, hash: Sha256::new(), size: 0 };
        io::copy(&mut MultiGzDecoder::new(packed).by_ref(), &mut sum)?;
        layer["mediaType"] = format!("{OCI}layer.v1.tar").into();
        layer["size"] = sum.size.into();
        let digest = sum.digest();
        fs::rename(temporary, directory.join(digest.trim_start_matches("sha256:")))?;
        layer["digest"] = digest.into();
    }
    let config = digest_of(&manifest["config"]);
    fs::write(directory.join(config.trim_start_matches("sha256:")), source.blob(config)?)?;
    start_directory(directory, manifest.to_string().as_bytes())
}

fn start_directory(directory: &Path, manifest: &[u8]) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("version"), "Directory Transport Version: 1.1\n")?;
    Ok(fs::write(directory.join("manifest.json"), manifest)?)
}

fn digest_of(descriptor: &Value) -> &str {
    descriptor["digest"].as_str().unwrap_or_default()
}

fn blobs_of(manifest: &Value) -> impl Iterator<Item = &Value> {
    manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config"))
}
