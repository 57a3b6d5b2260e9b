//! Which store is meant where a reference does not say: storage.conf and the environment.
//!
//! Of `storage.conf`, one file counts: the one that `$CONTAINERS_STORAGE_CONF` names, or else the
//! user's, the one in `/etc/containers`, the one in `/usr/share/containers`. The files in the `.d`
//! directories beside them are laid over it key by key, and last the one that
//! `$CONTAINERS_STORAGE_CONF_OVERRIDE` names. `$STORAGE_DRIVER` and `$STORAGE_OPTS` come after all
//! files.
//!
//! Where an ordinary user's store is, the system's files do not say with `graphroot` and `runroot`:
//! those mean the system's store. They say it with `rootless_storage_path`.
//!
//! # Source
//! containers-storage.conf(5); `storage/types/options.go` and `storage/pkg/configfile` of the
//! library that reads it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use diolkos_formats::files;
use diolkos_sdk::{Error, ErrorKind, Result};
use toml::{Table, Value};

/// The largest file that is taken for configuration, in bytes.
const MOST: u64 = 1 << 20;
/// Where the system's store is unless a file says otherwise.
const SYSTEM_ROOT: &str = "/var/lib/containers/storage";
/// Where its state until the next boot is.
const SYSTEM_RUN_ROOT: &str = "/run/containers/storage";

/// The variables and directories that a store is found by. A variable that is set to nothing counts
/// as not set, but for `STORAGE_OPTS`, which then says that there are no options.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// All of the environment that counts, by name.
    pub variables: BTreeMap<String, String>,
    /// `/etc`, but for tests.
    pub etc: PathBuf,
    /// `/usr/share`, but for tests.
    pub share: PathBuf,
    /// The user whose store it is: in a user namespace of ours or podman's, the one outside.
    pub uid: u32,
    /// The process has not all of root's power over files, as in a user namespace.
    pub is_confined: bool,
}

impl Places {
    /// Reads the environment of this process.
    pub fn of_this_process() -> Self {
        let variables: BTreeMap<String, String> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, value)| !value.is_empty() || name == "STORAGE_OPTS")
            .collect();
        // Who entered a user namespace is root in it, and says there who it was outside.
        let outside = variables.get("_CONTAINERS_ROOTLESS_UID").and_then(|uid| uid.parse().ok());
        let uid = outside.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let is_confined =
            uid != 0 || variables.contains_key("_CONTAINERS_USERNS_CONFIGURED") || is_confined();
        Self { variables, etc: "/etc".into(), share: "/usr/share".into(), uid, is_confined }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Tells whether the store is that of an ordinary user.
    fn is_rootless(&self) -> bool {
        self.uid != 0
    }

    fn user_containers(&self) -> Option<PathBuf> {
        let config = self.path("XDG_CONFIG_HOME");
        let config = config.or_else(|| Some(self.path("HOME")?.join(".config")));
        config.map(|config| config.join("containers"))
    }

    fn data_home(&self) -> Result<PathBuf> {
        let data = self.path("XDG_DATA_HOME");
        data.or_else(|| Some(self.path("HOME")?.join(".local/share"))).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "neither HOME nor XDG_DATA_HOME is set")
                .with_hint("set one of them: the store of an ordinary user is below it")
        })
    }

    fn runtime_dir(&self) -> PathBuf {
        let given = self.path("XDG_RUNTIME_DIR");
        let given = given.map(|dir| dir.canonicalize().unwrap_or(dir));
        given.unwrap_or_else(|| {
            let run = PathBuf::from(format!("/run/user/{}", self.uid));
            if run.is_dir() {
                return run;
            }
            let temp = self.path("TMPDIR").unwrap_or_else(|| "/tmp".into());
            temp.join(format!("storage-run-{}", self.uid))
        })
    }

    /// Replaces `$NAME` and `${NAME}` as a shell does.
    fn expand(&self, path: &str) -> PathBuf {
        let path = path.replace("$UID", &self.uid.to_string());
        let mut expanded = String::new();
        let mut rest = path.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let braced = after.strip_prefix('{').and_then(|it| it.split_once('}'));
            let (name, after) = braced.unwrap_or_else(|| {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                after.split_at(end.unwrap_or(after.len()))
            });
            expanded.push_str(self.get(name).unwrap_or_default());
            rest = after;
        }
        expanded.push_str(rest);
        let path = PathBuf::from(expanded);
        path.canonicalize().unwrap_or_else(|_| path.components().collect())
    }
}

