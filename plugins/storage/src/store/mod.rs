//! The store: where it is, what is in it, and how it is changed.
//!
//! - [`driver`]: how layers are kept. [`lock`]: the lock files. [`records`]: `layers.json` and
//!   `images.json`. [`temporary`]: trees that come and go.
//! - [`layers`]: the table of layers; making and removing them under its lock.
//! - [`images`]: the table of images, and finding one. [`big_data`]: the files of an image.
//! - [`copy_tree`]: copying a tree of files, for the driver vfs.
//!
//! Everything is read from disk when it is needed, under the lock that its writers take, and nothing
//! is kept: others write at any time.

pub(crate) mod big_data;
pub(crate) mod copy_tree;
pub(crate) mod driver;
pub(crate) mod images;
pub(crate) mod layers;
pub(crate) mod lock;
pub(crate) mod records;
pub(crate) mod temporary;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use diolkos_formats::files::failed;
use diolkos_sdk::{Error, ErrorKind, Result};

use self::driver::{Driver, Settings};
use crate::config::StoreOptions;

/// What to do about a store that is somebody else's.
const ANOTHER_STORE: &str =
    "name a store of your own: `containers-storage:[DRIVER@ROOT+RUNROOT]NAME`";

/// A store; it may not be there yet.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    driver: Driver,
    options: StoreOptions,
    settings: Settings,
}

