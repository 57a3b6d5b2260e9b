//! Programs that keep credentials: `docker-credential-NAME get | store | erase | list`.
//!
//! A program is given the server's name, or an object, on standard input, answers on standard
//! output, and ends with an exit code other than zero when it has something to complain of. It may
//! hang: a keychain waits for somebody to unlock it. So it has a time limit, and what it writes a
//! size limit. Its standard error is ours, as with other programs: it may ask questions there.
//!
//! # Source
//! The protocol of github.com/docker/docker-credential-helpers.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use diolkos_sdk::{Error, ErrorKind, Host, Result};
use serde::Serialize;

use super::object::Object;
use crate::options::{Credentials, Secret};

/// How long a helper may take: as long as somebody may need to find a password.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;
/// How much of what a helper complains of is shown, in characters.
const MAX_COMPLAINT: usize = 200;
/// What a helper says when it does not know a server.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name under which helpers keep a token.
const TOKEN_USER: &str = "<token>";

/// A helper program.
pub(super) struct Helper<'a> {
    program: String,
    search_path: Option<&'a OsStr>,
    host: &'a Host,
    patience: Duration,
}

/// What a helper keeps for a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Password(Credentials),
    Token(Secret),
}

/// What a helper is given to keep. It has no `Debug`: it holds a password.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ToKeep<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    username: &'a str,
    secret: &'a str,
}

impl<'a> Helper<'a> {
    /// Names the helper `docker-credential-NAME`, to be found in the directories of
    /// `search_path`.
    pub fn new(name: &str, search_path: Option<&'a OsStr>, host: &'a Host) -> Self {
        let program = format!("docker-credential-{name}");
        Self { program, search_path, host, patience: PATIENCE }
    }

    #[cfg(test)]
    fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the program's name.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Returns what is kept for a server, if anything is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: there is no such program. [`ErrorKind::Unauthorized`]: it failed,
    /// hung, or answered nonsense.
    pub fn get(&self, server: &str) -> Result<Option<Kept>> {
        match self.run("get", server.as_bytes())? {
            Outcome::Answered(bytes) => parse_answer(&bytes)
                .map_err(|why| self.failed("get", &format!("its answer is unusable: {why}"))),
            Outcome::Complained(complaint) if is_not_found(&complaint) => Ok(None),
            Outcome::Complained(complaint) => Err(self.failed("get", &complaint)),
        }
    }

