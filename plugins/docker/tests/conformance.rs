//! The conformance kit, against the registry that most people run; where none is installed,
//! against one in memory.

mod support;

use std::path::Path;

use diolkos_sdk::Transport;
use diolkos_sdk::conformance::{Recipe, Verdict, find, library, run};
use support::memory::Memory;
use support::real::registry;
use support::server::Server;

/// What does not hold of a registry, which has no staging: the manifest is visible from when it is
/// put. Putting it only with the commit would hide from the engine which types the registry
/// refuses; putting it twice would cost every copy a request.
const VISIBLE_BEFORE_COMMIT: [&str; 3] = [
    "without_commit_a_new_image_is_not_there",
    "without_commit_an_old_image_stays_as_it_was",
    // Its signatures are refused after the manifest; the engine asks before.
    "signatures_come_back_or_are_refused",
];

fn host() -> String {
    if let Some(registry) = registry() {
        return registry.host.clone();
    }
    let memory = Memory::default();
    Server::start(move |seen| memory.answer(seen)).host()
}

fn judge(way: &str, transport: Box<dyn Transport>) {
    let host = host();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml");
    let mut recipe = Recipe::new(manifest, "docker", way);
    recipe.options([("tls-verify", "false")]);
    recipe.reference(move |dir: &Path, n: u32| {
        let id = dir.file_name().expect("a scratch directory has a name").to_string_lossy();
        format!("//{host}/check/{id}/{n}:latest")
    });
    let report = run(&recipe.subject(transport));
    for (name, verdict) in &report.verdicts {
        let excepted = VISIBLE_BEFORE_COMMIT.contains(name);
        match verdict {
            Verdict::Failed(_) => assert!(excepted, "{report}"),
            Verdict::Passed => assert!(!excepted, "`{name}` is no exception any more"),
            Verdict::DoesNotApply(_) => {}
        }
    }
}

#[test]
fn the_transport_conforms() {
    judge("directly", find(diolkos_docker::plugin().transports, "docker"));
}

#[test]
fn the_transport_conforms_through_the_abi() {
    let linked = diolkos_sdk::abi::linked(env!("CARGO_PKG_NAME"), diolkos_docker::plugin)
        .expect("the plugin makes its transports");
    judge("through the ABI", find(linked, "docker"));
}

#[test]
fn the_transport_conforms_as_a_loaded_library() {
    let loaded = library::load_own(env!("CARGO_PKG_NAME"), env!("CARGO_MANIFEST_DIR"));
    judge("loaded", find(loaded.transports, "docker"));
}
