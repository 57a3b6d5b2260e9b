//! Where plugin manifests are looked for, in which order.
//!
//! Directories of the user come before those of the system, and within a directory files are
//! sorted by name, so that which one wins never depends on luck. With raised privileges (setuid,
//! file capabilities) only the system's directories count: whoever runs the program must not choose
//! the code that runs with another's rights.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The directories of the system, where packages and administrators install plugins.
const SYSTEM_DIRS: [&str; 2] = ["/usr/local/lib/diolkos/plugins", "/usr/lib/diolkos/plugins"];

/// Why a directory is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Named by `--plugin-dir`.
    Flag,
    /// Named by `DIOLKOS_PLUGIN_PATH`.
    Environment,
    /// The user's data directory.
    UserData,
    /// Where the program itself is.
    Program,
    /// `../lib/diolkos/plugins`, from where the program is.
    ProgramLib,
    /// The system's.
    System,
}

impl Origin {
    /// Tells whether whoever installed the program also fills this directory.
    pub fn is_installed(self) -> bool {
        matches!(self, Self::Program | Self::ProgramLib | Self::System)
    }

    /// Returns a few words for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Flag => "--plugin-dir",
            Self::Environment => "DIOLKOS_PLUGIN_PATH",
            Self::UserData => "user",
            Self::Program => "beside the program",
            Self::ProgramLib => "with the program",
            Self::System => "system",
        }
    }
}

/// One directory of the search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SearchDir {
    /// The directory.
    pub path: PathBuf,
    /// Why it is searched.
    pub origin: Origin,
}

/// What of the process and its environment decides where plugins are looked for.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `DIOLKOS_PLUGIN_PATH`: directories separated by colons.
    pub plugin_path: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The program's own file, links resolved.
    pub program: Option<PathBuf>,
    /// Whether the process has rights that whoever started it has not.
    pub elevated: bool,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn current() -> Self {
        Self {
            plugin_path: std::env::var_os("DIOLKOS_PLUGIN_PATH"),
            data_home: std::env::var_os("XDG_DATA_HOME").map(PathBuf::from),
            home: std::env::var_os("HOME").map(PathBuf::from),
            program: std::env::current_exe().ok(),
            elevated: is_elevated(),
        }
    }

    /// Returns the directories to search, first wins; each once.
    ///
    /// `plugin_dirs` are those of `--plugin-dir`, in the order given.
    pub fn search_dirs(&self, plugin_dirs: &[PathBuf]) -> Vec<SearchDir> {
        let mut dirs = Dirs::default();
        if !self.elevated {
            for path in plugin_dirs {
                dirs.add(std::path::absolute(path).unwrap_or_else(|_| path.clone()), Origin::Flag);
            }
            let listed = self.plugin_path.iter().flat_map(std::env::split_paths);
            for path in listed.filter(|path| !path.as_os_str().is_empty()) {
                dirs.add(std::path::absolute(&path).unwrap_or(path), Origin::Environment);
            }
            // The XDG specification has relative paths ignored.
            let data_home = self.data_home.clone().filter(|path| path.is_absolute());
            let home = self.home.as_deref().filter(|path| path.is_absolute());
            if let Some(data) = data_home.or_else(|| home.map(|home| home.join(".local/share"))) {
                dirs.add(data.join("diolkos/plugins"), Origin::UserData);
            }
            if let Some(beside) = self.program.as_deref().and_then(Path::parent) {
                dirs.add(beside.to_owned(), Origin::Program);
                if let Some(prefix) = beside.parent() {
                    dirs.add(prefix.join("lib/diolkos/plugins"), Origin::ProgramLib);
                }
            }
        }
        for path in SYSTEM_DIRS {
            dirs.add(path.into(), Origin::System);
        }
        dirs.0
    }
}

#[derive(Default)]
struct Dirs(Vec<SearchDir>);

impl Dirs {
    fn add(&mut self, path: PathBuf, origin: Origin) {
        match self.0.iter_mut().find(|dir| dir.path == path) {
            // `/usr/bin/diolkos` has the system's directory as its own; it counts as the system's.
            Some(known) if origin == Origin::System && known.origin == Origin::ProgramLib => {
                known.origin = origin;
            }
            Some(_) => {}
            None => self.0.push(SearchDir { path, origin }),
        }
    }
}

/// Tells whether the process runs with rights that whoever started it has not.
fn is_elevated() -> bool {
    if rustix::process::getuid() != rustix::process::geteuid()
        || rustix::process::getgid() != rustix::process::getegid()
    {
        return true;
    }
    match std::fs::read("/proc/self/auxv") {
        Ok(vector) => at_secure(&vector),
        // Without /proc there is nothing more to learn; with one that hides our own vector, the
        // kernel protects this process from its user.
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Looks for `AT_SECURE` in an auxiliary vector.
///
/// # Source
/// getauxval(3); elf.h has `AT_SECURE` as 23.
fn at_secure(vector: &[u8]) -> bool {
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    vector.chunks_exact(2 * WORD).any(|pair| {
        let word = |bytes: &[u8]| usize::from_ne_bytes(bytes.try_into().expect("a word's bytes"));
        word(&pair[..WORD]) == AT_SECURE && word(&pair[WORD..]) != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            plugin_path: Some("/e1::/e2:/f".into()),
            data_home: None,
            home: Some("/home/ann".into()),
            program: Some("/opt/diolkos/bin/diolkos".into()),
            elevated: false,
        }
    }

    fn paths(dirs: &[SearchDir]) -> Vec<&str> {
        dirs.iter().map(|dir| dir.path.to_str().unwrap()).collect()
    }

    #[test]
    fn the_users_directories_come_before_the_systems() {
        let dirs = environment().search_dirs(&["/f".into()]);
        assert_eq!(
            paths(&dirs),
            [
                "/f",
                "/e1",
                "/e2",
                "/home/ann/.local/share/diolkos/plugins",
                "/opt/diolkos/bin",
                "/opt/diolkos/lib/diolkos/plugins",
                "/usr/local/lib/diolkos/plugins",
                "/usr/lib/diolkos/plugins",
            ]
        );
        assert_eq!(dirs[0].origin, Origin::Flag);
    }

    #[test]
    fn with_raised_privileges_only_the_systems_count() {
        let dirs = Environment { elevated: true, ..environment() }.search_dirs(&["/f".into()]);
        assert_eq!(paths(&dirs), SYSTEM_DIRS);
    }

    #[test]
    fn the_systems_directory_is_the_systems_even_when_reached_from_the_program() {
        let environment =
            Environment { program: Some("/usr/bin/diolkos".into()), ..Environment::default() };
        let dirs = environment.search_dirs(&[]);
        let system: Vec<_> =
            dirs.iter().filter(|dir| dir.path.starts_with("/usr/lib/diolkos")).collect();
        assert_eq!(system.len(), 1);
        assert_eq!(system[0].origin, Origin::System);
    }

    #[test]
    fn a_relative_data_home_is_ignored() {
        let environment =
            Environment { data_home: Some("data".into()), program: None, ..environment() };
        let dirs = environment.search_dirs(&[]);
        assert!(paths(&dirs).contains(&"/home/ann/.local/share/diolkos/plugins"));
    }

    #[test]
    fn raised_privileges_are_read_from_the_auxiliary_vector() {
        let vector = |value: usize| {
            [6usize, 4096, 23, value, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        let (raised, plain): (Vec<u8>, Vec<u8>) = (vector(1), vector(0));
        assert!(at_secure(&raised) && !at_secure(&plain) && !at_secure(b"odd"));
    }
}
