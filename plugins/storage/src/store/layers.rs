//! The layers of a store: finding, making and removing them.
//!
//! A layer is made in a temporary tree, whole, before anything of it can be seen. Then, under the
//! lock: it is recorded with the flag `incomplete`; its tree and its tar-split are moved to their
//! places; the flag goes. Whoever next writes to the store removes incomplete layers, so that a kill
//! at any moment costs the layer and nothing else. Removing goes the same way back.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use diolkos_formats::files::{failed, read_if_any};
use diolkos_sdk::{Digest, Error, ErrorKind, Host, Result};

use super::driver::Driver;
use super::lock::{Lock, random};
use super::records::{INCOMPLETE, Layer, Record, Records};
use super::temporary::{self, Temporary};
use super::{Store, broken};
use crate::reference::is_id;

/// The most layers that one may be stacked upon.
const MOST_LOWERS: usize = 500;
/// The length of the name of a link to a layer.
const LINK: usize = 26;
/// The largest `link` or `lower` file that is read, in bytes.
const MOST: u64 = 1 << 20;

/// A layer that was found, and the home that it is in.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub layer: Layer,
    pub home: PathBuf,
}

/// The layers of all homes, as they were at one moment.
#[derive(Debug, Default)]
pub(crate) struct Layers(Vec<Found>);

impl Layers {
    /// Finds a layer by its ID.
    pub fn find(&self, id: &str) -> Option<&Found> {
        self.0.iter().find(|found| found.layer.id == id)
    }

    /// Finds a layer by the digest of its archive.
    pub fn by_diff_id(&self, digest: &Digest) -> Option<&Found> {
        self.0.iter().find(|found| found.layer.diff_id.as_ref() == Some(digest))
    }

    /// Finds a layer by the digest of the blob that it was made from.
    pub fn by_blob(&self, digest: &Digest) -> Option<&Found> {
        self.0.iter().find(|found| found.layer.blob.as_ref() == Some(digest))
    }

    /// Returns a layer and those below it, from the bottom.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if one is missing, or they go around in a circle.
    pub fn chain(&self, top: &str) -> Result<Vec<&Found>> {
        let mut chain = Vec::new();
        let mut id = top;
        while !id.is_empty() {
            let found = self.find(id);
            let found = found.ok_or_else(|| broken(format!("layer {id} is not in the store")))?;
            if chain.len() > MOST_LOWERS {
                return Err(broken(format!(
                    "layer {top} has more than {MOST_LOWERS} layers below it"
                )));
            }
            chain.push(found);
            id = &found.layer.parent;
        }
        chain.reverse();
        Ok(chain)
    }
}

/// A layer that is about to be part of the store.
#[derive(Debug)]
pub(crate) struct NewLayer {
    pub layer: Layer,
    /// Its tree: what the layer adds and changes, or for vfs all of it.
    pub tree: PathBuf,
    /// What makes its archive again.
    pub tar_split: PathBuf,
    /// Its archive said what the root is; otherwise it is as the one below.
    pub has_root: bool,
}

impl Store {
    fn layers_lock(&self, home: &Path) -> PathBuf {
        self.layers_dir(home).join("layers.lock")
    }

    /// Reads the records of all homes, but for layers that are not whole.
    pub fn layers(&self, host: &Host) -> Result<Layers> {
        self.layers_of(self.homes(), host)
    }

    /// Tells whether a home that is only read has a layer.
    pub fn has_in_another_home(&self, id: &str, host: &Host) -> Result<bool> {
        Ok(self.layers_of(self.other_homes(), host)?.find(id).is_some())
    }

