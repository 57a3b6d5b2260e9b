//! The registry that most people run, as a process of its own on a loopback port.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tempfile::TempDir;

/// A running `docker-registry`; it is killed, and its storage removed, when this is dropped.
pub struct DockerRegistry {
    address: SocketAddr,
    child: Child,
    storage: TempDir,
}

impl DockerRegistry {
    /// Starts a registry with empty storage.
    pub fn start() -> io::Result<Self> {
        // The port is found free and used a moment later; somebody may come between.
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::start_once() {
                Err(error) if tries == 5 => return Err(error),
                Err(_) => {}
                Ok(registry) => return Ok(registry),
            }
        }
    }

    fn start_once() -> io::Result<Self> {
        let storage = tempfile::tempdir()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = storage.path().join("config.yml");
        fs::write(&config, configuration(address, &storage.path().join("data")))?;
        let log = fs::File::create(storage.path().join("log"))?;
        // `setpriv` ends the registry even if this process is killed.
        let mut command = Command::new("setpriv");
        let child = command
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .env_remove("REGISTRY_HTTP_ADDR")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut registry = Self { address, child, storage };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.storage.path().join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("docker-registry ended: {status}\n{log}")));
            }
            if answers(self.address) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "docker-registry does not answer"))
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the reference `docker://HOST/REST`.
    pub fn reference(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.address)
    }

    /// Forgets all content, so that the next upload is a first one again.
    ///
    /// The registry caches nothing in memory here, so its files are all there is.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.storage.path().join("data")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the directory that all content is in.
    pub fn storage(&self) -> std::path::PathBuf {
        self.storage.path().join("data")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(address: SocketAddr, data: &Path) -> String {
    format!(
        "version: 0.1\n\
         log:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n",
        data.display()
    )
}

/// Asks for the base once; a port that is merely bound is no registry.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
