//! What several tests here need: helper programs that are shell scripts, and a silent host.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use diolkos_sdk::Host;

/// A directory of helper programs.
pub(super) struct Scripts(tempfile::TempDir);

impl Scripts {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Returns the directory as a search path.
    pub fn path(&self) -> &OsStr {
        OsStr::from_bytes(self.dir().as_os_str().as_bytes())
    }

    /// Adds `docker-credential-NAME`.
    pub fn add(&self, name: &str, script: &str) {
        let file = self.dir().join(format!("docker-credential-{name}"));
        // Another process writes it: a file that this one has open for writing could be inherited
        // by a child of another thread, and then not be run.
        let mut writer = Command::new("sh")
            .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&file)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = writer.stdin.take().unwrap();
        write!(stdin, "#!/bin/sh\n{script}\n").unwrap();
        drop(stdin);
        assert!(writer.wait().unwrap().success());
    }
}

/// Makes a host that nobody listens to.
pub(super) fn silent() -> Host {
    Host::silent()
}
