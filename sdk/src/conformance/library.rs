//! Finds the plugin library of the package under test, or has cargo build it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::abi::{LoadedPlugin, load};

/// Loads the library of a package from that package's own tests.
///
/// # Panics
/// The library cannot be found, built or loaded: a test that cannot load must not pass.
pub fn load_own(package: &str, manifest_dir: &str) -> LoadedPlugin {
    let path = find_or_build(package, manifest_dir);
    load(&path).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Returns the file of a package's plugin library.
///
/// Cargo puts it beside the tests that link the same package; where it did not, as for tests
/// within the library itself, it is built.
///
/// # Panics
/// Cargo does not make the library.
pub fn find_or_build(package: &str, manifest_dir: &str) -> PathBuf {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*built {
        return path.clone();
    }
    let path = beside_the_test(package).unwrap_or_else(|| build(package, manifest_dir));
    *built = Some(path.clone());
    path
}

fn beside_the_test(package: &str) -> Option<PathBuf> {
    let file = format!(
        "{}{}{}",
        std::env::consts::DLL_PREFIX,
        package.replace('-', "_"),
        std::env::consts::DLL_SUFFIX
    );
    let test = std::env::current_exe().ok()?;
    // Only the folder of the test itself: a library elsewhere may be of an older build.
    let path = test.parent()?.join(file);
    path.is_file().then_some(path)
}

fn build(package: &str, manifest_dir: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--lib", "--message-format=json", "--manifest-path"])
        .arg(Path::new(manifest_dir).join("Cargo.toml"))
        .args(["--package", package])
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot start cargo: {error}"));
    assert!(output.status.success(), "cargo cannot build `{package}`");
    library_in(&String::from_utf8_lossy(&output.stdout), package).unwrap_or_else(|| {
        panic!("`{package}` makes no plugin library: its crate-type needs `cdylib`")
    })
}

/// Looks for the library among cargo's messages.
fn library_in(messages: &str, package: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == package.replace('-', "_"))
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.extension().is_some_and(|ending| ending == "so" || ending == "dylib"))
}
