//! What versions of Docker before 1.10 read: a directory for each layer, and `repositories`.
//!
//! Newer ones, podman and skopeo read `manifest.json` and pass these over.
//!
//! # Source
//! Docker image specification 1.0 and 1.1.

use std::collections::BTreeMap;

use diolkos_formats::bytes::sha256;
use diolkos_formats::tar::TarWriter;
use diolkos_sdk::{Digest, Error, ErrorKind, Reference, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The name of the list of names.
pub(crate) const REPOSITORIES: &str = "repositories";
/// The longest name that a link can have in these archives, in bytes.
const LONGEST_TARGET: usize = 100;
/// What the top layer tells of the image.
const OF_CONFIG: [&str; 7] =
    ["architecture", "config", "container", "container_config", "created", "docker_version", "os"];

/// The directories of an image's layers, the base first.
pub(crate) struct Legacy {
    layers: Vec<Layer>,
}

struct Layer {
    id: String,
    /// The layer's digest.
    digest: Digest,
    json: Vec<u8>,
}

impl Legacy {
    /// Makes them for an image.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the config is no JSON object.
    pub fn of(layers: &[&Digest], config: &[u8]) -> Result<Self> {
        let config: Map<String, Value> = serde_json::from_slice(config).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "unmarshaling config").with_source(error)
        })?;
        let mut made: Vec<Layer> = Vec::new();
        let mut chain: Option<Digest> = None;
        for (index, digest) in layers.iter().enumerate() {
            let mut json = Map::new();
            if let Some(parent) = made.last() {
                json.insert("parent".into(), parent.id.clone().into());
            }
            if index + 1 == layers.len() {
                for name in OF_CONFIG {
                    let value = config.get(name).cloned().unwrap_or(Value::Null);
                    json.insert(name.into(), value);
                }
            }
            let next = match &chain {
                None => (*digest).clone(),
                Some(chain) => sha256(format!("{chain} {digest}").as_bytes()),
            };
            // The ID is a digest of what is told, the whole chain included.
            json.insert("layer_id".into(), next.to_string().into());
            chain = Some(next);
            let id = sha256(Value::Object(json.clone()).to_string().as_bytes()).hex().to_owned();
            json.remove("layer_id");
            json.insert("id".into(), id.clone().into());
            let json = Value::Object(json).to_string().into_bytes();
            made.push(Layer { id, digest: (*digest).clone(), json });
        }
        Ok(Self { layers: made })
    }

    /// Returns the ID of the top layer, which names the image; `None` for one without layers.
    pub fn top(&self) -> Option<&str> {
        self.layers.last().map(|layer| layer.id.as_str())
    }

    /// Adds the directories to an archive.
    ///
    /// `layer_name` tells where a layer is, and `is_there` which files the archive has already.
    pub fn write(
        &self,
        tar: &TarWriter,
        layer_name: impl Fn(&Digest) -> Result<String>,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<()> {
        for layer in self.layers.iter().filter(|layer| !is_there(&format!("{}/json", layer.id))) {
            let target = format!("../{}", layer_name(&layer.digest)?);
            // A link cannot name it, and those who read this do without.
            if target.len() > LONGEST_TARGET {
                continue;
            }
            tar.link(&format!("{}/layer.tar", layer.id), &target)?;
            tar.add(&format!("{}/VERSION", layer.id), b"1.0")?;
            tar.add(&format!("{}/json", layer.id), &layer.json)?;
        }
        Ok(())
    }
}

/// The file `repositories`: the top layer's ID by name and tag.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Repositories(BTreeMap<String, BTreeMap<String, String>>);

impl Repositories {
    /// Names an image.
    pub fn add(&mut self, tag: &Reference, top: Option<&str>) {
        if let (Some(name), Some(top)) = (tag.tag(), top) {
            self.0.entry(tag.name()).or_default().insert(name.to_owned(), top.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_names_the_one_below_and_the_top_one_tells_of_the_image() {
        let digests = [sha256(b"1"), sha256(b"2"), sha256(b"1")];
        let digests: Vec<&Digest> = digests.iter().collect();
        let legacy = Legacy::of(&digests, br#"{"os":"linux","other":1}"#).unwrap();
        let json =
            |index: usize| -> Value { serde_json::from_slice(&legacy.layers[index].json).unwrap() };
        assert_eq!(json(0)["id"], legacy.layers[0].id);
        assert_eq!(json(1)["parent"], legacy.layers[0].id);
        assert_eq!(json(0).get("os"), None);
        assert_eq!(json(2)["os"], "linux");
        assert_eq!(json(2).get("other"), None);
        assert_eq!(json(2).get("layer_id"), None);
        // The same layer in another place is another one.
        assert_ne!(legacy.layers[0].id, legacy.layers[2].id);
        assert_eq!(legacy.top(), Some(legacy.layers[2].id.as_str()));
        assert!(Legacy::of(&[], b"[]").is_err());
    }
}
