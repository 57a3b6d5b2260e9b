//! A daemon on another machine, reached by `ssh`.
//!
//! As Docker's own client does it: `ssh HOST docker system dial-stdio` is one connection to the
//! daemon there. What speaks HTTP here connects to a socket in a directory of our own; each
//! connection gets an `ssh` of its own, which asks for what it needs as it always does.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use diolkos_sdk::{Error, Result, Session};
use tempfile::TempDir;

/// How much of what `ssh` says is kept, in bytes.
const MAX_WORDS: usize = 4 << 10;

/// A way to a daemon, open as long as it is kept.
pub(crate) struct Tunnel {
    dir: TempDir,
    words: Arc<Mutex<Vec<u8>>>,
}

impl Tunnel {
    /// Prepares the way; `ssh` is started when something connects.
    ///
    /// # Errors
    /// There is no room for a socket.
    pub fn open(destination: &str, socket: Option<&str>, session: &Session) -> Result<Self> {
        let failed = |error| Error::io("cannot make a socket for `ssh`", error);
        // Only its owner may enter it, and with it use the connection.
        let dir = tempfile::Builder::new().prefix("diolkos-ssh-").tempdir().map_err(failed)?;
        let listener = UnixListener::bind(socket_in(dir.path())).map_err(failed)?;
        let words = Arc::default();
        let bridge = Bridge {
            destination: destination.to_owned(),
            socket: socket.map(str::to_owned),
            words: Arc::clone(&words),
        };
        let host = session.host.clone();
        host.debug(format!("the daemon is reached by `ssh {destination}`"));
        thread::Builder::new()
            .name("ssh".to_owned())
            .spawn(move || bridge.serve(&listener))
            .map_err(failed)?;
        Ok(Self { dir, words })
    }

    /// Returns the socket to connect to.
    pub fn path(&self) -> PathBuf {
        socket_in(self.dir.path())
    }

    /// Returns what `ssh` said when it failed.
    pub fn failure(&self) -> Option<String> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&words).trim().replace("\r\n", "\n");
        (!text.is_empty()).then(|| format!("ssh: {text}"))
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("docker.sock")
}

/// What a connection needs.
struct Bridge {
    destination: String,
    socket: Option<String>,
    words: Arc<Mutex<Vec<u8>>>,
}

impl Bridge {
    fn serve(self, listener: &UnixListener) {
        let bridge = Arc::new(self);
        for connection in listener.incoming() {
            let Ok(connection) = connection else { return };
            let bridge = Arc::clone(&bridge);
            thread::spawn(move || {
                if let Err(error) = bridge.join(&connection) {
                    bridge.tell(format!("{error}").as_bytes());
                }
                let _ = connection.shutdown(Shutdown::Both);
            });
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        let (user, host) = match self.destination.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, self.destination.as_str()),
        };
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
            _ => (host, None),
        };
        if let Some(user) = user {
            command.args(["-l", user]);
        }
        if let Some(port) = port {
            command.args(["-p", port]);
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        command.args(["-o", "ConnectTimeout=30", "-T", "--", host, "docker"]);
        if let Some(socket) = &self.socket {
            // It is read by a shell on the other side.
            let quoted = socket.replace('\'', r"'\''");
            command.arg("--host").arg(format!("'unix://{quoted}'"));
        }
        command.args(["system", "dial-stdio"]);
        command
    }

    /// Joins a connection with an `ssh` until either ends.
    fn join(&self, connection: &UnixStream) -> io::Result<()> {
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::other(format!("cannot run `ssh`: {error}")))?;
        let carried = self.carry(connection, &mut child);
        // Where our side has gone, nobody needs it any more.
        let _ = child.kill();
        let _ = child.wait();
        carried
    }

    fn carry(&self, connection: &UnixStream, child: &mut Child) -> io::Result<()> {
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("`ssh` has no pipes"));
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut words = Vec::new();
                let _ = (&mut stderr).take(MAX_WORDS as u64).read_to_end(&mut words);
                self.tell(&words);
                let _ = io::copy(&mut stderr, &mut io::sink());
            });
            scope.spawn(move || {
                let _ = pump(&mut &*connection, &mut stdin);
            });
            let result = pump(&mut stdout, &mut &*connection);
            // The other direction waits for nothing any more.
            let _ = connection.shutdown(Shutdown::Both);
            result
        })
    }

    fn tell(&self, words: &[u8]) {
        let mut kept = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_WORDS {
            kept.extend_from_slice(words);
        }
    }
}

/// Carries bytes as they come.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(destination: &str, socket: Option<&str>) -> Vec<String> {
        let bridge = Bridge {
            destination: destination.to_owned(),
            socket: socket.map(str::to_owned),
            words: Arc::default(),
        };
        let command = bridge.command();
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn ssh_gets_user_port_and_socket() {
        let plain = arguments("h", None);
        assert!(plain.ends_with(&["--", "h", "docker", "system", "dial-stdio"].map(String::from)));
        let words = arguments("me@h:2222", Some("/run/it's.sock"));
        let at = |word: &str| words.iter().position(|it| it == word).unwrap();
        assert_eq!((words[at("-l") + 1].as_str(), words[at("-p") + 1].as_str()), ("me", "2222"));
        assert_eq!(words[at("--host") + 1], r"'unix:///run/it'\''s.sock'");
        assert!(at("--") < at("h"));
        let six = arguments("[::1]:22", None);
        assert!(six.contains(&"::1".to_owned()) && six.contains(&"22".to_owned()));
    }
}
