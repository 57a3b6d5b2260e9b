//! The Docker daemon.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use super::Authority;
use crate::{require, require_root};

/// A Docker daemon of its own, which is stopped when this is dropped.
pub struct DockerDaemon {
    child: Child,
    directory: TempDir,
    /// Host and port, if it listens there too.
    authority: Option<String>,
    /// Whether its storage is a file system of its own.
    mounted: bool,
}

impl DockerDaemon {
    /// Starts one with empty storage on a socket; `None` where it is not installed, or this is not
    /// root.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Option<Self> {
        Self::start_with("vfs", &|_| Vec::new(), None)
    }

    /// Starts one that keeps layers as most do, in overlays, where the system allows them.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with_overlays() -> Option<Self> {
        Self::start_with("overlay2", &|_| Vec::new(), None)
    }

    /// Starts one that listens on a loopback port too, there for clients of an authority alone.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with_tls(authority: &Authority) -> Option<Self> {
        let pair = authority.server().expect("openssl issues certificates");
        let options = |address: &str| {
            let mut options = vec!["-H".to_owned(), format!("tcp://{address}")];
            options.push("--tlsverify".to_owned());
            for (name, path) in [
                ("--tlscacert", &authority.certificate()),
                ("--tlscert", &pair.certificate),
                ("--tlskey", &pair.key),
            ] {
                options.extend([name.to_owned(), path.display().to_string()]);
            }
            options
        };
        Self::start_with("vfs", &options, None)
    }

    /// Starts one whose storage has room for so many bytes.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with_room(bytes: u64) -> Option<Self> {
        Self::start_with("vfs", &|_| Vec::new(), Some(bytes))
    }

    fn start_with(
        driver: &str,
        options: &dyn Fn(&str) -> Vec<String>,
        room: Option<u64>,
    ) -> Option<Self> {
        let (program, _, true) = (require("dockerd")?, require("docker")?, require_root()) else {
            return None;
        };
        // Socket paths are short.
        let directory = tempfile::Builder::new().prefix("dd").tempdir_in("/tmp").unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("data")).unwrap();
        if let Some(bytes) = room {
            let size = format!("size={bytes}");
            let mount = ["-t", "tmpfs", "-o", &size, "tmpfs"];
            let status = Command::new("mount").args(mount).arg(at("data")).status().unwrap();
            assert!(status.success(), "a small file system cannot be mounted");
        }
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .to_string();
        let options = options(&address);
        // It ends even if this process is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(program)
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("-H")
            .arg(format!("unix://{}", at("s").display()))
            .args(["--iptables=false", "--bridge=none", "--storage-driver", driver])
            .args(&options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let authority = (!options.is_empty()).then_some(address);
        let daemon = Self { child, directory, authority, mounted: room.is_some() };
        let is_ready = |_: &u32| {
            sleep(Duration::from_millis(100));
            daemon.docker(&["version"]).output().is_ok_and(|said| said.status.success())
        };
        let ready = (0..600).find(is_ready).is_some();
        assert!(ready, "{}", fs::read_to_string(daemon.path("log")).unwrap_or_default());
        Some(daemon)
    }

    /// Returns its socket.
    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    /// Returns the address of its socket, as programs take it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Returns host and port.
    ///
    /// # Panics
    /// When it has only a socket.
    pub fn authority(&self) -> &str {
        self.authority.as_deref().expect("it was started with a port")
    }

    /// Prepares Docker's own client.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.path("config"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Ends it at once.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        let _ = self.child.wait();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for DockerDaemon {
    fn drop(&mut self) {
        // It has a child of its own to stop.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let containerd = self.path("exec/containerd/containerd.pid");
        if let Ok(pid) = fs::read_to_string(containerd) {
            // Only after a kill is it still there.
            let _ = Command::new("kill").arg(pid.trim()).stderr(Stdio::null()).status();
        }
        if self.mounted {
            unmount(&self.path("data"));
        }
    }
}

fn unmount(path: &Path) {
    let _: io::Result<_> = Command::new("umount").arg("-l").arg(path).status();
}
