//! How layers are kept: the driver, and what its options say.
//!
//! - *overlay*: the files that a layer adds or changes, in `overlay/ID/diff`, stacked by mounting.
//! - *vfs*: a whole tree per layer, in `vfs/dir/ID`, beginning as a copy of the one below.

use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Result};

use crate::config::StoreOptions;

/// A driver whose layers are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Overlay,
    Vfs,
}

/// File systems on which overlay cannot be, by the number that statfs(2) gives.
const NO_GROUND_FOR_OVERLAY: [i64; 3] = [
    0x794c_7630, /* overlay */
    0x6182_3661, /* aufs, as it is seen */
    0xf15f,      /* ecryptfs */
];

impl Driver {
    /// Returns the name, which files and references have.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Vfs => "vfs",
        }
    }

    fn named(name: &str) -> Result<Self> {
        match name {
            "overlay" | "overlay2" => Ok(Self::Overlay),
            "vfs" => Ok(Self::Vfs),
            other => Err(Error::unsupported(format!(
                "the storage driver `{other}` is not supported, only overlay and vfs are"
            ))
            .with_hint(
                "name another driver in storage.conf, in STORAGE_DRIVER or in the reference",
            )),
        }
    }

    /// Finds the driver of a store: the one named, the one that the store has, or overlay where it
    /// can be.
    pub fn choose(options: &StoreOptions) -> Result<Self> {
        if let Some(name) = &options.driver {
            return Self::named(name);
        }
        let names = ["overlay", "aufs", "btrfs", "devicemapper", "zfs", "vfs"];
        let is_there = |name: &str| options.root.join(name).exists();
        let prior: Vec<&str> = names.into_iter().filter(|name| is_there(name)).collect();
        // Some versions choose vfs for ordinary users, and others overlay: neither is to lock
        // anybody out, so the one with images counts.
        if options.is_confined && options.priority.is_empty() {
            let has_images = |name: &&&str| {
                let records = options.root.join(format!("{name}-images/images.json"));
                std::fs::metadata(records).is_ok_and(|found| found.len() > "[]".len() as u64)
            };
            let found = prior.iter().find(has_images).or(prior.first());
            return found.map_or_else(|| Ok(Self::possible(options)), |name| Self::named(name));
        }
        // Without being asked to, the library does not go on with a vfs that is there.
        let mut wanted = options.priority.iter().map(String::as_str);
        let found = if options.priority.is_empty() {
            prior.iter().copied().find(|name| *name != "vfs")
        } else {
            wanted.find(|name| prior.contains(name))
        };
        match found {
            Some(_) if prior.len() > 1 => Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "{} contains several valid graphdrivers: {}",
                    options.root.display(),
                    prior.join(", ")
                ),
            )
            .with_hint("choose one: `[DRIVER@ROOT]`, STORAGE_DRIVER, or `driver` in storage.conf")),
            Some(name) => Self::named(name),
            None => match options.priority.first() {
                Some(first) => Self::named(first),
                None => Ok(Self::possible(options)),
            },
        }
    }

    /// Returns the driver of a new store.
    fn possible(options: &StoreOptions) -> Self {
        if can_be_overlay(&options.root) { Self::Overlay } else { Self::Vfs }
    }
}

/// Tells whether overlay mounts work on top of what a path is on, as far as that shows.
fn can_be_overlay(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    let magic = there.and_then(|path| rustix::fs::statfs(path).ok()).map(|found| found.f_type);
    magic.is_none_or(|magic| !NO_GROUND_FOR_OVERLAY.contains(&magic))
}

/// Returns the program that mounts overlays in a store where nobody named one: fuse-overlayfs, if it
/// is there and the kernel cannot, or the store was begun with one.
pub(crate) fn needed_mount_program(root: &Path) -> Option<String> {
    let flag = std::fs::read_to_string(root.join("overlay/.has-mount-program"));
    let begun = flag.is_ok_and(|flag| flag.trim() == "true");
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !begun && known.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("fuse-overlayfs"));
    found.find(|program| program.is_file()).map(|program| program.display().to_string())
}

/// What the driver's options say, as far as it matters to files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Stores that are only read, in the order in which they are asked.
    pub additional: Vec<PathBuf>,
    /// A program mounts, such as fuse-overlayfs: then whiteouts are files.
    pub mount_program: Option<String>,
    /// Owners that cannot be set are left.
    pub ignores_chown_errors: bool,
    /// All is written to disk before a layer counts.
    pub syncs: bool,
    /// Why nothing can be written, if nothing can.
    pub read_only_because: Option<String>,
}