/// Tells whether the process lacks power over files that root has: it is in a user namespace, or
/// without the capability to administrate the system.
fn is_confined() -> bool {
    const SYS_ADMIN: u32 = 21;
    let all_ids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    !all_ids.contains("4294967295") || capabilities.is_some_and(|all| all >> SYS_ADMIN & 1 == 0)
}

/// What a store is opened with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreOptions {
    /// The driver, where somebody named one.
    pub driver: Option<String>,
    /// The drivers to try where nobody did, if that is said.
    pub priority: Vec<String>,
    /// Where images and layers are.
    pub root: PathBuf,
    /// Where what ends with the next boot is.
    pub run_root: PathBuf,
    /// Where images and their layers are instead, if that is set.
    pub image_store: Option<PathBuf>,
    /// `KEY=VALUE`, for the driver.
    pub driver_options: Vec<String>,
    /// Containers are forgotten with the next boot.
    pub transient: bool,
    /// See [`Places::is_confined`].
    pub is_confined: bool,
}

impl StoreOptions {
    /// Finds out where the store is that nobody needs to name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a file that cannot be read or makes no sense.
    pub fn load(places: &Places) -> Result<Self> {
        let mut merged = Merged::default();
        for (path, from) in sources(places)? {
            let bytes = match (from, files::read_if_any(&path, MOST)?) {
                (_, Some(bytes)) => bytes,
                (From::Variable, None) => {
                    let message = format!("there is no {}", path.display());
                    return Err(Error::new(ErrorKind::InvalidInput, message)
                        .with_hint("CONTAINERS_STORAGE_CONF names it"));
                }
                (_, None) => continue,
            };
            let text = String::from_utf8_lossy(&bytes);
            let table = text.parse::<Table>().map_err(|error| {
                Error::new(ErrorKind::InvalidInput, format!("{} makes no sense", path.display()))
                    .with_source(error)
            })?;
            let ignores_roots = places.is_rootless() && from == From::System;
            merged.lay_over(table, ignores_roots, &path)?;
        }
        merged.finish(places)
    }
}

/// Who says what is in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Variable,
    User,
    System,
}

/// Lists the files to read, in the order in which they are laid over each other.
fn sources(places: &Places) -> Result<Vec<(PathBuf, From)>> {
    let mut found = Vec::new();
    if let Some(path) = places.path("CONTAINERS_STORAGE_CONF") {
        found.push((path, From::Variable));
    } else {
        let user = places.user_containers();
        let (etc, share) = (places.etc.join("containers"), places.share.join("containers"));
        let mut mains = vec![(etc.join("storage.conf"), From::System)];
        mains.push((share.join("storage.conf"), From::System));
        if let Some(user) = &user {
            mains.insert(0, (user.join("storage.conf"), From::User));
        }
        found.extend(mains.into_iter().find(|(path, _)| path.exists()));
        let mut by_name = BTreeMap::new();
        for system in [share, etc] {
            let of = if places.is_rootless() { "rootless" } else { "rootful" };
            let special = system.join(format!("storage.{of}.conf.d"));
            let mut dirs = vec![system.join("storage.conf.d"), special.clone()];
            if places.is_rootless() {
                dirs.push(special.join(places.uid.to_string()));
            }
            for dir in dirs {
                list(&dir, From::System, &mut by_name)?;
            }
        }
        if let Some(user) = &user {
            list(&user.join("storage.conf.d"), From::User, &mut by_name)?;
        }
        found.extend(by_name.into_values());
    }
    if let Some(path) = places.path("CONTAINERS_STORAGE_CONF_OVERRIDE") {
        found.push((path, From::Variable));
    }
    Ok(found)
}

/// Adds a directory's files; those of later directories take the place of equal names.
fn list(dir: &Path, from: From, into: &mut BTreeMap<String, (PathBuf, From)>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::failed("open", dir, error)),
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if Path::new(&name).extension() == Some("conf".as_ref())
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            into.insert(name, (entry.path(), from));
        }
    }
    Ok(())
}

/// What the files said so far.
#[derive(Default)]
struct Merged {
    storage: BTreeMap<String, Value>,
    /// `[storage.options]`, and `[storage.options.DRIVER]` as `DRIVER.KEY`.
    options: BTreeMap<String, Value>,
}