impl Store {
    /// Finds out what kind of store it is.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a driver that is not known here, and
    /// [`ErrorKind::InvalidInput`] for options that make no sense.
    pub fn locate(mut options: StoreOptions) -> Result<Self> {
        for path in [&mut options.root, &mut options.run_root] {
            *path = std::path::absolute(&*path).map_err(|error| failed("open", path, error))?;
        }
        let driver = Driver::choose(&options)?;
        let mut settings = Settings::parse(driver, &options.driver_options)?;
        if driver == Driver::Overlay && settings.mount_program.is_none() {
            settings.mount_program = driver::needed_mount_program(&options.root);
        }
        if options.image_store.as_ref() == Some(&options.root) {
            let message = format!(
                "imagestore {} must either be not set or be different than graphroot",
                options.root.display()
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        // A store that is named twice is one.
        let root = identity(&options.root);
        settings.additional.retain(|home| root.is_none() || identity(home) != root);
        Ok(Self { driver, options, settings })
    }

    /// Returns how layers are kept.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Returns what the driver's options say.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the store's own directory.
    pub fn root(&self) -> &Path {
        &self.options.root
    }

    /// Returns `[DRIVER@ROOT+RUNROOT:OPTIONS]`, with which references begin.
    pub fn spec(&self) -> String {
        let options = &self.options;
        let (root, run_root) = (options.root.display(), options.run_root.display());
        let mut spec = format!("[{}@{root}+{run_root}", self.driver.name());
        if !options.driver_options.is_empty() {
            spec.push(':');
            spec.push_str(&options.driver_options.join(","));
        }
        spec.push(']');
        spec
    }

    /// Returns `[DRIVER@ROOT]`, with which scopes of policies begin.
    pub fn scope(&self) -> String {
        format!("[{}@{}]", self.driver.name(), self.options.root.display())
    }

    /// Fails if this version must not write here.
    pub fn may_be_written(&self) -> Result<()> {
        let because = if self.options.transient {
            Some("the store is transient".to_owned())
        } else if self.options.image_store.is_some() {
            Some("the store keeps its images elsewhere (imagestore)".to_owned())
        } else {
            self.settings.read_only_because.clone()
        };
        match because {
            None => Ok(()),
            Some(why) => Err(Error::unsupported(format!("nothing can be written here: {why}"))
                .with_hint("podman, buildah and skopeo can; images that are there can be read")),
        }
    }

    /// Lists the directories that may have images and layers: the store's own, and those that are
    /// only read.
    pub fn homes(&self) -> impl Iterator<Item = &Path> {
        let own = self.options.image_store.as_deref().into_iter().chain([self.root()]);
        own.chain(self.settings.additional.iter().map(PathBuf::as_path))
    }

    /// Lists the homes that are only read. The store's own directory is none of them, by whatever
    /// name: its locks may be held.
    fn other_homes(&self) -> impl Iterator<Item = &Path> {
        let root = identity(self.root());
        self.homes()
            .filter(move |home| *home != self.root() && (root.is_none() || identity(home) != root))
    }

    /// Returns where the records of layers are in a home.
    fn layers_dir(&self, home: &Path) -> PathBuf {
        home.join(format!("{}-layers", self.driver.name()))
    }

    /// Returns where the records and files of images are in a home.
    fn images_dir(&self, home: &Path) -> PathBuf {
        home.join(format!("{}-images", self.driver.name()))
    }

    /// Returns where the records of containers are.
    pub fn containers_dir(&self) -> PathBuf {
        self.root().join(format!("{}-containers", self.driver.name()))
    }

    /// Returns where the driver keeps a home's layers.
    fn driver_dir(&self, home: &Path) -> PathBuf {
        home.join(self.driver.name())
    }

    /// Returns a layer's directory in a home.
    fn layer_dir(&self, home: &Path, id: &str) -> PathBuf {
        match self.driver {
            Driver::Overlay => self.driver_dir(home).join(id),
            Driver::Vfs => self.driver_dir(home).join("dir").join(id),
        }
    }

    /// Returns the tree of files of a layer in a home.
    pub fn tree(&self, home: &Path, id: &str) -> PathBuf {
        let dir = self.layer_dir(home, id);
        match self.driver {
            Driver::Overlay => dir.join("diff"),
            Driver::Vfs => dir,
        }
    }

    /// Returns the file that makes a layer's archive again. They are in the store's own directory,
    /// also those of layers in an `imagestore`.
    pub fn tar_split(&self, home: &Path, id: &str) -> PathBuf {
        let home =
            if Some(home) == self.options.image_store.as_deref() { self.root() } else { home };
        self.layers_dir(home).join(format!("{id}.tar-split.gz"))
    }

    /// Returns where trees are that come and go.
    pub fn temporary_root(&self) -> PathBuf {
        self.driver_dir(self.root()).join("tempdirs")
    }

    /// Returns where files are that come and go; beside the records, where no mount is in between.
    pub fn temporary_files_root(&self) -> PathBuf {
        self.layers_dir(self.root()).join("tmp")
    }

    /// Tells whether the process lacks power over files that root has.
    pub fn is_confined(&self) -> bool {
        self.options.is_confined
    }

    /// Makes the directories of a store that is not there yet.
    pub fn make(&self) -> Result<()> {
        let driver = self.driver_dir(self.root());
        let in_driver = match self.driver {
            Driver::Overlay => driver.join("l"),
            Driver::Vfs => driver.join("dir"),
        };
        let root = self.root();
        for dir in [
            &self.options.run_root,
            root,
            &driver,
            &in_driver,
            &self.layers_dir(root),
            &self.images_dir(root),
            &self.containers_dir(),
        ] {
            let mode =
                if *dir == in_driver && self.driver == Driver::Overlay { 0o755 } else { 0o700 };
            match fs::DirBuilder::new().recursive(true).mode(mode).create(dir) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(failed("mkdir", dir, error).with_hint(ANOTHER_STORE));
                }
                made => made.map_err(|error| failed("mkdir", dir, error))?,
            }
        }
        if self.settings.mount_program.is_some() && self.driver == Driver::Overlay {
            let flag = driver.join(".has-mount-program");
            fs::write(&flag, "true").map_err(|error| failed("write", &flag, error))?;
        }
        Ok(())
    }

    /// Returns the lock file of the whole store.
    pub fn store_lock(&self) -> PathBuf {
        self.root().join("storage.lock")
    }
}

/// Returns what a directory is known by, whatever links and mounts lead to it; `None` if there is
/// none.
fn identity(dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(dir).ok().map(|found| (found.dev(), found.ino()))
}

/// Makes the error of a store whose parts do not fit together.
pub(crate) fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message.into())
        .with_hint("`podman system check` finds and mends damage, where there is that command")
}
