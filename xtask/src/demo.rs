//! `demo`: what the program does, on a real image, with every byte checked at the end.
//!
//! Needs nothing but a Rust toolchain and a C compiler. A registry in this process holds a
//! multi-platform image; it is copied into an OCI layout, from there into a directory, from there
//! into another repository, which must then hold the very same manifests and blobs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use diolkos_tests::{
    Format, Home, Image, LayerForm, Layout, Packing, Platform, Registry, directory_digests,
};

use crate::bench::default_cache;
use crate::shell::{self, Result, bytes};

/// Files beyond this are left out of the image, to keep the demo short.
const MAX_FILE: u64 = 8 << 20;
/// And so is what comes after this much of a directory.
const MAX_DIRECTORY: u64 = 48 << 20;

/// Shows everything, and fails if anything differs.
pub fn run() -> Result<()> {
    let release = shell::build_release()?;
    let demo =
        Demo { program: release.join("diolkos"), home: Home::new(), registry: Registry::start()? };
    let image = real_image(&release)?;
    let size: usize = image.blobs.values().map(|blob| blob.len()).sum();
    println!(
        "An image for {} platforms ({} blobs, {}) and an empty registry at {}.",
        image.instances.len(),
        image.blobs.len(),
        bytes(size as u64),
        demo.registry.host()
    );
    let start = demo.home.path("start");
    image.write_layout(&start, "1")?;
    demo.step(
        "Push it there",
        &[
            "copy",
            "--all",
            "--dest-tls-verify=false",
            &demo.home.reference("oci", "start:1"),
            &demo.registry.reference("demo/original:1"),
        ],
    )?;
    demo.step(
        "From the registry into an OCI layout",
        &[
            "copy",
            "--all",
            "--src-tls-verify=false",
            &demo.registry.reference("demo/original:1"),
            &demo.home.reference("oci", "layout:1"),
        ],
    )?;
    demo.step(
        "From the layout into a directory",
        &[
            "copy",
            "--all",
            &demo.home.reference("oci", "layout:1"),
            &demo.home.reference("dir", "directory"),
        ],
    )?;
    demo.step(
        "From the directory into an archive",
        &[
            "copy",
            "--all",
            &demo.home.reference("dir", "directory"),
            &demo.home.reference("oci-archive", "archive.tar:1"),
        ],
    )?;
    demo.step(
        "From the archive into another repository",
        &[
            "copy",
            "--all",
            "--dest-tls-verify=false",
            &demo.home.reference("oci-archive", "archive.tar:1"),
            &demo.registry.reference("demo/copy:1"),
        ],
    )?;
    demo.step(
        "Look at it there",
        &["inspect", "--tls-verify=false", &demo.registry.reference("demo/copy:1")],
    )?;
    demo.step(
        "Which tags there are",
        &["list-tags", "--tls-verify=false", &demo.registry.reference("demo/copy")],
    )?;
    println!("\n== Checking every manifest and blob, byte by byte");
    demo.check(&image)?;
    println!(
        "Everything is equal: {} manifests, {} blobs.",
        1 + image.instances.len(),
        image.blobs.len()
    );
    Ok(())
}

struct Demo {
    program: PathBuf,
    home: Home,
    registry: Registry,
}

impl Demo {
    /// Runs the program, shows what it writes and how long it took.
    fn step(&self, title: &str, arguments: &[&str]) -> Result<()> {
        println!("\n== {title}");
        let mut command = self.home.command(&self.program);
        // Its place for root's cache of blobs would be outside of this demo's home.
        command.env("_CONTAINERS_ROOTLESS_UID", "1000").args(arguments);
        println!("$ {}", shell::line(&command));
        io::stdout().flush()?;
        let start = Instant::now();
        let status = command.status()?;
        let time = start.elapsed();
        if !status.success() {
            return Err(format!("`{}`: {status}", shell::line(&command)).into());
        }
        println!("({:.2} s)", time.as_secs_f64());
        Ok(())
    }

