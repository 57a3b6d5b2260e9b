//! A daemon on another machine, reached by `ssh`.
//!
//! As Docker's own client does it: `ssh HOST docker system dial-stdio` is one connection to the
//! daemon there. What speaks HTTP here connects to a socket in a directory of our own; each
//! connection gets an `ssh` of its own, which asks for what it needs as it always does.

use std::env;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use diolkos_sdk::{Error, Result, Session};
use tempfile::TempDir;

use crate::endpoint::Far;

/// How much of what `ssh` says is kept, in bytes.
const MAX_WORDS: usize = 4 << 10;
/// The longest path that a socket may have, in bytes, with room for its own name.
const LONGEST_DIR: usize = 80;
/// How often is looked whether an `ssh` ends that has nothing more to carry, and how often at most.
const END_STEPS: (Duration, u32) = (Duration::from_millis(20), 100);

/// A way to a daemon, open as long as it is kept.
pub(crate) struct Tunnel {
    dir: TempDir,
    bridge: Arc<Bridge>,
}

impl Tunnel {
    /// Prepares the way; `ssh` is started when something connects.
    ///
    /// # Errors
    /// There is no room for a socket.
    pub fn open(far: &Far, session: &Session) -> Result<Self> {
        let failed = |error| Error::io("cannot make a socket for `ssh`", error);
        let (dir, listener) = listen().map_err(failed)?;
        let bridge = Arc::new(Bridge { far: far.clone(), ..Bridge::default() });
        session.host.debug(format!("the daemon is reached by `ssh {}`", far.host));
        let for_thread = Arc::clone(&bridge);
        thread::Builder::new()
            .name("ssh".to_owned())
            .spawn(move || for_thread.serve(&listener))
            .map_err(failed)?;
        Ok(Self { dir, bridge })
    }

    /// Returns the socket to connect to.
    pub fn path(&self) -> PathBuf {
        socket_in(self.dir.path())
    }

    /// Returns what an `ssh` said that failed.
    pub fn failure(&self) -> Option<String> {
        let words = lock(&self.bridge.words);
        let text = String::from_utf8_lossy(&words).trim().replace("\r\n", "\n");
        (!text.is_empty()).then(|| format!("ssh: {text}"))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.bridge.stopping.store(true, Ordering::SeqCst);
        // Wakes who waits for connections.
        let _ = UnixStream::connect(self.path());
        for child in lock(&self.bridge.children).iter() {
            let _ = lock(child).kill();
        }
    }
}

/// Makes a socket in a directory that only its owner may enter, and with it use the connection.
fn listen() -> io::Result<(TempDir, UnixListener)> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let mut last = io::Error::other("no directory is fit for it");
    for place in runtime.into_iter().chain([env::temp_dir(), "/tmp".into()]) {
        if place.as_os_str().len() > LONGEST_DIR || !place.is_absolute() {
            continue;
        }
        let made = tempfile::Builder::new().prefix("diolkos-ssh-").tempdir_in(&place);
        let bound = made.and_then(|dir| Ok((UnixListener::bind(socket_in(dir.path()))?, dir)));
        match bound {
            Ok((listener, dir)) => return Ok((dir, listener)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("docker.sock")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What connections need, and what became of them.
#[derive(Default)]
struct Bridge {
    far: Far,
    stopping: AtomicBool,
    children: Mutex<Vec<Arc<Mutex<Child>>>>,
    words: Mutex<Vec<u8>>,
}

impl Bridge {
    fn serve(self: &Arc<Self>, listener: &UnixListener) {
        for connection in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            // One that has gone again is none.
            let Ok(connection) = connection else { continue };
            let bridge = Arc::clone(self);
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
        let Far { user, host, port, socket } = &self.far;
        if let Some(user) = user {
            command.args(["-l", user]);
        }
        if let Some(port) = port {
            command.args(["-p", &port.to_string()]);
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        command.args(["-o", "ConnectTimeout=30", "-T", "--", host, "docker"]);
        if let Some(socket) = socket {
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
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("`ssh` has no pipes"));
        };
        let child = Arc::new(Mutex::new(child));
        lock(&self.children).push(Arc::clone(&child));
        let left = AtomicBool::new(false);
        thread::scope(|scope| {
            let said = scope.spawn(move || {
                let mut words = Vec::new();
                let _ = (&mut stderr).take(MAX_WORDS as u64).read_to_end(&mut words);
                let _ = io::copy(&mut stderr, &mut io::sink());
                words
            });
            scope.spawn(|| {
                let carried = pump(&mut &*connection, &mut stdin);
                // An `ssh` that takes nothing more has ended by itself, and says why.
                let ended = carried.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
                if !ended {
                    // Where our side has gone, nobody needs it any more.
                    left.store(true, Ordering::SeqCst);
                    let _ = lock(&child).kill();
                }
            });
            let carried = pump(&mut stdout, &mut &*connection);
            let failed = ended(&child).is_some_and(|success| !success);
            let words = said.join().unwrap_or_default();
            // What it says is its reason only if it failed by itself.
            if failed && !left.load(Ordering::SeqCst) {
                self.tell(&words);
            }
            // The other direction waits for nothing any more.
            let _ = connection.shutdown(Shutdown::Both);
            carried
        })
    }

    fn tell(&self, words: &[u8]) {
        let mut kept = lock(&self.words);
        if kept.len() < MAX_WORDS {
            kept.extend_from_slice(words);
        }
    }
}

/// Waits for an `ssh` that has sent its last byte, and ends it if that takes long. Tells whether it
/// succeeded; `None` if it had to be ended.
fn ended(child: &Mutex<Child>) -> Option<bool> {
    let (step, most) = END_STEPS;
    for _ in 0..most {
        if let Ok(Some(status)) = lock(child).try_wait() {
            return Some(status.success());
        }
        thread::sleep(step);
    }
    let mut child = lock(child);
    let _ = child.kill();
    let _ = child.wait();
    None
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

    fn arguments(far: Far) -> Vec<String> {
        let command = Bridge { far, ..Bridge::default() }.command();
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn ssh_gets_user_port_and_socket() {
        let plain = arguments(Far { host: "h".into(), ..Far::default() });
        assert!(plain.ends_with(&["--", "h", "docker", "system", "dial-stdio"].map(String::from)));
        let words = arguments(Far {
            user: Some("me".into()),
            host: "[2001:db8::5:6]".into(),
            port: Some(2222),
            socket: Some("/run/it's.sock".into()),
        });
        let at = |word: &str| words.iter().position(|it| it == word).unwrap();
        assert_eq!((words[at("-l") + 1].as_str(), words[at("-p") + 1].as_str()), ("me", "2222"));
        assert_eq!(words[at("--host") + 1], r"'unix:///run/it'\''s.sock'");
        assert_eq!(words[at("--") + 1], "2001:db8::5:6");
    }
}
