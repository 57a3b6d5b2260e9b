//! Where configuration is looked for: the environment of this process, as a value.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variables and directories that configuration files are found by.
///
/// A variable that is set to nothing counts as not set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Places {
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `$REGISTRY_AUTH_FILE`.
    pub auth_file: Option<PathBuf>,
    /// `$DOCKER_CONFIG`, the directory of Docker's config.json.
    pub docker_config: Option<PathBuf>,
    /// `$CONTAINERS_REGISTRIES_CONF`.
    pub registries_conf: Option<PathBuf>,
    /// `$PATH`, where helper programs are.
    pub path: Option<OsString>,
    /// `/etc`, but for tests.
    pub etc: PathBuf,
    /// `/run`, but for tests.
    pub run: PathBuf,
    /// The user that the process runs as.
    pub uid: u32,
}

impl Places {
    /// Reads the environment of this process.
    pub fn current() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            home: path("HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            auth_file: path("REGISTRY_AUTH_FILE"),
            docker_config: path("DOCKER_CONFIG"),
            registries_conf: path("CONTAINERS_REGISTRIES_CONF"),
            path: env::var_os("PATH"),
            etc: PathBuf::from("/etc"),
            run: PathBuf::from("/run"),
            uid: rustix::process::getuid().as_raw(),
        }
    }

    /// Returns places below one directory, in which nothing is set: a world for a test.
    #[cfg(test)]
    pub fn below(root: &Path) -> Self {
        Self {
            home: Some(root.join("home")),
            config_home: None,
            runtime_dir: None,
            auth_file: None,
            docker_config: None,
            registries_conf: None,
            path: None,
            etc: root.join("etc"),
            run: root.join("run"),
            uid: 1000,
        }
    }

    /// Returns `~/.config/containers`, wherever `$XDG_CONFIG_HOME` says that `~/.config` is.
    pub fn user_containers(&self) -> Option<PathBuf> {
        let config = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        config.map(|config| config.join("containers"))
    }

    /// Returns `/etc/containers`.
    pub fn system_containers(&self) -> PathBuf {
        self.etc.join("containers")
    }

    /// Returns a path below the user's home.
    pub fn in_home(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }
}
