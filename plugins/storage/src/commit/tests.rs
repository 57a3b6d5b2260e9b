//! Somebody removes, at a given moment of a commit, what the image was to rest on. Trees get the
//! owners that layers say, so that these tests need root.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use diolkos_sdk::conformance::drive::{self, session};
use diolkos_sdk::conformance::image::{Content, Family, Image, Recipe, noise, tar};
use diolkos_sdk::{
    BlobRole, BlobWanted, Destination as _, Error, ErrorKind, Host, HostServices, ImageRef as _,
    LogLevel, Result,
};

use crate::config::Places;
use crate::destination::StorageDestination;
use crate::reference::StorageRef;

const RECIPE: Recipe = Recipe { family: Family::Oci, compressed: true };

/// A host that does something when it is asked the given time whether to stop.
struct Meddler {
    /// How often it is still asked before; 0 is never.
    left: Arc<AtomicU32>,
    meddle: Box<dyn Fn() + Send + Sync>,
}

impl HostServices for Meddler {
    fn is_cancelled(&self) -> bool {
        let count = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1) {
            (self.meddle)();
        }
        false
    }

    fn log(&self, _: LogLevel, _: &str) {}
}

/// How the new image gets the layers that the old one has.
#[derive(Clone, Copy, Debug)]
enum Gets {
    Reused,
    Written,
}

struct Meddled {
    dir: tempfile::TempDir,
    driver: &'static str,
    image: Image,
}

impl Meddled {
    fn new(driver: &'static str, layers: u64) -> Self {
        let layer = |n: u64| Content::layer(RECIPE, &tar(&format!("file-{n}"), &noise(n, 5000)));
        let image = Image::of_layers(RECIPE.family, (0..layers).map(layer).collect());
        Self { dir: tempfile::tempdir().unwrap(), driver, image }
    }

    fn reference(&self, name: &str) -> StorageRef {
        let (driver, dir) = (self.driver, self.dir.path().display());
        let details = format!("[{driver}@{dir}/root+{dir}/run]localhost/{name}:latest");
        StorageRef::parse(&details, &Places::of_this_process()).unwrap()
    }

    /// Writes an image of the given layers; commits one of all layers; and removes the first when
    /// the commit asks the given time whether to stop.
    fn commit(&self, old_layers: usize, gets: Gets, asked: u32) -> Result<()> {
        let old = Image::of_layers(RECIPE.family, self.image.layers[..old_layers].to_vec());
        let silent = session(Host::silent());
        drive::push(&self.reference("old"), &silent, &old, &[]).unwrap();
        let old = self.reference("old");
        let meddle = move || old.delete(&session(Host::silent())).unwrap();
        let left = Arc::new(AtomicU32::new(0));
        let host = Host::new(Meddler { left: Arc::clone(&left), meddle: Box::new(meddle) });
        let new = StorageDestination::create(&self.reference("new"), &session(host))?;
        for content in self.image.contents() {
            let wanted = BlobWanted {
                blob: content.descriptor.clone(),
                role: content.role,
                candidates: Vec::new(),
                probably_new: false,
            };
            let may = matches!((gets, content.role), (Gets::Reused, BlobRole::Layer(_)));
            if !may || new.reuse(&wanted)?.is_none() {
                drive::put(&new, content)?;
            }
        }
        new.put_manifest(&self.image.manifest, None)?;
        left.store(asked, Ordering::SeqCst);
        let committed = Box::new(new).commit(&self.image.top()).map(|_| ());
        assert_eq!(left.load(Ordering::SeqCst), 0, "the commit has not asked that often");
        committed
    }

    fn assert_arrived(&self) {
        let pulled = drive::pull(&self.reference("new"), &session(Host::silent()), None).unwrap();
        assert_eq!(pulled.manifest.bytes, self.image.manifest.bytes);
        assert_eq!(pulled.blobs.len(), 1 + self.image.layers.len());
    }

    fn assert_nothing_arrived(&self, error: &Error) {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        let pulled = drive::pull(&self.reference("new"), &session(Host::silent()), None);
        assert_eq!(pulled.unwrap_err().kind(), ErrorKind::ImageNotFound);
        let layers = self.reference("new").store.layers(&Host::silent()).unwrap();
        assert!(layers.find(self.image.layers[0].diff_id.as_ref().unwrap().hex()).is_none());
    }
}

#[test]
fn layers_removed_when_all_seemed_to_be_there_are_made_after_all_if_they_came() {
    for driver in ["overlay", "vfs"] {
        let meddled = Meddled::new(driver, 3);
        meddled.commit(3, Gets::Written, 3).unwrap();
        meddled.assert_arrived();
        let meddled = Meddled::new(driver, 3);
        let error = meddled.commit(3, Gets::Reused, 3).unwrap_err();
        meddled.assert_nothing_arrived(&error);
    }
}

#[test]
fn layers_removed_while_others_are_made_upon_them_are_made_after_all_if_they_came() {
    let meddled = Meddled::new("vfs", 4);
    meddled.commit(3, Gets::Written, 4).unwrap();
    meddled.assert_arrived();
    let meddled = Meddled::new("vfs", 4);
    let error = meddled.commit(3, Gets::Reused, 4).unwrap_err();
    meddled.assert_nothing_arrived(&error);
}