    fn layers_of<'a>(&self, homes: impl Iterator<Item = &'a Path>, host: &Host) -> Result<Layers> {
        let mut layers = Layers::default();
        let mut ids = HashSet::new();
        for home in homes {
            let _lock = Lock::read(&self.layers_lock(home), host)?;
            for file in ["layers.json", "volatile-layers.json"] {
                for record in Records::<Layer>::read(&self.layers_dir(home).join(file))?.0 {
                    if !record.value.is_incomplete() && ids.insert(record.value.id.clone()) {
                        layers.0.push(Found { layer: record.value, home: home.to_owned() });
                    }
                }
            }
        }
        Ok(layers)
    }

    /// Removes temporary trees, without keeping others from writing meanwhile.
    pub fn leave(&self, trees: Vec<Temporary>) {
        trees.iter().for_each(Temporary::clear);
        // It is not worth waiting for: who writes next does the rest.
        if let Ok(Some(_held)) = Lock::try_write(&self.layers_lock(self.root())) {
            drop(trees);
            self.tidy();
        }
    }

    /// Removes the directory of temporary trees, if nobody uses it: older versions of the library do
    /// not know it, and stumble over it when they mend an overlay's links. Newer ones make it outside
    /// all locks and may find it gone, which is why the others stay.
    fn tidy(&self) {
        if self.driver() == Driver::Overlay {
            let _ = fs::remove_dir(self.temporary_root());
        }
    }

    /// Lists the trees below a layer's own, the nearest first, as far as they are there. With vfs a
    /// layer's tree is whole, and there are none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if what says so makes no sense.
    pub fn trees_below(&self, home: &Path, id: &str) -> Result<Vec<PathBuf>> {
        if self.driver() == Driver::Vfs {
            return Ok(Vec::new());
        }
        let links = links_below(&self.layer_dir(home, id))?;
        let tree = |link: &String| {
            let mut paths = self.homes().map(|home| self.driver_dir(home).join("l").join(link));
            paths.find(|path| path.exists())
        };
        Ok(links.iter().filter_map(tree).collect())
    }

    /// Takes the locks under which layers are changed, makes the store if it is not there, and
    /// removes what killed programs have left.
    pub fn write(&self, host: &Host) -> Result<Writing<'_>> {
        self.make()?;
        let store_lock = Lock::write(&self.store_lock(), host)?;
        let lock = Lock::write(&self.layers_lock(self.root()), host)?;
        temporary::recover(&self.temporary_root(), host);
        temporary::recover(&self.temporary_files_root(), host);
        let dir = self.layers_dir(self.root());
        let stable = Records::read_to_write(&dir.join("layers.json"))?;
        let volatile = Records::read_to_write(&dir.join("volatile-layers.json"))?;
        let mut writing = Writing { store: self, lock, _store_lock: store_lock, stable, volatile };
        let incomplete: Vec<String> = writing
            .records()
            .filter(|layer| layer.is_incomplete())
            .map(|layer| layer.id.clone())
            .collect();
        if !incomplete.is_empty() {
            host.debug(format!("removing incomplete layers: {}", incomplete.join(", ")));
            let temporary = Temporary::new(&self.temporary_root())?;
            writing.remove(&incomplete, &temporary)?;
        }
        self.tidy();
        Ok(writing)
    }
}

/// The layers of the store's own home, under their lock.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    store: &'a Store,
    lock: Lock,
    _store_lock: Lock,
    stable: Records<Layer>,
    volatile: Records<Layer>,
}