impl Merged {
    fn lay_over(&mut self, mut table: Table, ignores_roots: bool, path: &Path) -> Result<()> {
        let wrong = |what: &str| {
            let message = format!("{}: `{what}` is not a table", path.display());
            Error::new(ErrorKind::InvalidInput, message)
        };
        let Some(storage) = table.remove("storage") else { return Ok(()) };
        let Value::Table(mut storage) = storage else { return Err(wrong("storage")) };
        if let Some(options) = storage.remove("options") {
            let Value::Table(options) = options else { return Err(wrong("storage.options")) };
            for (key, value) in options {
                if let Value::Table(of_driver) = value {
                    let named = of_driver.into_iter();
                    self.options
                        .extend(named.map(|(name, value)| (format!("{key}.{name}"), value)));
                } else {
                    self.options.insert(key, value);
                }
            }
        }
        if ignores_roots {
            storage.remove("graphroot");
            storage.remove("runroot");
        }
        self.storage.extend(storage);
        Ok(())
    }

    fn finish(self, places: &Places) -> Result<StoreOptions> {
        let storage = |key: &str| text(&self.storage, key);
        let mut driver = storage("driver");
        if let Some(named) = places.get("STORAGE_DRIVER") {
            driver = Some(named.to_owned());
        }
        let mut root = PathBuf::from(SYSTEM_ROOT);
        let mut run_root = PathBuf::from(SYSTEM_RUN_ROOT);
        if places.is_rootless() {
            // Only one of them needs the home directory, and only if no file says where.
            run_root = places.runtime_dir().join("containers");
            root = match (storage("graphroot"), storage("rootless_storage_path")) {
                (None, None) => places.data_home()?.join("containers/storage"),
                (_, Some(path)) => places.expand(&path),
                (Some(_), None) => root,
            };
        }
        if let Some(path) = storage("graphroot") {
            root = places.expand(&path);
        }
        if let Some(path) = storage("runroot") {
            run_root = places.expand(&path);
        }
        let mut driver_options = self.driver_options();
        if let Some(given) = places.get("STORAGE_OPTS") {
            let given = given.split(',').filter(|_| !given.is_empty());
            driver_options = given.map(str::to_owned).collect();
        }
        Ok(StoreOptions {
            driver,
            priority: list_of(&self.storage, "driver_priority"),
            root,
            run_root,
            image_store: storage("imagestore").map(|path| places.expand(&path)),
            driver_options,
            transient: self.storage.get("transient_store") == Some(&Value::Boolean(true)),
            is_confined: places.is_confined,
        })
    }

    /// Writes the options as they stand in references, in the order that the library gives them.
    fn driver_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let pairs = [
            ("additionalimagestores", "imagestore"),
            ("additionallayerstores", "additionallayerstore"),
        ];
        for (key, option) in pairs {
            let stores = list_of(&self.options, key).into_iter();
            options.extend(stores.map(|store| format!("{option}={store}")));
        }
        for key in [
            "size",
            "mount_program",
            "skip_mount_home",
            "ignore_chown_errors",
            "force_mask",
            "mountopt",
        ] {
            options.extend(text(&self.options, key).map(|value| format!("{key}={value}")));
        }
        for key in [
            "overlay.ignore_chown_errors",
            "overlay.mount_program",
            "overlay.mountopt",
            "overlay.size",
            "overlay.inodes",
            "overlay.skip_mount_home",
            "overlay.force_mask",
            "overlay.use_composefs",
            "overlay.sync",
            "vfs.ignore_chown_errors",
            "vfs.sync",
        ] {
            options.extend(text(&self.options, key).map(|value| format!("{key}={value}")));
        }
        options
    }
}

