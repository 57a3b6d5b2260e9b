//! Real servers: processes of their own on free loopback ports, ended when they are dropped.
//!
//! Each has a directory for its configuration, its log and what it keeps. A test calls
//! [`crate::require`] for the programs it needs before it starts any.

mod certificates;
mod docker_daemon;
mod docker_registry;
mod nginx;
mod token_server;

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

pub use certificates::{Authority, KeyPair};
pub use docker_daemon::DockerDaemon;
pub use docker_registry::{DockerRegistry, Terms};
pub use nginx::{Nginx, Site};
use tempfile::TempDir;
pub use token_server::TokenServer;

/// A server that runs.
struct Process {
    address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts a server; `prepare` writes its configuration for an address and a directory.
    fn start(prepare: impl Fn(SocketAddr, &Path) -> io::Result<Command>) -> io::Result<Self> {
        // The port is found free and used a moment later; somebody may come between.
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::start_once(&prepare) {
                Err(error) if tries == 5 => return Err(error),
                Err(_) => {}
                Ok(process) => return Ok(process),
            }
        }
    }

    fn start_once(prepare: impl Fn(SocketAddr, &Path) -> io::Result<Command>) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let inner = prepare(address, directory.path())?;
        let log = fs::File::create(directory.path().join("log"))?;
        // `setpriv` ends the server even if this process is killed.
        let mut command = Command::new("setpriv");
        let child = command
            .args(["--pdeathsig", "KILL"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_remove("REGISTRY_HTTP_ADDR")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut process = Self { address, child, directory };
        process.wait_until_ready()?;
        Ok(process)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                return Err(io::Error::other(format!("the server ended: {status}\n{log}")));
            }
            if answers(self.address) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for the base once: a port that is merely bound is no server. A refusal is an answer, and
/// one that wants TLS says so in plain HTTP.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.starts_with(b"HTTP/1.") && !start.ends_with(b" 502"))
    };
    ask().unwrap_or(false)
}

/// Runs a program to its end with something on its standard input; returns what it wrote.
fn output(program: &str, arguments: &[&OsStr], input: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // What does not fit into a pipe is not given to any of these programs.
    child.stdin.take().expect("it was asked for").write_all(input)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("{program}: {}: {words}", output.status)));
    }
    Ok(output.stdout)
}