impl Writing<'_> {
    /// Lists the layers of the store's own home.
    pub fn records(&self) -> impl Iterator<Item = &Layer> {
        self.stable.0.iter().chain(&self.volatile.0).map(|record| &record.value)
    }

    /// Tells whether a layer is in the store's own home.
    pub fn has(&self, id: &str) -> bool {
        self.records().any(|layer| layer.id == id)
    }

    fn save(&self, stable: bool, volatile: bool) -> Result<()> {
        let dir = self.store.layers_dir(self.store.root());
        self.lock.record_write()?;
        if stable {
            self.stable.write(&dir.join("layers.json"))?;
        }
        if volatile {
            self.volatile.write(&dir.join("volatile-layers.json"))?;
        }
        Ok(())
    }

    /// Makes layers part of the store, parents first. On an error, none is.
    pub fn add(&mut self, new: Vec<NewLayer>, temporary: &Temporary) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        for layer in &new {
            let mut record = layer.layer.clone();
            record.flags.insert(INCOMPLETE.into(), true.into());
            self.stable.0.push(Record::new(record));
        }
        let ids: Vec<String> = new.iter().map(|layer| layer.layer.id.clone()).collect();
        let placed = self.save(true, false).and_then(|()| {
            new.iter().try_for_each(|layer| self.place(layer, temporary))?;
            self.sync()
        });
        if let Err(error) = placed {
            // What this leaves, the next one to write removes.
            let _ = self.remove(&ids, temporary);
            return Err(error);
        }
        for record in &mut self.stable.0 {
            if ids.contains(&record.value.id) {
                record.change().flags.remove(INCOMPLETE);
            }
        }
        self.save(true, false)
    }

    fn sync(&self) -> Result<()> {
        if !self.store.settings().syncs {
            return Ok(());
        }
        let root = self.store.root();
        let opened = fs::File::open(root).map_err(|error| failed("open", root, error))?;
        rustix::fs::syncfs(opened).map_err(|error| failed("sync", root, error.into()))
    }

    fn place(&self, new: &NewLayer, temporary: &Temporary) -> Result<()> {
        let (store, layer) = (self.store, &new.layer);
        let dir = store.layer_dir(store.root(), &layer.id);
        // Left by somebody who was killed before there was a record, or after.
        self.take(&layer.id, temporary)?;
        let moved = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|error| failed("rename", from, error))
        };
        match store.driver() {
            Driver::Vfs => moved(&new.tree, &dir)?,
            Driver::Overlay => {
                let made = temporary.next();
                let link = self.dress(&made, new)?;
                moved(&made, &dir)?;
                let links = store.driver_dir(store.root()).join("l");
                let target = Path::new("..").join(&layer.id).join("diff");
                let path = links.join(link);
                symlink(&target, &path).map_err(|error| failed("symlink", &path, error))?;
            }
        }
        let tar_split = store.tar_split(store.root(), &layer.id);
        moved(&new.tar_split, &tar_split)
    }

    /// Makes the directory that overlay has for a layer, and returns the name of the link to it.
    fn dress(&self, made: &Path, new: &NewLayer) -> Result<String> {
        let write = |name: &str, content: &str| {
            let path = made.join(name);
            fs::write(&path, content).map_err(|error| failed("write", &path, error))
        };
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        let mkdir =
            |path: &Path| private.create(path).map_err(|error| failed("mkdir", path, error));
        mkdir(made)?;
        let diff = made.join("diff");
        fs::rename(&new.tree, &diff).map_err(|error| failed("rename", &new.tree, error))?;
        let parent = &new.layer.parent;
        if parent.is_empty() {
            mkdir(&made.join("empty"))?;
        } else {
            let home = self.home_of(parent)?;
            if !new.has_root {
                inherit(&self.store.tree(&home, parent), &diff)?;
            }
            write("lower", &self.lowers(&home, parent)?)?;
        }
        let links = self.store.driver_dir(self.store.root()).join("l");
        let link = new_link(&links)?;
        write("link", &link)?;
        mkdir(&made.join("work"))?;
        mkdir(&made.join("merged"))?;
        Ok(link)
    }

    /// Returns the home that has the directory of a layer.
    fn home_of(&self, id: &str) -> Result<PathBuf> {
        let has = |home: &&Path| self.store.layer_dir(home, id).is_dir();
        let home = self.store.homes().find(has).map(Path::to_owned);
        home.ok_or_else(|| broken(format!("layer {id} has no directory")))
    }

    /// Returns what a layer upon this one has below it: links, the nearest first.
    fn lowers(&self, home: &Path, parent: &str) -> Result<String> {
        let dir = self.store.layer_dir(home, parent);
        let mut link = link_of(&dir)?;
        let is_own = home == self.store.root();
        if is_own && !link.as_ref().is_some_and(|link| self.has_link(link)) {
            self.mend_links()?;
            link = link_of(&dir)?;
        }
        let link = link.ok_or_else(|| broken(format!("layer {parent} has no link")))?;
        let mut links = links_below(&dir)?;
        if !links.iter().all(|link| self.has_link(link)) {
            self.mend_links()?;
        }
        links.insert(0, link);
        if links.len() > MOST_LOWERS {
            let message = format!("the image has more than {MOST_LOWERS} layers");
            return Err(Error::unsupported(message)
                .with_hint("overlay cannot mount it; the driver vfs can keep it"));
        }
        let lowers: Vec<_> = links.into_iter().map(|link| format!("l/{link}")).collect();
        Ok(lowers.join(":"))
    }

    fn has_link(&self, link: &str) -> bool {
        self.store.homes().any(|home| {
            fs::symlink_metadata(self.store.driver_dir(home).join("l").join(link)).is_ok()
        })
    }

    /// Makes lost links and lost names of links again, as the library does: they are not written to
    /// disk at once, and a machine that stops may lose them.
    fn mend_links(&self) -> Result<()> {
        let driver = self.store.driver_dir(self.store.root());
        let links = driver.join("l");
        let mut by_layer = std::collections::HashMap::new();
        for link in fs::read_dir(&links).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(link.path()) else { continue };
            let parts: Vec<_> = target.iter().collect();
            if let [up, layer, diff] = parts.as_slice()
                && (*up, *diff) == ("..".as_ref(), "diff".as_ref())
            {
                by_layer.insert((*layer).to_owned(), link.file_name());
            }
        }
        for dir in fs::read_dir(&driver).into_iter().flatten().flatten() {
            if !dir.path().join("diff").is_dir() {
                continue;
            }
            let id = dir.file_name();
            let file = dir.path().join("link");
            let link = if let Some(link) = link_of(&dir.path())? {
                link
            } else {
                let link = match by_layer.get(&id) {
                    Some(name) => name.to_string_lossy().into_owned(),
                    None => new_link(&links)?,
                };
                fs::write(&file, &link).map_err(|error| failed("write", &file, error))?;
                link
            };
            let path = links.join(&link);
            if fs::symlink_metadata(&path).is_err() {
                let target = Path::new("..").join(&id).join("diff");
                symlink(&target, &path).map_err(|error| failed("symlink", &path, error))?;
            }
        }
        Ok(())
    }

    /// Moves what there is of a layer out of the store.
    fn take(&self, id: &str, temporary: &Temporary) -> Result<()> {
        if !is_id(id) {
            return Err(broken(format!("`{id}` is no layer's ID")));
        }
        let (store, root) = (self.store, self.store.root());
        let dir = store.layer_dir(root, id);
        if let Some(link) = link_of(&dir)? {
            temporary.take(&store.driver_dir(root).join("l").join(link))?;
        }
        temporary.take(&dir)?;
        // Beside the records lies what is not of the driver; both are on one file system, but
        // perhaps not on one mount.
        for path in [store.tar_split(root, id), store.layers_dir(root).join(id)] {
            let removed = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => Ok(()),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes layers. What cannot be removed stays incomplete, for the next one to try.
    pub fn remove(&mut self, ids: &[String], temporary: &Temporary) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut changed = (false, false);
        for (records, changed) in
            [(&mut self.stable, &mut changed.0), (&mut self.volatile, &mut changed.1)]
        {
            for record in records.0.iter_mut().filter(|it| ids.contains(&it.value.id)) {
                record.change().flags.insert(INCOMPLETE.into(), true.into());
                *changed = true;
            }
        }
        self.save(changed.0, changed.1)?;
        for id in ids {
            self.take(id, temporary)?;
        }
        for records in [&mut self.stable, &mut self.volatile] {
            records.0.retain(|record| !ids.contains(&record.value.id));
        }
        self.save(changed.0, changed.1)
    }
}

