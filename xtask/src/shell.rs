//! Running programs, and where things are.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What went wrong, for a person.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Returns the workspace's directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Returns the directory that cargo builds into.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Prepares cargo to run on the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells the programs it runs is about xtask, and would make others build anew.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).current_dir(workspace()).stdin(Stdio::null());
    command
}

/// Builds the program and all plugins in release mode and returns the directory they are in.
pub fn build_release() -> Result<PathBuf> {
    let excluded = ["--exclude", "xtask", "--exclude", "diolkos-tests"];
    run(cargo(&["build", "--release", "--workspace"]).args(excluded))?;
    Ok(target().join("release"))
}

/// Runs a command with its output shown, and fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", line(command));
    let status =
        command.status().map_err(|error| format!("cannot run `{}`: {error}", line(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}`: {status}", line(command)).into()) }
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.output().map_err(|error| format!("cannot run `{}`: {error}", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{}`: {}\n{stderr}", line(command), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Says whether a program is in the search path, or where only root's are.
pub fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

/// Returns a command as it would be typed, without its directory.
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Returns a number of bytes as people read it.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2} GB")
}
