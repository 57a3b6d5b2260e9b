//! Which crate may use which: the table of the design, compared with what cargo sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every edge between crates of the workspace that may exist. Plugins are matched by their folder.
///
/// The demo and the benchmarks use the same registry and images as the tests do.
fn allowed(from: &Crate, to: &Crate) -> bool {
    matches!(
        (from.kind(), to.kind()),
        ("plugin", "formats" | "network" | "sdk")
            | ("formats" | "network" | "host", "sdk")
            | ("xtask", "tests")
    )
}

struct Crate {
    name: String,
    folder: String,
}

impl Crate {
    fn kind(&self) -> &str {
        match self.folder.as_str() {
            "plugins/formats" => "formats",
            "plugins/network" => "network",
            folder if folder.starts_with("plugins/") => "plugin",
            folder => folder,
        }
    }
}

/// Returns cargo's description of the workspace.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

fn crates(metadata: &Value) -> BTreeMap<String, Crate> {
    let root = metadata["workspace_root"].as_str().expect("cargo names the root");
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| {
            let name = package["name"].as_str().expect("a package has a name").to_owned();
            let manifest = package["manifest_path"].as_str().expect("a package has a manifest");
            let folder = manifest.trim_start_matches(root).trim_start_matches('/');
            let folder = folder.trim_end_matches("/Cargo.toml").to_owned();
            (name.clone(), Crate { name, folder })
        })
        .collect()
}

#[test]
fn crates_use_only_whom_the_design_allows() {
    let metadata = metadata();
    let crates = crates(&metadata);
    let mut wrong = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let from = &crates[package["name"].as_str().expect("a package has a name")];
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // With one's own tests, too: a plugin that needs another for them is tied to it.
            let Some(to) = crates.get(dependency["name"].as_str().unwrap_or_default()) else {
                continue;
            };
            if !allowed(from, to) {
                wrong.insert(format!("{} -> {}", from.name, to.name));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that the design does not allow: {wrong:?}");
    assert!(crates.values().any(|krate| krate.kind() == "plugin"), "no plugin was seen");
}

#[test]
fn only_the_sdk_names_the_library_behind_the_abi() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["name"] == "abi_stable" {
                assert_eq!(name, "diolkos-sdk");
            }
        }
    }
}

#[test]
fn every_plugin_has_the_same_shape() {
    let metadata = metadata();
    for krate in crates(&metadata).values().filter(|krate| krate.kind() == "plugin") {
        let folder = format!("{}/../{}", env!("CARGO_MANIFEST_DIR"), krate.folder);
        let has = |file: &str| Path::new(&folder).join(file).exists();
        for file in ["plugin.toml", "src/lib.rs"] {
            assert!(has(file), "{} lacks {file}", krate.name);
        }
        // One with several transports has a folder for each.
        let text = fs::read_to_string(format!("{folder}/plugin.toml")).expect("it was just seen");
        let transports: Vec<&str> = text
            .lines()
            .skip_while(|line| *line != "[[transport]]")
            .collect::<Vec<_>>()
            .windows(2)
            .filter(|lines| lines[0] == "[[transport]]")
            .filter_map(|lines| {
                lines[1].strip_prefix("name = ")?.trim_matches('"').split('-').next()
            })
            .collect();
        for transport in &transports {
            let place = match transports.len() {
                1 => "src".to_owned(),
                _ => format!("src/{transport}"),
            };
            for file in ["reference.rs", "source.rs"] {
                let file = format!("{place}/{file}");
                assert!(has(&file), "{} lacks {file}", krate.name);
            }
        }
        assert!(!transports.is_empty(), "{} has no transport", krate.name);
    }
}