impl Settings {
    /// Reads `KEY=VALUE` and `DRIVER.KEY=VALUE`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a key that is not known.
    pub fn parse(driver: Driver, options: &[String]) -> Result<Self> {
        let mut settings = Self::default();
        for option in options.iter().filter(|option| !option.is_empty()) {
            let wrong = |why: &str| {
                Error::new(ErrorKind::InvalidInput, format!("storage option `{option}`: {why}"))
            };
            let (key, value) = option.split_once('=').ok_or_else(|| wrong("it has no `=`"))?;
            let (key, value) = (key.trim().to_lowercase(), value.trim());
            let key = match key.split_once('.') {
                Some((of, _)) if !of.is_empty() && of != driver.name() && of != "overlay2" => {
                    continue;
                }
                Some((_, key)) => key.to_owned(),
                None => key,
            };
            let truth = || match value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(wrong("it is `true` or `false`")),
            };
            let refuse = |what: &str| Some(format!("the store is set up with {what}"));
            match key.as_str() {
                "imagestore" | "additionalimagestore" => {
                    for store in value.split(',').filter(|store| !store.is_empty()) {
                        if !store.starts_with('/') {
                            return Err(wrong("an image store is an absolute path"));
                        }
                        settings.additional.push(Path::new(store).components().collect());
                    }
                }
                "ignore_chown_errors" => settings.ignores_chown_errors = truth()?,
                "sync" => match value {
                    "none" | "" => settings.syncs = false,
                    "filesystem" => settings.syncs = true,
                    _ => return Err(wrong("it is `none` or `filesystem`")),
                },
                "mount_program" if driver == Driver::Overlay => {
                    if !value.is_empty() && !Path::new(value).exists() {
                        return Err(wrong("there is no such program"));
                    }
                    settings.mount_program = (!value.is_empty()).then(|| value.to_owned());
                }
                "force_mask" if driver == Driver::Overlay => {
                    settings.read_only_because = refuse("force_mask");
                }
                "use_composefs" if driver == Driver::Overlay => {
                    if truth()? {
                        settings.read_only_because = refuse("composefs");
                    }
                }
                // They concern containers and mounts, or layers that are found elsewhere.
                "mountopt"
                | "size"
                | "inodes"
                | "skip_mount_home"
                | "override_kernel_check"
                | "additionallayerstore"
                    if driver == Driver::Overlay => {}
                _ => return Err(wrong("it is not known here")),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(root: &Path) -> StoreOptions {
        StoreOptions { root: root.to_owned(), ..StoreOptions::default() }
    }

    #[test]
    fn the_driver_is_the_one_named_or_the_one_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut wanted = options(dir.path());
        assert_eq!(Driver::choose(&wanted).unwrap(), Driver::Overlay);
        std::fs::create_dir(dir.path().join("vfs")).unwrap();
        assert_eq!(
            Driver::choose(&wanted).unwrap(),
            Driver::Overlay,
            "vfs is taken when asked for"
        );
        std::fs::create_dir(dir.path().join("overlay")).unwrap();
        assert!(Driver::choose(&wanted).unwrap_err().message().contains("overlay, vfs"));
        let user = StoreOptions { is_confined: true, ..options(&dir.path().join("user")) };
        assert_eq!(Driver::choose(&user).unwrap(), Driver::Overlay);
        std::fs::create_dir_all(dir.path().join("user/vfs")).unwrap();
        assert_eq!(Driver::choose(&user).unwrap(), Driver::Vfs);
        std::fs::create_dir_all(dir.path().join("user/overlay")).unwrap();
        assert_eq!(Driver::choose(&user).unwrap(), Driver::Overlay);
        std::fs::create_dir_all(dir.path().join("user/vfs-images")).unwrap();
        std::fs::write(dir.path().join("user/vfs-images/images.json"), r#"[{"id":"x"}]"#).unwrap();
        assert_eq!(Driver::choose(&user).unwrap(), Driver::Vfs, "there are images");
        wanted.driver = Some("overlay2".into());
        assert_eq!(Driver::choose(&wanted).unwrap(), Driver::Overlay);
        wanted.driver = Some("zfs".into());
        assert_eq!(Driver::choose(&wanted).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn an_unsupported_driver_that_is_there_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("btrfs")).unwrap();
        assert!(Driver::choose(&options(dir.path())).unwrap_err().message().contains("btrfs"));
    }

    #[test]
    fn options_are_read_for_the_driver_at_hand() {
        let parse = |driver, text: &str| {
            let options: Vec<String> = text.split(' ').map(str::to_owned).collect();
            Settings::parse(driver, &options)
        };
        let found =
            parse(Driver::Overlay, "imagestore=/a,/b overlay.mountopt=nodev vfs.x=1").unwrap();
        assert_eq!(found.additional, [Path::new("/a"), Path::new("/b")]);
        assert!(
            parse(Driver::Overlay, "overlay.use_composefs=true")
                .unwrap()
                .read_only_because
                .is_some()
        );
        assert!(parse(Driver::Overlay, "force_mask=755").unwrap().read_only_because.is_some());
        assert_eq!(parse(Driver::Overlay, "mount_program=").unwrap(), Settings::default());
        for (driver, text) in [
            (Driver::Overlay, "shape=odd"),
            (Driver::Overlay, "imagestore=a"),
            (Driver::Overlay, "sync=maybe"),
            (Driver::Overlay, "overlay.mount_program=/nowhere"),
            (Driver::Vfs, "mountopt=x"),
            (Driver::Vfs, "nothing"),
        ] {
            let error = parse(driver, text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