    /// Gives a user's password for a server to the helper.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub fn store(&self, server: &str, who: &Credentials) -> Result<()> {
        let secret = who.password.reveal();
        let kept = ToKeep { server, username: &who.username, secret };
        let input = serde_json::to_vec(&kept).expect("texts are JSON");
        match self.run("store", &input)? {
            Outcome::Answered(_) => Ok(()),
            // It was told the password and may repeat it.
            Outcome::Complained(complaint) if !secret.is_empty() && complaint.contains(secret) => {
                Err(self.failed("store", "what it said is not shown, it holds the password"))
            }
            Outcome::Complained(complaint) => Err(self.failed("store", &complaint)),
        }
    }

    /// Lets the helper forget a server; tells whether it knew it.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub fn erase(&self, server: &str) -> Result<bool> {
        match self.run("erase", server.as_bytes())? {
            Outcome::Answered(_) => Ok(true),
            Outcome::Complained(complaint) if is_not_found(&complaint) => Ok(false),
            Outcome::Complained(complaint) => Err(self.failed("erase", &complaint)),
        }
    }

    /// Returns all servers that the helper knows.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub fn list(&self) -> Result<Vec<String>> {
        match self.run("list", b"unused")? {
            Outcome::Answered(bytes) => Object::parse(&bytes)
                .map(|servers| servers.names().map(str::to_owned).collect())
                .map_err(|why| self.failed("list", &format!("its answer is unusable: {why}"))),
            Outcome::Complained(complaint) => Err(self.failed("list", &complaint)),
        }
    }

    fn failed(&self, action: &str, why: &str) -> Error {
        let message = format!("credential helper `{}` failed to {action}: {why}", self.program);
        Error::new(ErrorKind::Unauthorized, message)
    }

    /// Runs the program once.
    fn run(&self, action: &str, input: &[u8]) -> Result<Outcome> {
        let path = self.find()?;
        let mut child = Command::new(path)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(action, "it cannot be started").with_source(error))?;
        let mut stdin = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        let mut stderr = child.stderr.take().expect("it was asked for");
        let input = input.to_owned();
        // Threads of their own, and nobody waits for them: a child of the helper's may keep its
        // pipes open after it was killed.
        std::thread::spawn(move || {
            // A helper need not read what it can do without.
            let _ = stdin.write_all(&input);
        });
        // What it says is for the user at once. It does not get our stderr itself: whoever waits for
        // the end of that would wait for a child of the helper's, long after us.
        std::thread::spawn(move || io::copy(&mut stderr, &mut io::stderr()));
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(MAX_ANSWER + 1).read_to_end(&mut bytes);
            let _ = sender.send(read.map(|_| bytes));
        });
        let ended = self.wait(&mut child, &receiver);
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        match ended {
            Ok((status, bytes)) => self.outcome(action, status, bytes),
            Err(Stopped::Cancelled) => {
                Err(Error::new(ErrorKind::Cancelled, "the operation was stopped"))
            }
            Err(Stopped::TooLong) => {
                let seconds = self.patience.as_secs_f32();
                let why = format!("it was stopped because it did not answer in {seconds} seconds");
                Err(self.failed(action, &why))
            }
            Err(Stopped::Io(error)) => {
                Err(self.failed(action, "its answer cannot be read").with_source(error))
            }
        }
    }

    fn outcome(&self, action: &str, status: ExitStatus, bytes: Vec<u8>) -> Result<Outcome> {
        if bytes.len() as u64 > MAX_ANSWER {
            let why = format!("it wrote more than {MAX_ANSWER} bytes");
            return Err(self.failed(action, &why));
        }
        if status.success() {
            return Ok(Outcome::Answered(bytes));
        }
        let said = String::from_utf8_lossy(&bytes);
        let said = said.trim();
        // An object may be credentials that it wrote before it failed.
        Ok(Outcome::Complained(if said.is_empty() || said.starts_with('{') {
            status.to_string()
        } else {
            said.lines().next().unwrap_or_default().chars().take(MAX_COMPLAINT).collect()
        }))
    }

    /// Waits for the answer and the end of a helper.
    fn wait(
        &self,
        child: &mut Child,
        answer: &mpsc::Receiver<io::Result<Vec<u8>>>,
    ) -> Result<(ExitStatus, Vec<u8>), Stopped> {
        let deadline = Instant::now() + self.patience;
        let step = Duration::from_millis(50);
        let check = || {
            if self.host.is_cancelled() {
                return Err(Stopped::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(Stopped::TooLong) } else { Ok(left) }
        };
        let bytes = loop {
            match answer.recv_timeout(check()?.min(step)) {
                Ok(read) => break read.map_err(Stopped::Io)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Stopped::Io(io::ErrorKind::BrokenPipe.into()));
                }
            }
        };
        if bytes.len() as u64 > MAX_ANSWER {
            // The rest is not read, and it would wait for that.
            let _ = child.kill();
        }
        loop {
            if let Some(status) = child.try_wait().map_err(Stopped::Io)? {
                return Ok((status, bytes));
            }
            std::thread::sleep(check()?.min(Duration::from_millis(2)));
        }
    }

    /// Finds the program.
    fn find(&self) -> Result<PathBuf> {
        let not_found = |why: &str| {
            let message = format!("credential helper `{}` {why}", self.program);
            Error::new(ErrorKind::NotFound, message)
        };
        if self.program.contains('/') {
            return Err(not_found("has a name that is a path"));
        }
        // A relative directory would be one of whatever place the user happens to be in.
        let dirs = self.search_path.map(env::split_paths).into_iter().flatten();
        let mut candidates =
            dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(&self.program));
        candidates
            .find(|path| {
                path.metadata()
                    .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
            })
            .ok_or_else(|| not_found("is not installed: executable file not found in $PATH"))
    }
}

/// How a helper ended by itself.
enum Outcome {
    Answered(Vec<u8>),
    /// In its own words, shortened.
    Complained(String),
}

/// Why a helper was not waited for.
enum Stopped {
    Cancelled,
    TooLong,
    Io(io::Error),
}

fn is_not_found(complaint: &str) -> bool {
    complaint.trim() == NOT_FOUND
}

