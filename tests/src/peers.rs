//! Other programs that tests need.

use std::env;
use std::path::PathBuf;

/// Says whether this is a continuous integration run, where a missing program is a failure.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Finds a program; `None` means that the test is to be skipped.
///
/// # Panics
/// When the program is absent in CI: a test that is always skipped there tests nothing.
pub fn require(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        let message = format!("{program} is not installed; `cargo xtask test` installs it");
        assert!(!in_ci(), "{message}");
        eprintln!("skipped: {message}");
    }
    found
}

/// Says whether this process is root.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// Says whether a test that needs root may run, with the reason on stderr if not.
pub fn require_root() -> bool {
    let root = is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Looks in the search path, and where Debian keeps what only root uses.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