/// Returns a value as text; an empty one counts as absent.
fn text(table: &BTreeMap<String, Value>, key: &str) -> Option<String> {
    let text = match table.get(key)? {
        Value::String(text) => text.clone(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn list_of(table: &BTreeMap<String, Value>, key: &str) -> Vec<String> {
    let Some(Value::Array(values)) = table.get(key) else { return Vec::new() };
    values
        .iter()
        .filter_map(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Places below one directory, in which nothing is set.
    pub(crate) fn below(dir: &Path, uid: u32) -> Places {
        let variables = [("HOME", dir.join("home")), ("XDG_RUNTIME_DIR", dir.join("runtime"))];
        let variables =
            variables.map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned()));
        Places {
            variables: variables.into(),
            etc: dir.join("etc"),
            share: dir.join("share"),
            uid,
            is_confined: uid != 0,
        }
    }

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn without_files_each_user_has_a_store_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = StoreOptions::load(&below(dir.path(), 0)).unwrap();
        assert_eq!(root.root, Path::new(SYSTEM_ROOT));
        assert_eq!(root.run_root, Path::new(SYSTEM_RUN_ROOT));
        let user = StoreOptions::load(&below(dir.path(), 1000)).unwrap();
        assert_eq!(user.root, dir.path().join("home/.local/share/containers/storage"));
        assert_eq!(user.run_root, dir.path().join("runtime/containers"));
    }

    #[test]
    fn the_first_main_file_counts_and_drop_ins_are_laid_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let places = below(dir.path(), 0);
        let share = dir.path().join("share/containers");
        let etc = dir.path().join("etc/containers");
        write(share.join("storage.conf"), "[storage]\ndriver='btrfs'\ngraphroot='/never'\n");
        write(
            etc.join("storage.conf"),
            "[storage]\ndriver='overlay'\ngraphroot='/a'\n[storage.options]\nadditionalimagestores=['/i']\nmountopt='x'\n[storage.options.overlay]\nmountopt='nodev'\n",
        );
        write(share.join("storage.conf.d/20-x.conf"), "[storage]\ngraphroot='/b'\n");
        write(etc.join("storage.rootful.conf.d/20-x.conf"), "[storage]\nrunroot='/r'\n");
        write(etc.join("storage.rootless.conf.d/30.conf"), "[storage]\nrunroot='/never'\n");
        let found = StoreOptions::load(&places).unwrap();
        assert_eq!(found.driver.as_deref(), Some("overlay"));
        assert_eq!(found.root, Path::new("/a"), "the file of the same name took its place");
        assert_eq!(found.run_root, Path::new("/r"));
        assert_eq!(found.driver_options, ["imagestore=/i", "mountopt=x", "overlay.mountopt=nodev"]);
    }

    #[test]
    fn variables_come_last_and_paths_are_expanded() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = below(dir.path(), 1000);
        let conf = dir.path().join("my.conf");
        write(conf.clone(), "[storage]\ngraphroot='${HOME}/s/$UID'\ntransient_store=true\n");
        let mut set = |name: &str, value: &str| {
            places.variables.insert(name.into(), value.into());
        };
        set("CONTAINERS_STORAGE_CONF", conf.to_str().unwrap());
        set("STORAGE_DRIVER", "vfs");
        set("STORAGE_OPTS", "vfs.ignore_chown_errors=true,vfs.sync=none");
        let found = StoreOptions::load(&places).unwrap();
        assert_eq!(found.root, dir.path().join("home/s/1000"));
        assert_eq!(found.driver.as_deref(), Some("vfs"));
        assert_eq!(found.driver_options, ["vfs.ignore_chown_errors=true", "vfs.sync=none"]);
        assert!(found.transient);
        write(conf.clone(), "[storage.options]\nmountopt='nodev'\n");
        places.variables.insert("STORAGE_OPTS".into(), String::new());
        assert!(StoreOptions::load(&places).unwrap().driver_options.is_empty());
        fs::remove_file(conf).unwrap();
        assert!(StoreOptions::load(&places).unwrap_err().message().contains("my.conf"));
    }

    #[test]
    fn the_systems_roots_are_not_an_ordinary_users() {
        let dir = tempfile::tempdir().unwrap();
        let places = below(dir.path(), 1000);
        let etc = dir.path().join("etc/containers/storage.conf");
        write(etc.clone(), "[storage]\ngraphroot='/var/x'\nrunroot='/run/x'\ndriver='vfs'\n");
        let found = StoreOptions::load(&places).unwrap();
        assert_eq!(found.root, dir.path().join("home/.local/share/containers/storage"));
        assert_eq!(found.driver.as_deref(), Some("vfs"));
        write(etc.clone(), "[storage]\nrootless_storage_path='/u/$UID'\n");
        assert_eq!(StoreOptions::load(&places).unwrap().root, Path::new("/u/1000"));
        write(etc, "[storage\n");
        assert!(StoreOptions::load(&places).unwrap_err().message().contains("storage.conf"));
    }
}
