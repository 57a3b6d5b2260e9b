//! What is measured.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use diolkos_tests::{DockerDaemon, DockerRegistry, Home, Layout};
use tempfile::TempDir;

use super::image::Images;
use crate::shell::{self, Result};

/// Where jobs run: the image in every form, and room for results.
pub struct Place {
    pub image: Images,
    pub work: TempDir,
    /// Holds the image as `bench:1`.
    pub source: DockerRegistry,
    /// Empty before each run.
    pub destination: DockerRegistry,
    /// Started when a job needs it.
    pub daemon: OnceCell<DockerDaemon>,
}

impl Place {
    fn result(&self) -> PathBuf {
        self.work.path().join("result")
    }

    fn out(&self, transport: &str, rest: &str) -> String {
        format!("{transport}:{}{rest}", self.result().display())
    }

    fn layout(&self) -> String {
        format!("oci:{}:bench", self.image.layout.display())
    }

    /// Returns the image in an archive that [`prepare`] made.
    fn archive(&self, transport: &str) -> String {
        format!("{transport}:{}", self.work.path().join(transport).display())
    }

    /// Returns the directory of a store that [`prepare`] put the image into.
    fn store(&self) -> PathBuf {
        self.work.path().join("store")
    }

    /// Returns the address of the Docker daemon.
    fn daemon(&self) -> String {
        self.daemon.get().map(DockerDaemon::host).unwrap_or_default()
    }

    fn in_source(&self) -> String {
        self.source.reference("bench:1")
    }

    fn in_destination(&self) -> String {
        self.destination.reference("bench:1")
    }
}

/// One job.
pub struct Job {
    pub name: &'static str,
    pub arguments: fn(&Place) -> Vec<String>,
    /// Bytes of the result, if they are part of the comparison.
    pub size: fn(&Place) -> Result<Option<u64>>,
}

const NO_SIZE: fn(&Place) -> Result<Option<u64>> = |_| Ok(None);

const INTO_STORE: &str = "oci → containers-storage";
const INTO_DAEMON: &str = "oci → docker-daemon";
const OUT_OF_DAEMON: &str = "docker-daemon → oci, compressing";

/// All jobs, in the table's order.
pub const ALL: [Job; 21] = [
    Job { name: "--version", arguments: |_| words(&["--version"]), size: NO_SIZE },
    Job {
        name: "inspect in a registry",
        arguments: |place| words(&["inspect", "--tls-verify=false", &place.in_source()]),
        size: NO_SIZE,
    },
    Job {
        name: "oci → dir",
        arguments: |place| copy(&[], &place.layout(), &place.out("dir", "")),
        size: NO_SIZE,
    },
    Job {
        name: "dir → oci",
        arguments: |place| {
            let source = format!("dir:{}", place.image.directory.display());
            copy(&[], &source, &place.out("oci", ":bench"))
        },
        size: NO_SIZE,
    },
    Job {
        name: "registry → oci",
        arguments: |place| {
            copy(&["--src-tls-verify=false"], &place.in_source(), &place.out("oci", ":bench"))
        },
        size: NO_SIZE,
    },
    Job {
        name: "oci → registry",
        arguments: |place| {
            copy(&["--dest-tls-verify=false"], &place.layout(), &place.in_destination())
        },
        size: NO_SIZE,
    },
    Job {
        name: "registry → registry",
        arguments: |place| {
            let flags = ["--src-tls-verify=false", "--dest-tls-verify=false"];
            copy(&flags, &place.in_source(), &place.in_destination())
        },
        size: NO_SIZE,
    },
    Job {
        name: "oci → dir, decompressing",
        arguments: |place| copy(&["--dest-decompress"], &place.layout(), &place.out("dir", "")),
        size: NO_SIZE,
    },
    Job {
        name: "dir → oci, compressing",
        arguments: |place| {
            let source = format!("dir:{}", place.image.uncompressed.display());
            copy(&[], &source, &place.out("oci", ":bench"))
        },
        size: |place| Ok(Some(size_below(&place.result())?)),
    },
    Job {
        name: "oci → docker-archive",
        arguments: |place| copy(&[], &place.layout(), &place.out("docker-archive", ":bench:1")),
        size: NO_SIZE,
    },
    Job {
        name: "docker-archive → dir",
        arguments: |place| copy(&[], &place.archive("docker-archive"), &place.out("dir", "")),
        size: NO_SIZE,
    },
    Job {
        name: "docker-archive → oci, compressing",
        arguments: |place| copy(&[], &place.archive("docker-archive"), &place.out("oci", ":bench")),
        size: |place| Ok(Some(size_below(&place.result())?)),
    },
    Job {
        name: "oci → oci-archive",
        arguments: |place| copy(&[], &place.layout(), &place.out("oci-archive", ":bench")),
        size: NO_SIZE,
    },
    Job {
        name: "oci-archive → oci",
        arguments: |place| copy(&[], &place.archive("oci-archive"), &place.out("oci", ":bench")),
        size: NO_SIZE,
    },
    Job {
        name: INTO_STORE,
        arguments: |place| copy(&[], &place.layout(), &store(&place.result())),
        size: NO_SIZE,
    },
    Job {
        name: "oci → containers-storage, again",
        arguments: |place| copy(&[], &place.layout(), &store(&place.store())),
        size: NO_SIZE,
    },
    Job {
        name: "containers-storage → oci, compressing",
        arguments: |place| copy(&[], &store(&place.store()), &place.out("oci", ":bench")),
        size: |place| Ok(Some(size_below(&place.result())?)),
    },
    Job {
        name: INTO_DAEMON,
        arguments: |place| {
            let flags = ["--dest-daemon-host", &place.daemon()];
            copy(&flags, &place.layout(), "docker-daemon:bench:1")
        },
        size: NO_SIZE,
    },
    Job {
        name: OUT_OF_DAEMON,
        arguments: |place| {
            let flags = ["--src-daemon-host", &place.daemon()];
            copy(&flags, "docker-daemon:bench:1", &place.out("oci", ":bench"))
        },
        size: NO_SIZE,
    },
    Job {
        name: "inspect of a docker-archive",
        arguments: |place| words(&["inspect", &place.archive("docker-archive")]),
        size: NO_SIZE,
    },
    Job {
        name: "inspect of an oci-archive",
        arguments: |place| words(&["inspect", &place.archive("oci-archive")]),
        size: NO_SIZE,
    },
];

