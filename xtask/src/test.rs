//! `test`: everything that can be tested, with the real programs that tests compare with.
//!
//! On Debian and its relatives, root gets missing programs installed. Elsewhere the tests that
//! need one say so and are skipped, except in CI (`CI` set), where they fail.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::shell::{self, Result};

/// What the user asked for.
pub struct Request {
    /// Whether missing programs may be installed.
    pub install: bool,
}

/// Programs that tests use, each with the Debian package it is in.
const PEERS: [(&str, &str); 17] = [
    ("skopeo", "skopeo"),
    ("podman", "podman"),
    ("buildah", "buildah"),
    ("umoci", "umoci"),
    ("docker-registry", "docker-registry"),
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("crun", "crun"),
    ("gpg", "gnupg"),
    ("setpriv", "util-linux"),
    ("nginx", "nginx"),
    ("htpasswd", "apache2-utils"),
    ("openssl", "openssl"),
    ("sqlite3", "sqlite3"),
    ("mksquashfs", "squashfs-tools"),
    ("fakeroot", "fakeroot"),
    ("newuidmap", "uidmap"),
];

/// Installs, builds and tests.
pub fn run(request: &Request) -> Result<()> {
    if request.install {
        install_peers()?;
        add_user()?;
    }
    report_peers();
    shell::run(&mut shell::cargo(&["build", "--workspace", "--all-targets"]))?;
    let program = shell::target().join("debug/diolkos");
    let nextest = has_nextest();
    let mut commands = if nextest {
        vec![
            shell::cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]),
            shell::cargo(&["test", "--workspace", "--doc"]),
        ]
    } else {
        vec![shell::cargo(&["test", "--workspace", "--no-fail-fast"])]
    };
    for manifest in examples()? {
        let manifest = manifest.to_string_lossy().into_owned();
        commands.push(shell::cargo(&["test", "--manifest-path", &manifest]));
    }
    // All of it runs even if the first part fails: one run then tells everything.
    let mut failures = Vec::new();
    for command in &mut commands {
        if let Err(error) = shell::run(command.env("DIOLKOS", &program)) {
            failures.push(error.to_string());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

/// Returns the manifests of the plugins that are built outside the workspace.
pub fn examples() -> Result<Vec<PathBuf>> {
    let mut manifests = Vec::new();
    let directory = shell::workspace().join("examples");
    if directory.is_dir() {
        for entry in fs::read_dir(directory)? {
            let manifest = entry?.path().join("Cargo.toml");
            if manifest.is_file() {
                manifests.push(manifest);
            }
        }
    }
    manifests.sort();
    Ok(manifests)
}

fn has_nextest() -> bool {
    let mut command = shell::cargo(&["nextest", "--version"]);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn missing() -> Vec<&'static str> {
    let absent = PEERS.iter().filter(|(program, _)| !shell::installed(program));
    absent.map(|(_, package)| *package).collect()
}

fn report_peers() {
    let missing = missing();
    if !missing.is_empty() {
        eprintln!("note: tests are skipped (in CI they fail) without: {}", missing.join(" "));
    }
}

/// Installs what is missing, if this is a system and a user that can.
fn install_peers() -> Result<()> {
    let missing = missing();
    if missing.is_empty() || !shell::installed("apt-get") || !diolkos_tests::is_root() {
        return Ok(());
    }
    let _quiet = NoServices::new()?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-y"]).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    };
    shell::run(&mut apt(&["update"]))?;
    let mut missing = missing;
    missing.dedup();
    let mut arguments = vec!["install", "--no-install-recommends"];
    arguments.extend(missing);
    shell::run(&mut apt(&arguments))
}

/// Makes the ordinary user whom a test runs as, with IDs of its own in /etc/subuid, if this is a
/// system and a user that can.
fn add_user() -> Result<()> {
    const NAME: &str = "diolkos-test";
    if !diolkos_tests::is_root() || !shell::installed("useradd") {
        return Ok(());
    }
    let has = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.starts_with(&format!("{NAME}:")))
    };
    if !has("/etc/passwd") {
        shell::run(Command::new("useradd").args(["--shell", "/usr/sbin/nologin", NAME]))?;
    }
    for (file, flag) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
        if !has(file) {
            shell::run(Command::new("usermod").args([flag, "1879048192-1879113727", NAME]))?;
        }
    }
    Ok(())
}

/// While it lives, packages start no service: tests start their own registry.
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn new() -> Result<Self> {
        let path = Path::new("/usr/sbin/policy-rc.d");
        if path.exists() {
            // Somebody already decided.
            return Ok(Self(None));
        }
        let mut file = fs::File::create_new(path)?;
        file.write_all(b"#!/bin/sh\nexit 101\n")?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("warning: cannot remove `{}`: {error}", path.display());
        }
    }
}
