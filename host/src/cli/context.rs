//! What every command has: the installed transports, the global flags, and the way to the user.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use diolkos_sdk::{Error, ErrorKind, Host, HostServices, LogLevel, PlatformChoice, Result};

use super::args::is_on;
use super::console::{Console, Personality};
use super::flags::one;
use super::signals::Cancellation;
use crate::plugin::Transports;
use crate::trust::Policy;

/// What a command works with.
pub struct Context {
    /// The transports that are installed.
    pub transports: Transports,
    /// The flags of the whole program.
    pub globals: Globals,
    /// Where messages go.
    pub console: Arc<Console>,
    /// Whether the user or a time limit has stopped the command.
    pub cancellation: Cancellation,
    /// What plugins get of this: log and cancellation.
    pub host: Host,
    /// Flags of plugins that had to be left out, of the command that runs or of all.
    pub problems: Vec<String>,
}

/// The flags of the whole program.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    /// `--policy`.
    pub policy: Option<PathBuf>,
    /// `--insecure-policy`.
    pub insecure_policy: bool,
    /// `--require-signed`.
    pub require_signed: bool,
    /// `--override-os`, `--override-arch` and `--override-variant`.
    pub platform: PlatformChoice,
    /// `--command-timeout`.
    pub timeout: Option<Duration>,
    /// `--tmpdir`.
    pub temp_dir: PathBuf,
    /// The deprecated `--tls-verify` before the command.
    pub tls_verify: Option<bool>,
}

impl Globals {
    /// Reads the global flags; `root` has those before the command, `leaf` all of them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for flags that exclude each other.
    pub fn read(root: &ArgMatches, leaf: &ArgMatches) -> Result<Self> {
        let text = |long| one::<String>(leaf, long).filter(|text| !text.is_empty());
        let globals = Self {
            policy: text("policy").map(PathBuf::from),
            insecure_policy: is_on(leaf, "insecure-policy"),
            require_signed: is_on(leaf, "require-signed"),
            platform: PlatformChoice {
                os: text("override-os"),
                architecture: text("override-arch"),
                variant: text("override-variant"),
            },
            timeout: one(leaf, "command-timeout"),
            temp_dir: text("tmpdir").map_or_else(default_temp_dir, PathBuf::from),
            tls_verify: one(root, "tls-verify"),
        };
        if globals.insecure_policy && globals.require_signed {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "--insecure-policy and --require-signed are mutually exclusive",
            ));
        }
        Ok(globals)
    }

    /// Loads the policy that decides which images may be copied.
    ///
    /// # Errors
    /// The file cannot be read, or is no policy.
    pub fn policy(&self) -> Result<Policy> {
        if self.insecure_policy {
            return Ok(Policy::insecure_accept_anything());
        }
        Policy::load(self.policy.as_deref())
    }
}

/// Large files go where the disk is large and a restart does not matter, as skopeo has it.
fn default_temp_dir() -> PathBuf {
    let usual = PathBuf::from("/var/tmp");
    if usual.is_dir() { usual } else { std::env::temp_dir() }
}

impl Context {
    /// Returns how the program talks.
    pub fn personality(&self) -> Personality {
        self.console.personality()
    }

    /// Adds what the command was about to do, `cannot ...`; skopeo does not say that.
    pub fn as_diolkos(&self, error: Error, message: impl FnOnce() -> String) -> Error {
        match self.personality() {
            Personality::Skopeo => error,
            Personality::Diolkos => error.context(message()),
        }
    }

    /// Adds the words that skopeo has around an error; as `diolkos`, the first line says enough.
    pub fn as_skopeo(&self, error: Error, message: impl FnOnce() -> String) -> Error {
        match self.personality() {
            Personality::Skopeo => error.context(message()),
            Personality::Diolkos => error,
        }
    }

    /// Shows a command's help where the arguments are wrong, as skopeo does for some commands.
    pub fn help_on_stderr(&self, name: &str) {
        if self.personality() == Personality::Skopeo {
            let mut line = super::args::command_line(Personality::Skopeo, &self.transports);
            line.command.build();
            if let Some(command) = line.command.find_subcommand_mut(name) {
                self.console.line(command.render_help().to_string().trim_end());
            }
        }
    }
}

/// The services that plugins get.
pub struct Services {
    /// Where their messages go.
    pub console: Arc<Console>,
    /// What stops them.
    pub cancellation: Cancellation,
}

impl HostServices for Services {
    fn is_cancelled(&self) -> bool {
        self.cancellation.why().is_some()
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.console.log(level, message);
    }
}