/// Gives the root of a layer the mode and owner of the one below.
fn inherit(from: &Path, to: &Path) -> Result<()> {
    let found = fs::metadata(from).map_err(|error| failed("stat", from, error))?;
    std::os::unix::fs::chown(to, Some(found.uid()), Some(found.gid()))
        .map_err(|error| failed("chown", to, error))?;
    let mode = fs::Permissions::from_mode(found.mode() & 0o7777);
    fs::set_permissions(to, mode).map_err(|error| failed("chmod", to, error))
}

/// Reads a small file, `None` if there is none.
fn text(path: &Path) -> Result<Option<String>> {
    let bytes = read_if_any(path, MOST)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()))
}

/// Reads what the link to a layer is called; `None` where nothing says so, or nothing that could be
/// a name.
fn link_of(dir: &Path) -> Result<Option<String>> {
    Ok(text(&dir.join("link"))?.filter(|link| is_plain(link)))
}

/// Reads the names of the links that an overlay's layer has below it, the nearest first; none where
/// there is no file of them.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for what may lead elsewhere.
fn links_below(dir: &Path) -> Result<Vec<String>> {
    let file = dir.join("lower");
    let Some(below) = text(&file)?.filter(|below| !below.is_empty()) else { return Ok(Vec::new()) };
    let links = below.split(':').map(|it| it.strip_prefix("l/").filter(|link| is_plain(link)));
    let links: Option<Vec<_>> = links.map(|link| link.map(str::to_owned)).collect();
    links.ok_or_else(|| broken(format!("{} names what is no link: `{below}`", file.display())))
}

/// Tells whether a text names something in a directory, and nothing elsewhere.
fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Makes up the name of a link that is not there.
fn new_link(links: &Path) -> Result<String> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    loop {
        let mut bytes = [0; LINK];
        random(&mut bytes).map_err(|error| failed("open", Path::new("/dev/urandom"), error))?;
        let name: String =
            bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        if fs::symlink_metadata(links.join(&name)).is_err() {
            return Ok(name);
        }
    }
}

/// Makes the error of a layer that was there and is not any more.
pub(crate) fn gone(id: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("layer {id} was removed from the store meanwhile"))
        .with_hint("run the copy again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_layer_is_named_by_links_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(links_below(dir.path()).unwrap().is_empty());
        let write = |text: &str| fs::write(dir.path().join("lower"), text).unwrap();
        write("l/AB:l/CD\n");
        assert_eq!(links_below(dir.path()).unwrap(), ["AB", "CD"]);
        for text in ["l/AB:", "l/..", "l/../../x", "AB", "/l/AB", "l/AB:x", "l/"] {
            write(text);
            let error = links_below(dir.path()).unwrap_err();
            assert!(error.message().contains("names what is no link"), "{text}: {error:?}");
        }
    }
}
