//! Which layers of an image a daemon has already.
//!
//! Docker passes a layer of an archive over if it has the same one on the same layers below, and
//! does not look whether the archive holds it. It has no way to ask for a layer, but tells the layers
//! of each image. Other programs that speak its language want every layer, and so does Docker where
//! containerd keeps its images.

use std::collections::HashSet;

use diolkos_formats::bytes::sha256;
use diolkos_sdk::{Error, ErrorKind, Reference, Result};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::client::Daemon;

/// How many images are looked at.
const MOST_IMAGES: usize = 32;
/// The drivers that keep layers in the way described above.
const DRIVERS: [&str; 7] =
    ["overlay2", "fuse-overlayfs", "vfs", "btrfs", "zfs", "aufs", "devicemapper"];

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// An image in the list of all.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    created: i64,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// An image as it is told in full.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(rename = "RootFS", default)]
    root_fs: Option<Layers>,
    #[serde(default)]
    graph_driver: Option<Driver>,
    /// Only where containerd keeps the images.
    #[serde(default)]
    descriptor: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Layers {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Driver {
    #[serde(default)]
    name: String,
}

impl Inspected {
    /// Returns how many of these layers it has, from the bottom.
    fn common(&self, diff_ids: &[String]) -> usize {
        let driver = self.graph_driver.as_ref().map_or("", |driver| driver.name.as_str());
        if self.descriptor.is_some() || !DRIVERS.contains(&driver) {
            return 0;
        }
        let layers = self.root_fs.as_ref().and_then(|it| it.layers.as_deref()).unwrap_or_default();
        layers.iter().zip(diff_ids).take_while(|(has, wants)| has == wants).count()
    }
}

/// Returns the positions of the layers that need not be sent, of an image with this config.
///
/// # Errors
/// The daemon does not answer, or the config is none.
pub(crate) async fn layers(
    daemon: &Daemon,
    name: &Reference,
    config: &[u8],
) -> Result<HashSet<u32>> {
    if !daemon.is_docker().await? {
        return Ok(HashSet::new());
    }
    let parsed: Config = serde_json::from_slice(config)
        .map_err(|error| Error::new(ErrorKind::Corrupt, "parsing the config").with_source(error))?;
    let diff_ids = parsed.rootfs.diff_ids;
    let mut most = common(daemon, sha256(config).as_str(), &diff_ids).await?;
    if most < diff_ids.len() {
        let mut looking = JoinSet::new();
        for image in candidates(daemon, name).await? {
            let (daemon, diff_ids) = (daemon.clone(), diff_ids.clone());
            looking.spawn(async move { common(&daemon, &image, &diff_ids).await });
        }
        for found in looking.join_all().await {
            // One may have been removed meanwhile.
            most = most.max(found.unwrap_or(0));
        }
    }
    Ok(without_repeated(&diff_ids, most))
}

async fn common(daemon: &Daemon, image: &str, diff_ids: &[String]) -> Result<usize> {
    let image: Option<Inspected> = daemon.json(&format!("/images/{image}/json")).await?;
    Ok(image.map_or(0, |image| image.common(diff_ids)))
}

/// Returns images that may have layers in common: of the same name first, then the newest.
async fn candidates(daemon: &Daemon, name: &Reference) -> Result<Vec<String>> {
    let mut all: Vec<Listed> = daemon.json("/images/json").await?.unwrap_or_default();
    let prefix = format!("{}:", name.familiar_name());
    let is_other =
        |image: &Listed| !image.repo_tags.iter().flatten().any(|tag| tag.starts_with(&prefix));
    all.sort_by_key(|image| (is_other(image), std::cmp::Reverse(image.created)));
    all.truncate(MOST_IMAGES);
    Ok(all.into_iter().map(|image| image.id).collect())
}

/// Returns the first `count` positions, but for layers that come again behind them: a layer is in the
/// archive once or not at all.
fn without_repeated(diff_ids: &[String], count: usize) -> HashSet<u32> {
    let (has, lacks) = diff_ids.split_at(count.min(diff_ids.len()));
    let positions = (0..).zip(has);
    positions.filter(|(_, layer)| !lacks.contains(layer)).map(|(position, _)| position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn inspected(text: &str) -> Inspected {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn layers_count_from_the_bottom_and_only_where_they_are_kept_as_expected() {
        let layers = r#""RootFS":{"Type":"layers","Layers":["a","b","c"]}"#;
        let docker = inspected(&format!(r#"{{{layers},"GraphDriver":{{"Name":"overlay2"}}}}"#));
        assert_eq!(docker.common(&ids("a b x")), 2);
        assert_eq!(docker.common(&ids("a b c d")), 3);
        assert_eq!(docker.common(&ids("b c")), 0);
        let driver = r#""GraphDriver":{"Name":"overlayfs"}"#;
        assert_eq!(inspected(&format!("{{{layers},{driver}}}")).common(&ids("a")), 0);
        let driver = r#""GraphDriver":{"Name":"overlay2"},"Descriptor":{}"#;
        assert_eq!(inspected(&format!("{{{layers},{driver}}}")).common(&ids("a")), 0);
        assert_eq!(inspected("{}").common(&ids("a")), 0);
    }

    #[test]
    fn a_layer_that_comes_again_is_sent() {
        assert_eq!(without_repeated(&ids("a b a c"), 2), HashSet::from([1]));
        assert_eq!(without_repeated(&ids("a b a c"), 4), HashSet::from([0, 1, 2, 3]));
        assert_eq!(without_repeated(&ids("a"), 9), HashSet::from([0]));
    }
}