    /// Compares what arrived everywhere with the image that was made.
    fn check(&self, image: &Image) -> Result<()> {
        for repository in ["demo/original", "demo/copy"] {
            image
                .check_in(&self.registry, repository, "1")
                .map_err(|why| format!("{repository}: {why}"))?;
            println!("{repository}:1 is {}", image.digest());
        }
        let (original, copy) =
            (self.registry.digests("demo/original"), self.registry.digests("demo/copy"));
        if original != copy {
            return Err("the two repositories do not hold the same".into());
        }
        let layout = Layout::new(self.home.path("layout"));
        let unsound = layout.unsound()?;
        if !unsound.is_empty() || layout.tag("1")?["digest"] != image.digest() {
            return Err(format!("the layout is wrong: {unsound:?}").into());
        }
        println!("oci:layout:1 is {}", image.digest());
        check_directory(&self.home.path("directory"), image)
    }
}

fn check_directory(directory: &Path, image: &Image) -> Result<()> {
    let files = directory_digests(directory)?;
    if files.get("manifest.json") != Some(&image.digest()) {
        return Err("the directory has another manifest".into());
    }
    for digest in image.blobs.keys() {
        let name = digest.trim_start_matches("sha256:");
        if files.get(name) != Some(digest) {
            return Err(format!("the directory's blob {name} is wrong").into());
        }
    }
    println!("dir:directory is {}", image.digest());
    Ok(())
}

/// Returns an image of real files: the benchmarks' if it was made, else this system's own.
fn real_image(release: &Path) -> Result<Image> {
    let cached = default_cache().map(|cache| cache.join("multi"));
    if let Some(cached) = cached.filter(|cached| cached.join("index.json").exists()) {
        return Ok(Image::read_layout(&cached, "multi")?);
    }
    let mut programs = Archive::new();
    for entry in fs::read_dir(release)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "diolkos" || name.ends_with(".so") {
            programs.add(&path, &format!("usr/bin/{name}"))?;
        }
    }
    let programs = programs.finish()?;
    let documents = Archive::of("/usr/share/doc")?;
    let instances = [Platform::AMD64, Platform::ARM64].map(|platform| -> io::Result<Image> {
        let mut settings = Archive::new();
        settings.add_below("/etc".as_ref())?;
        settings.text("etc/platform", platform.architecture)?;
        let layers = [documents.clone(), settings.finish()?, programs.clone()]
            .map(|tar| LayerForm { tar, packing: Packing::Gzip });
        Ok(Image::new(Format::Oci, platform, &layers))
    });
    let instances = instances.into_iter().collect::<io::Result<Vec<_>>>()?;
    Ok(Image::index(Format::Oci, instances))
}

/// A tar of files of this system that everybody may read.
struct Archive {
    builder: tar::Builder<Vec<u8>>,
    size: u64,
}

impl Archive {
    fn new() -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        Self { builder, size: 0 }
    }

    fn of(directory: &str) -> io::Result<Vec<u8>> {
        let mut archive = Self::new();
        archive.add_below(directory.as_ref())?;
        archive.finish()
    }

    fn add(&mut self, path: &Path, name: &str) -> io::Result<()> {
        self.size += path.symlink_metadata()?.len();
        self.builder.append_path_with_name(path, name)
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        self.builder.append_data(&mut header, name, text.as_bytes())
    }

    /// Adds what is in a directory, sorted, as long as there is room.
    fn add_below(&mut self, directory: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let public = metadata.permissions().mode() & 0o004 != 0;
            if self.size > MAX_DIRECTORY || !public {
                continue;
            }
            if metadata.is_dir() {
                self.add_below(&path)?;
            } else if metadata.is_symlink() || (metadata.is_file() && metadata.len() < MAX_FILE) {
                let name = path.to_string_lossy().trim_start_matches('/').to_owned();
                self.add(&path, &name)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        self.builder.into_inner()
    }
}