/// Returns the image in a store below a directory. Without the option, skopeo leaves a mount there.
fn store(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "containers-storage:[overlay@{directory}/root+{directory}/run:overlay.skip_mount_home=true]bench:1"
    )
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn copy(flags: &[&str], source: &str, destination: &str) -> Vec<String> {
    let mut all = words(&["--insecure-policy", "copy", "--quiet"]);
    all.extend(words(flags));
    all.extend([source.to_owned(), destination.to_owned()]);
    all
}

/// Puts the image into the source registry, and checks that what it holds is the image.
pub fn prepare(place: &Place, program: &Path) -> Result<()> {
    eprintln!("putting the image into a registry");
    let home = Home::new();
    let flags = ["--dest-tls-verify=false"];
    let mut command = home.command(program);
    command.env("_CONTAINERS_ROOTLESS_UID", "1000").stdout(Stdio::null());
    shell::run(command.args(copy(&flags, &place.layout(), &place.in_source())))?;
    for transport in ["docker-archive", "oci-archive"] {
        let mut command = home.command(program);
        command.stdout(Stdio::null());
        let archive = format!("{}:bench:1", place.archive(transport));
        shell::run(command.args(copy(&[], &place.layout(), &archive)))?;
    }
    if diolkos_tests::is_root() {
        let mut command = home.command(program);
        command.env("_CONTAINERS_ROOTLESS_UID", "1000").stdout(Stdio::null());
        shell::run(command.args(copy(&[], &place.layout(), &store(&place.store()))))?;
    }
    let digest = Layout::new(&place.image.layout).tag("bench")?["digest"].clone();
    let stored = place.source.storage().join(format!(
        "docker/registry/v2/repositories/bench/_manifests/revisions/sha256/{}/link",
        digest.as_str().unwrap_or_default().trim_start_matches("sha256:")
    ));
    if stored.exists() { Ok(()) } else { Err("the registry holds another manifest".into()) }
}

/// Starts what a job needs alone; says whether it can be run here.
pub fn can_run(place: &Place, job: &Job) -> bool {
    if job.name.contains("containers-storage") {
        return diolkos_tests::is_root();
    }
    if !matches!(job.name, INTO_DAEMON | OUT_OF_DAEMON) || place.daemon.get().is_some() {
        return true;
    }
    DockerDaemon::start_with_overlays().is_some_and(|daemon| place.daemon.set(daemon).is_ok())
}

/// Makes destinations empty, and lets the disk finish what earlier runs wrote, which would
/// otherwise be paid for by whoever runs next.
pub fn clean(place: &Place, job: &Job) -> Result<()> {
    // Some file systems make new files slowly for minutes after many were removed: the stores of
    // earlier runs stay until the end.
    if job.name == INTO_STORE && place.result().exists() {
        let aside = tempfile::Builder::new().prefix("aside").tempdir_in(place.work.path())?.keep();
        fs::rename(place.result(), aside.join("result"))?;
    }
    let _ = fs::remove_file(place.result());
    match fs::remove_dir_all(place.result()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    place.destination.clear()?;
    if let Some(daemon) = place.daemon.get() {
        let there = !daemon.docker(&["images", "-q", "bench:1"]).output()?.stdout.is_empty();
        match job.name {
            INTO_DAEMON if there => {
                shell::run(daemon.docker(&["rmi", "-f", "bench:1"]).stdout(Stdio::null()))?;
            }
            OUT_OF_DAEMON if !there => {
                let archive = place.work.path().join("docker-archive").display().to_string();
                shell::run(daemon.docker(&["load", "-q", "-i", &archive]).stdout(Stdio::null()))?;
            }
            _ => {}
        }
    }
    Command::new("sync").arg("-f").arg(place.work.path()).status()?;
    Ok(())
}

fn size_below(directory: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() { size_below(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}
