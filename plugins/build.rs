//! Puts a plugin's manifest beside its library in cargo's target directory, so that a program run
//! from the build tree finds its plugins there as it would once installed.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=plugin.toml");
    let name = env::var("CARGO_PKG_NAME").expect("cargo sets the package's name");
    let name = name.strip_prefix("diolkos-").unwrap_or(&name).to_owned();
    let source = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets the directory"))
        .join("plugin.toml");
    // OUT_DIR is PROFILE/build/PACKAGE-HASH/out.
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets the output directory"));
    let profile = out.ancestors().nth(3).expect("OUT_DIR is four levels deep");
    let text = fs::read_to_string(&source)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", source.display()));
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets the package's version");
    assert!(
        text.contains(&format!("version = \"{version}\"")),
        "{} does not carry the package's version {version}",
        source.display()
    );
    fs::write(profile.join(format!("{name}.toml")), text)
        .unwrap_or_else(|error| panic!("cannot write the manifest of {name}: {error}"));
}