/// Parses what `get` answers; `None` for an answer without content.
pub(super) fn parse_answer(bytes: &[u8]) -> Result<Option<Kept>, String> {
    let answer = Object::parse(bytes).map_err(|broken| broken.to_string())?;
    let text = |name| answer.text(name).map_err(|broken| broken.to_string());
    let (username, secret) = (text("Username")?, text("Secret")?);
    Ok(match (username.as_str(), secret.as_str()) {
        ("", "") => None,
        (TOKEN_USER, _) => Some(Kept::Token(Secret::new(secret))),
        _ => Some(Kept::Password(Credentials { username, password: Secret::new(secret) })),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests_support::{Scripts, silent};
    use super::*;

    fn who(password: &str) -> Credentials {
        Credentials { username: "me".into(), password: Secret::new(password) }
    }

    #[test]
    fn a_helper_is_asked_by_name_and_gives_passwords_and_tokens() {
        let scripts = Scripts::new();
        scripts.add(
            "x",
            r#"read -r server; case "$1 $server" in
            "get q.io") echo '{"ServerURL":"q.io","Username":"me","Secret":"hush"}';;
            "get t.io") echo '{"Username":"<token>","Secret":"tok"}';;
            "get e.io") echo '{"Username":"","Secret":""}';;
            *) echo "credentials not found in native keychain"; exit 1;;
            esac"#,
        );
        let host = silent();
        let helper = Helper::new("x", Some(scripts.path()), &host);
        assert_eq!(helper.get("q.io").unwrap(), Some(Kept::Password(who("hush"))));
        assert_eq!(helper.get("t.io").unwrap(), Some(Kept::Token(Secret::new("tok"))));
        assert_eq!(helper.get("e.io").unwrap(), None);
        assert_eq!(helper.get("other").unwrap(), None);
        assert!(!helper.erase("other").unwrap());
    }

    #[test]
    fn what_is_stored_arrives_whole_and_can_be_listed() {
        let scripts = Scripts::new();
        let kept = scripts.dir().join("kept");
        scripts.add(
            "x",
            &format!(
                r#"case $1 in store) cat > {0};; list) echo '{{"q.io":"me"}}';; erase) rm {0};; esac"#,
                kept.display()
            ),
        );
        let host = silent();
        let helper = Helper::new("x", Some(scripts.path()), &host);
        helper.store("q.io", &who("a\"b")).unwrap();
        let stored: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
        let expected = serde_json::json!({"ServerURL": "q.io", "Username": "me", "Secret": "a\"b"});
        assert_eq!(stored, expected);
        assert_eq!(helper.list().unwrap(), ["q.io"]);
        assert!(helper.erase("q.io").unwrap());
        assert!(!kept.exists());
    }

    #[test]
    fn a_helper_that_hangs_is_stopped() {
        let scripts = Scripts::new();
        // Its own child keeps the pipe open when it is killed.
        scripts.add("slow", "sleep 20 & sleep 20");
        let host = silent();
        let helper =
            Helper::new("slow", Some(scripts.path()), &host).patience(Duration::from_millis(200));
        let begun = Instant::now();
        let error = helper.get("q.io").unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert_eq!(
            error.message(),
            "credential helper `docker-credential-slow` failed to get: it was stopped because it \
             did not answer in 0.2 seconds"
        );
    }

    #[test]
    fn endless_output_is_cut_off() {
        let scripts = Scripts::new();
        scripts.add("chatty", "exec cat /dev/zero");
        let host = silent();
        let error = Helper::new("chatty", Some(scripts.path()), &host).get("q.io").unwrap_err();
        assert!(error.message().contains("wrote more than"), "{error}");
    }

    #[test]
    fn complaints_are_shown_but_no_secret() {
        let scripts = Scripts::new();
        scripts.add("locked", "echo 'the keychain is locked'; echo more; exit 3");
        scripts.add("leaky", r#"echo '{"Username":"me","Secret":"hush"}'; exit 1"#);
        scripts.add("echo", "cat; exit 1");
        scripts.add("parrot", "echo cannot store hush; exit 1");
        scripts.add("garbled", "echo 'hush me'");
        let host = silent();
        let helper = |name| Helper::new(name, Some(scripts.path()), &host);
        let error = helper("locked").get("q.io").unwrap_err();
        assert!(error.message().ends_with("failed to get: the keychain is locked"), "{error}");
        for error in [
            helper("leaky").get("q.io").unwrap_err(),
            helper("echo").store("q.io", &who("hush")).unwrap_err(),
            helper("parrot").store("q.io", &who("hush")).unwrap_err(),
            helper("garbled").get("q.io").unwrap_err(),
        ] {
            assert!(!error.chain().join(" ").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn a_missing_helper_is_named_and_a_path_is_no_name() {
        let scripts = Scripts::new();
        let host = silent();
        for (name, words) in [
            ("gone", "`docker-credential-gone` is not installed: executable file not found"),
            ("../x", "`docker-credential-../x` has a name that is a path"),
        ] {
            let error = Helper::new(name, Some(scripts.path()), &host).get("q.io").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.message().contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_answer(&bytes);
        }

        #[test]
        fn a_mutated_answer_is_parsed_without_panic(at in any::<proptest::sample::Index>(), with: u8) {
            let mut bytes = br#"{"ServerURL":"q.io","Username":"me","Secret":"hush"}"#.to_vec();
            let position = at.index(bytes.len());
            bytes[position] = with;
            if let Err(error) = parse_answer(&bytes) {
                prop_assert!(!error.contains("hush"));
            }
        }
    }
}
