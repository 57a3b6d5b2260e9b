//! What a call may use: its options, the host's services, and nothing global.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// The circumstances of one use of an image reference.
#[derive(Clone, Debug)]
pub struct Session {
    /// The transport's own options, as declared in its plugin.toml.
    pub options: Options,
    /// The platform the user prefers, for storages that make an image for one platform.
    pub platform: PlatformChoice,
    /// Where large temporary files may be kept; they are the transport's to remove.
    pub temp_dir: PathBuf,
    /// Cancellation and log.
    pub host: Host,
}

/// What the user said of the platform; `None` means "as this machine".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformChoice {
    /// Operating system.
    pub os: Option<String>,
    /// CPU architecture.
    pub architecture: Option<String>,
    /// CPU variant.
    pub variant: Option<String>,
}

/// Options of a transport by name, each with the values given, in order.
///
/// The host has checked names and types against plugin.toml; a boolean's value is `true` or
/// `false`. An option that the user did not give is absent, defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Vec<String>>);

impl Options {
    /// Adds a value; an option may have several.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().push(value.into());
    }

    /// Returns the last value given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|values| values.last()).map(String::as_str)
    }

    /// Returns all values given, in order.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns a boolean option, `None` when it was not given.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the value is neither `true` nor `false`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("option `{name}` is `true` or `false`, not `{other}`"),
            )),
        }
    }

    /// Iterates over names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut options = Self::default();
        for (name, value) in pairs {
            options.add(name, value);
        }
        options
    }
}

/// How important a log message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Shown with `--debug` only.
    Debug,
    /// Worth knowing; shown with `--debug` only.
    Info,
    /// Something the user should see although the operation goes on.
    Warning,
}

/// What the host does for a plugin. Plugins use it through [`Host`].
pub trait HostServices: Send + Sync {
    /// Tells whether the user or a time limit has stopped the operation.
    fn is_cancelled(&self) -> bool;
    /// Takes a message for the user or the debug log.
    fn log(&self, level: LogLevel, message: &str);
    /// Answers an extension by its name (`"diolkos.something/1"`); unknown names give `None`.
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        let _ = (name, input);
        None
    }
}

/// A handle on the host's services, cheap to clone and usable from any thread.
#[derive(Clone)]
pub struct Host(Arc<dyn HostServices>);

impl Host {
    /// Wraps an implementation; the host and tests do this.
    pub fn new(services: impl HostServices + 'static) -> Self {
        Self(Arc::new(services))
    }

    /// Makes a host that never cancels and drops all messages, for tests.
    pub fn silent() -> Self {
        struct Silent;
        impl HostServices for Silent {
            fn is_cancelled(&self) -> bool {
                false
            }
            fn log(&self, _: LogLevel, _: &str) {}
        }
        Self::new(Silent)
    }

    /// Tells whether the operation was stopped. Long loops ask this at least once a second.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Fails with [`ErrorKind::Cancelled`] when the operation was stopped.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the operation was stopped"));
        }
        Ok(())
    }

    /// Logs for `--debug`.
    pub fn debug(&self, message: impl AsRef<str>) {
        self.0.log(LogLevel::Debug, message.as_ref());
    }

    /// Logs for `--debug`, more important.
    pub fn info(&self, message: impl AsRef<str>) {
        self.0.log(LogLevel::Info, message.as_ref());
    }

    /// Tells the user.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.0.log(LogLevel::Warning, message.as_ref());
    }

    /// Passes a message of the given level on.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level, message);
    }

    /// Asks the host for an ability that ABI 1.0 does not have; `None` when it has not either.
    pub fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        self.0.extension(name, input)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}
