//! Removing an image, and the layers that nothing else needs.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use diolkos_formats::files::{failed, read_if_any};
use diolkos_sdk::{Error, ErrorKind, Host, Result, Session};
use serde::Deserialize;

use crate::reference::{StorageRef, is_id};
use crate::store::lock::Lock;
use crate::store::records::{Image, Layer, Records};
use crate::store::temporary::Temporary;
use crate::store::{Store, broken};

/// The largest file of records that is read, in bytes.
const MOST: u64 = 256 << 20;

/// What of a container's record counts here.
#[derive(Debug, Deserialize)]
pub(crate) struct Container {
    id: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    layer: String,
}

/// Removes an image with all its names.
///
/// # Errors
/// [`ErrorKind::ImageNotFound`]; [`ErrorKind::Conflict`] for one that a container uses or that is
/// mounted; [`ErrorKind::Unsupported`] for one of a home that is only read.
pub(crate) fn delete(reference: &StorageRef, session: &Session) -> Result<()> {
    let (store, host) = (&reference.store, &session.host);
    store.may_be_written()?;
    let found = reference.find(host, |_, _| false)?;
    if found.home != store.root() {
        let message = format!("the image is in {}, which is only read", found.home.display());
        return Err(Error::unsupported(message));
    }
    let id = &found.image.id;
    if !is_id(id) {
        return Err(broken(format!("`{id}` is no image's ID")));
    }
    let trees = Temporary::new(&store.temporary_root())?;
    let deleted = delete_image(store, id, &trees, host);
    store.leave(vec![trees]);
    deleted
}

fn delete_image(store: &Store, id: &str, trees: &Temporary, host: &Host) -> Result<()> {
    {
        let mut layers = store.write(host)?;
        let mut writing = store.write_images(host)?;
        let images = &mut writing.records;
        let Some(at) = images.0.iter().position(|record| record.value.id == id) else {
            let message = format!("image {id} was removed meanwhile");
            return Err(Error::new(ErrorKind::ImageNotFound, message));
        };
        let containers = containers(store, host)?;
        if let Some(user) = containers.iter().find(|container| container.image == id) {
            let message = format!("image used by {}: image is in use by a container", user.id);
            return Err(Error::new(ErrorKind::Conflict, message)
                .with_hint(format!("remove the container first: `podman rm {}`", user.id)));
        }
        let image = images.0.remove(at).value;
        let unneeded = unneeded(&image, images, layers.records().collect(), &containers);
        if let Some(mounted) = unneeded.iter().find(|layer| is_mounted(store, layer)) {
            let message = format!("the image is mounted (layer {mounted})");
            return Err(Error::new(ErrorKind::Conflict, message)
                .with_hint("unmount it first: `podman image unmount`"));
        }
        writing.save()?;
        let dir = store.image_dir(store.root(), id);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &dir, error));
            }
            _ => {}
        }
        layers.remove(&unneeded, trees)?;
        host.debug(format!("deleted image {id} and {} layers", unneeded.len()));
    }
    Ok(())
}

/// Lists the layers that go with an image, topmost first.
fn unneeded(
    image: &Image,
    others: &Records<Image>,
    layers: Vec<&Layer>,
    containers: &[Container],
) -> Vec<String> {
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut by_id = BTreeMap::new();
    for layer in layers {
        children.entry(&layer.parent).or_default().push(&layer.id);
        by_id.insert(layer.id.as_str(), layer);
    }
    let others = others.0.iter().map(|record| &record.value);
    let tops: HashSet<&str> = others
        .flat_map(|other| other.mapped_layers.iter().chain([&other.top_layer]))
        .map(String::as_str)
        .collect();
    let of_containers: HashSet<&str> = containers.iter().map(|it| it.layer.as_str()).collect();
    let mut going: Vec<String> = image.mapped_layers.clone();
    going.retain(|id| by_id.contains_key(id.as_str()));
    let mut id = image.top_layer.as_str();
    while let Some(layer) = by_id.get(id) {
        let is_needed = |of: &str| {
            let above = children.get(of).into_iter().flatten();
            above.into_iter().any(|child| !going.iter().any(|gone| gone == child))
        };
        let mapped = image.mapped_layers.iter().filter(|_| id == image.top_layer);
        let has_children = is_needed(id) || mapped.into_iter().any(|id| is_needed(id));
        if of_containers.contains(id) || tops.contains(id) || has_children {
            break;
        }
        going.push(id.to_owned());
        id = &layer.parent;
    }
    going
}

/// Reads who uses images.
fn containers(store: &Store, host: &Host) -> Result<Vec<Container>> {
    let dir = store.containers_dir();
    let _lock = Lock::read(&dir.join("containers.lock"), host)?;
    let mut containers = Vec::new();
    for name in ["containers.json", "volatile-containers.json"] {
        containers.extend(read_containers(&dir.join(name))?);
    }
    Ok(containers)
}

pub(crate) fn read_containers(path: &Path) -> Result<Vec<Container>> {
    let bytes = read_if_any(path, MOST)?.unwrap_or_default();
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let found: Option<Vec<Container>> = serde_json::from_slice(&bytes)
        .map_err(|error| broken(format!("{} makes no sense", path.display())).with_source(error))?;
    Ok(found.unwrap_or_default())
}

/// Tells whether a layer is mounted, where programs mount them. Those in another mount namespace do
/// not show.
fn is_mounted(store: &Store, layer: &str) -> bool {
    let merged = store.tree(store.root(), layer).with_file_name("merged");
    let merged = merged.canonicalize().unwrap_or(merged);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = merged.display().to_string();
    let path = escaped(&path);
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*path))
}

/// Writes a path as `/proc/self/mountinfo` has it: see proc(5).
fn escaped(path: &str) -> String {
    let escape = |byte| format!("\\{byte:03o}");
    path.chars()
        .map(|c| match c {
            ' ' | '\t' | '\n' | '\\' => escape(u32::from(c)),
            c => c.into(),
        })
        .collect()
}
