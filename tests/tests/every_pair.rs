//! Images from every transport to every other, and what they are afterwards.

use std::fs;

use diolkos_tests::{
    DockerDaemon, DockerRegistry, Format, Home, Image, Layer, Packing, Store, is_root, require,
};
use serde_json::Value;

/// What an image has to be after every hop: its config's digest, and the diff IDs in it.
type Identity = (String, Value);

struct World {
    home: Home,
    registry: Option<DockerRegistry>,
    daemon: Option<DockerDaemon>,
}

impl World {
    fn start() -> Self {
        let registry = require("docker-registry").and_then(|_| DockerRegistry::start().ok());
        Self { home: Home::new(), registry, daemon: DockerDaemon::start() }
    }

    /// Returns where a transport keeps an image of this name; `None` for one that is not there.
    fn place(&self, transport: &str, name: &str) -> Option<String> {
        Some(match transport {
            "docker" => self.registry.as_ref()?.reference(&format!("{name}:1")),
            "docker-daemon" => self.daemon.as_ref().map(|_| format!("docker-daemon:{name}:1"))?,
            "dir" => format!("dir:{name}"),
            // Its trees have files of other owners.
            "containers-storage" => is_root().then(|| {
                let store = Store::new(&self.home, "overlay", "store");
                store.reference(&format!("localhost/{name}:1"))
            })?,
            other => format!("{other}:{name}.{other}:{name}:1"),
        })
    }

    /// Returns the flags that say which daemon is meant.
    fn flags(&self) -> [String; 4] {
        let host = self.daemon.as_ref().map(DockerDaemon::host).unwrap_or_default();
        ["--src-daemon-host".into(), host.clone(), "--dest-daemon-host".into(), host]
    }

    fn copy(&self, from: &str, to: &str) {
        self.home.copy(&self.flags().each_ref().map(String::as_str), from, to).expect_success();
    }

    fn identity(&self, reference: &str) -> Identity {
        self.home.identity(&self.flags().each_ref().map(String::as_str), reference)
    }
}

const BOTH_WAYS: [&str; 7] = [
    "oci",
    "dir",
    "docker",
    "docker-archive",
    "oci-archive",
    "docker-daemon",
    "containers-storage",
];

fn survives(packing: Packing) {
    let world = World::start();
    let image = Image::hard_things(Format::Oci, packing);
    image.write_layout(&world.home.path("first"), "1").unwrap();
    // A config that was a Docker one becomes an OCI one again with its members in another order, and
    // is the same from then on.
    world.copy("oci:first:1", "docker-archive:once.tar");
    world.copy("docker-archive:once.tar", "oci:in:1");
    let expected = world.identity("oci:in:1");
    let mut pairs = 0;
    for source in BOTH_WAYS {
        let Some(from) = world.place(source, &format!("from-{source}")) else { continue };
        world.copy("oci:in:1", &from);
        assert_eq!(world.identity(&from), expected, "{from}");
        for destination in BOTH_WAYS {
            let name = format!("{source}-to-{destination}");
            let Some(to) = world.place(destination, &name) else { continue };
            world.copy(&from, &to);
            assert_eq!(world.identity(&to), expected, "{from} to {to}");
            pairs += 1;
        }
    }
    assert!(pairs >= 16, "{pairs}");
    assert_eq!(fs::read_dir(world.home.path("tmp")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn an_image_with_gzip_layers_survives_between_every_pair_of_transports() {
    survives(Packing::Gzip);
}

#[test]
fn an_image_with_zstd_layers_survives_between_every_pair_of_transports() {
    survives(Packing::Zstd);
}

#[test]
fn an_image_with_uncompressed_layers_survives_between_every_pair_of_transports() {
    survives(Packing::Plain);
}

#[test]
fn what_is_made_of_files_reaches_every_transport() {
    let world = World::start();
    fs::write(world.home.path("files.tar"), Layer::new().file("a", "b").tar()).unwrap();
    world.copy("tarball:files.tar", "docker-archive:once.tar");
    let expected = world.identity("docker-archive:once.tar");
    for destination in BOTH_WAYS {
        let Some(to) = world.place(destination, "files") else { continue };
        world.copy("tarball:files.tar", &to);
        world.copy(&to, "docker-archive:again.tar");
        assert_eq!(world.identity("docker-archive:again.tar"), expected, "{to}");
        fs::remove_file(world.home.path("again.tar")).unwrap();
    }
}
