//! The built program, and a home to run it in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use serde_json::Value;
use tempfile::TempDir;

use crate::Layout;

/// Returns the program under test, with its plugins beside it.
///
/// `DIOLKOS` names it, as `cargo xtask test` does after it built everything; without it, the
/// workspace is built once in this process, so that no test runs a program older than its source.
///
/// # Panics
/// When it cannot be built.
pub fn built_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match env::var_os("DIOLKOS") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// Builds the workspace in the profile that this test itself was built in.
fn build() -> PathBuf {
    let this = env::current_exe().expect("the system names the running program");
    // TARGET/PROFILE/deps/TEST
    let profile = this.parent().and_then(Path::parent).expect("cargo runs tests from `deps`");
    let name = match profile.file_name().and_then(OsStr::to_str) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--exclude", "xtask", "--profile", name])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .stdin(Stdio::null())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the program under test cannot be built");
    profile.join("diolkos")
}

/// A directory that holds all that a program run in it reads and writes outside its arguments.
pub struct Home(TempDir);

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// Makes an empty home.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("there is a temporary directory"));
        for directory in ["config", "data", "cache", "run", "tmp"] {
            fs::create_dir(home.path(directory)).expect("the home was just made");
        }
        fs::write(home.path("auth.json"), "{}").expect("the home was just made");
        fs::write(home.path("registries.conf"), "").expect("the home was just made");
        home
    }

    /// Returns the path of something in the home.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns `TRANSPORT:PATH`, with the path in the home.
    pub fn reference(&self, transport: &str, path: &str) -> String {
        format!("{transport}:{}", self.path(path).display())
    }

    /// Prepares a program to run here, with nothing of this process's environment but its
    /// search path.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin".into()))
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("REGISTRY_AUTH_FILE", self.path("auth.json"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    /// Prepares the program under test.
    pub fn diolkos(&self) -> Command {
        self.image_program(built_program())
    }

    /// Lets the program under test copy an image, over plain HTTP where registries are involved.
    #[track_caller]
    pub fn copy(&self, flags: &[&str], source: &str, destination: &str) -> Outcome {
        self.copy_command(flags, source, destination).run()
    }

    /// Prepares what [`Home::copy`] runs.
    pub fn copy_command(&self, flags: &[&str], source: &str, destination: &str) -> Command {
        let mut command = self.diolkos();
        command.arg("copy");
        for (reference, flag) in
            [(source, "--src-tls-verify=false"), (destination, "--dest-tls-verify=false")]
        {
            if reference.starts_with("docker:") {
                command.arg(flag);
            }
        }
        command.args(flags).args([source, destination]);
        command
    }

    /// Prepares skopeo, accepting every image.
    pub fn skopeo(&self) -> Command {
        let mut command = self.image_program("skopeo");
        command.arg("--insecure-policy");
        command
    }

    /// Prepares podman or buildah with a storage of its own.
    pub fn with_storage(&self, program: &str) -> Command {
        let mut command = self.command(program);
        command.arg("--root").arg(self.path("storage"));
        command.arg("--runroot").arg(self.path("run/storage")).args(["--storage-driver", "vfs"]);
        command
    }

    /// Returns the digest of an image's config, and the diff IDs in it, by way of a copy to a layout
    /// that must be sound.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[track_caller]
    pub fn identity(&self, flags: &[&str], reference: &str) -> (String, Value) {
        // The directory may not be there yet.
        let _ = fs::remove_dir_all(self.path("identity"));
        self.copy(flags, reference, "oci:identity:1").expect_success();
        let layout = Layout::new(self.path("identity"));
        assert!(layout.unsound().expect("it was just written").is_empty(), "{reference}");
        let manifest = layout.manifest("1").expect("it was just written");
        let digest = manifest["config"]["digest"].as_str().expect("it has a config").to_owned();
        let config = layout.blob(&digest).expect("it was just written");
        let config: Value = serde_json::from_slice(&config).expect("a config is JSON");
        (digest, config["rootfs"]["diff_ids"].clone())
    }

    /// A program that keeps the blob info cache, whose place for root is not below any home
    /// unless it believes to be in a user namespace.
    fn image_program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        command.env("_CONTAINERS_ROOTLESS_UID", "1000");
        command
    }
}

/// How a program ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

#[expect(clippy::return_self_not_must_use, reason = "most callers only insist")]
impl Outcome {
    /// Returns this outcome if the program succeeded.
    ///
    /// # Panics
    /// When it did not, with all that it wrote.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }

    /// Returns this outcome if the exit code is the given one.
    ///
    /// # Panics
    /// When it is not, with all that the program wrote.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "`{}`\nstdout: {}\nstderr: {}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Returns this outcome if all of these words are on standard error.
    ///
    /// # Panics
    /// When one is missing, with all that the program wrote.
    #[track_caller]
    pub fn expect_words(self, words: &[&str]) -> Self {
        for word in words {
            let (command, said) = (&self.command, &self.stderr);
            assert!(said.contains(word), "`{command}` does not say `{word}`: {said}");
        }
        self
    }

    /// Returns this outcome if none of these secrets were written anywhere.
    ///
    /// # Panics
    /// When one was, with where.
    #[track_caller]
    pub fn expect_secrecy(self, secrets: &[&str]) -> Self {
        for secret in secrets {
            for said in [&self.stdout, &self.stderr] {
                assert!(!said.contains(secret), "`{}` shows `{secret}`: {said}", self.command);
            }
        }
        self
    }

    /// Returns standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("`{}`: {error}: {}", self.command, self.stdout))
    }
}

/// Runs a prepared command to its end.
pub trait Run {
    /// Runs it and collects what it writes.
    ///
    /// # Panics
    /// When it cannot be started.
    fn run(&mut self) -> Outcome;

    /// Runs it and insists on success.
    ///
    /// # Panics
    /// When it fails, with all that it wrote.
    #[track_caller]
    fn succeed(&mut self) -> Outcome {
        self.run().expect_success()
    }
}

impl Run for Command {
    fn run(&mut self) -> Outcome {
        let arguments: Vec<_> = std::iter::once(self.get_program())
            .chain(self.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let command = arguments.join(" ");
        let output = self.output().unwrap_or_else(|error| panic!("`{command}`: {error}"));
        Outcome {
            command,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
