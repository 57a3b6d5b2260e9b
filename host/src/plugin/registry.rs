//! Transports by name: what discovery found, and the libraries that were loaded for it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use diolkos_sdk::abi::{ABI_MAJOR, ABI_MINOR};
use diolkos_sdk::{Error, ErrorKind, Result, ResultExt, Transport};
use sha2::{Digest as _, Sha256};

use crate::levels;

use super::{Manifest, Origin, SearchDir, TransportManifest, Trust};

/// Every manifest that was found, and access to the transports they promise.
pub struct Transports {
    searched: Vec<Searched>,
    found: Vec<Found>,
    /// Which of `found` provides a transport, or would if it were not refused.
    providers: BTreeMap<String, usize>,
    trust: Trust,
    loaded: Mutex<BTreeMap<usize, Loaded>>,
}

type Loaded = Vec<(String, Arc<dyn Transport>)>;

/// A directory of the search and how that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Searched {
    /// The directory.
    pub dir: SearchDir,
    /// What was there.
    pub state: SearchState,
}

/// What a search found a directory to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchState {
    /// It was read, and has so many manifests.
    Read(usize),
    /// It does not exist.
    Missing,
    /// It could not be read, and why.
    Unreadable(String),
}

/// A manifest that was found, good or not.
#[derive(Debug)]
pub struct Found {
    /// The manifest's file.
    pub path: PathBuf,
    /// Why its directory was searched.
    pub origin: Origin,
    /// The plugin's name, from the file's.
    pub name: String,
    /// Its content, where that could be read.
    pub manifest: Option<Manifest>,
    /// Whether it is used.
    pub state: State,
}

impl Found {
    /// Returns the library's file, where the manifest could be read.
    pub fn library(&self) -> Option<PathBuf> {
        let manifest = self.manifest.as_ref()?;
        Some(self.path.parent().unwrap_or(Path::new("/")).join(&manifest.library))
    }
}

/// What becomes of a manifest.
#[derive(Debug)]
pub enum State {
    /// Its transports are used.
    Active,
    /// A plugin of the same name comes first, in this file.
    Shadowed(PathBuf),
    /// It is broken or not trusted.
    Refused(Error),
}

impl Transports {
    /// Reads the manifests in `dirs`. Loads nothing.
    pub fn discover(dirs: &[SearchDir], trust: Trust) -> Self {
        let mut transports = Self {
            searched: Vec::new(),
            found: Vec::new(),
            providers: BTreeMap::new(),
            trust,
            loaded: Mutex::default(),
        };
        for dir in dirs {
            let state = transports.search(dir);
            transports.searched.push(Searched { dir: dir.clone(), state });
        }
        transports
    }

    fn search(&mut self, dir: &SearchDir) -> SearchState {
        let entries = match std::fs::read_dir(&dir.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return SearchState::Missing;
            }
            Err(error) => return SearchState::Unreadable(error.to_string()),
        };
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|it| it == "toml"))
            // Files of other programs live beside this one.
            .filter(|path| dir.origin != Origin::Program || looks_like_manifest(path))
            .collect();
        paths.sort();
        let count = paths.len();
        for path in paths {
            self.add(path, dir.origin);
        }
        SearchState::Read(count)
    }

    fn add(&mut self, path: PathBuf, origin: Origin) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let read = Manifest::read(&path);
        let trusted = self.trust.check(&path, origin);
        let (manifest, state) = match (read, trusted) {
            (read, Err(error)) => (read.ok(), State::Refused(error)),
            (Err(error), Ok(())) => (None, State::Refused(error)),
            (Ok(manifest), Ok(())) => (Some(manifest), State::Active),
        };
        let first = self.found.iter().find(|found| found.name == name && !found.is_shadowed());
        let state = match first {
            Some(first) => State::Shadowed(first.path.clone()),
            None => state,
        };
        let found = Found { path, origin, name, manifest, state };
        if !found.is_shadowed() {
            // A refused plugin keeps its place: to fall back on another one in silence would hide
            // that it is refused. One that cannot be read is taken to provide what it is called.
            let index = self.found.len();
            for transport in found.transport_names() {
                self.providers.entry(transport).or_insert(index);
            }
        }
        self.found.push(found);
    }

    /// Returns all that was found, in the order of the search.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Returns the directories that were searched.
    pub fn searched(&self) -> &[Searched] {
        &self.searched
    }

    /// Returns the transports that can be used, by name, each with its plugin.
    pub fn usable(&self) -> impl Iterator<Item = (&TransportManifest, &Found)> {
        self.providers.iter().filter_map(|(name, index)| {
            let found = &self.found[*index];
            let manifest = found.manifest.as_ref().filter(|_| found.is_active())?;
            Some((manifest.transport(name)?, found))
        })
    }

    /// Returns which plugin provides a transport; it may be refused.
    pub fn provider(&self, transport: &str) -> Option<&Found> {
        Some(&self.found[*self.providers.get(transport)?])
    }

    /// Returns what the manifest says of a transport that can be used.
    pub fn find(&self, name: &str) -> Option<&TransportManifest> {
        let found = self.provider(name).filter(|found| found.is_active())?;
        found.manifest.as_ref()?.transport(name)
    }

    /// Returns a transport, loading its library if that has not been done.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`]: no plugin provides it; the causes name every plugin that is
    ///   there, every one refused and why, and every directory searched.
    /// - otherwise why the plugin is refused, or its library cannot be used.
    pub fn load(&self, name: &str) -> Result<Arc<dyn Transport>> {
        let Some(index) = self.providers.get(name).copied() else {
            return Err(self.unknown(name));
        };
        let found = &self.found[index];
        if let State::Refused(error) = &found.state {
            return Err(levels::copy(error).context(format!("plugin `{}` is not used", found.name)));
        }
        // Two threads that ask for one plugin at the same time must not load it twice.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let transports = match loaded.entry(index) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(
                open(found, &self.trust)
                    .context(|| format!("cannot load plugin `{}` for `{name}:`", found.name))?,
            ),
        };
        let transport = transports.iter().find(|(it, _)| it == name).map(|(_, it)| it.clone());
        transport.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "plugin `{}` announces transport `{name}` in `{}`, but its library has none",
                    found.name,
                    found.path.display()
                ),
            )
            .with_hint("install the plugin's manifest and library from the same package")
        })
    }

    /// Makes the error for a transport that no plugin provides.
    ///
    /// It has one cause per line, so that every form of message shows them in order.
    fn unknown(&self, name: &str) -> Error {
        let mut lines = Vec::new();
        let names: Vec<_> = self.usable().map(|(transport, _)| transport.name.as_str()).collect();
        lines.push(if names.is_empty() {
            "no plugins are installed".to_owned()
        } else {
            format!("no installed plugin provides it; there are {}", names.join(", "))
        });
        for found in &self.found {
            if let State::Refused(error) = &found.state {
                lines.push(format!("not used: {}", error.chain().join(": ")));
            }
        }
        lines.push(format!("searched {}", self.places()));
        lines.insert(0, format!("unknown transport \"{name}\""));
        let hint = format!("install the plugin for `{name}:`, or name its place with --plugin-dir");
        levels::error(ErrorKind::InvalidInput, lines, Some(&hint))
    }

    /// Returns the places that were searched, for people.
    fn places(&self) -> String {
        let place = |searched: &Searched| {
            let path = searched.dir.path.display();
            match &searched.state {
                SearchState::Unreadable(why) => format!("`{path}` ({why})"),
                SearchState::Missing => format!("`{path}` (not there)"),
                SearchState::Read(_) => format!("`{path}`"),
            }
        };
        self.searched.iter().map(place).collect::<Vec<_>>().join(", ")
    }
}

impl Found {
    /// Tells whether the plugin's transports are used.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::Active)
    }

    fn is_shadowed(&self) -> bool {
        matches!(self.state, State::Shadowed(_))
    }

    fn transport_names(&self) -> Vec<String> {
        match &self.manifest {
            Some(manifest) => manifest.transports.iter().map(|it| it.name.clone()).collect(),
            None => vec![self.name.clone()],
        }
    }
}

/// Checks everything about a plugin's library that can be checked without running it.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Denied`] when it is not trusted,
/// [`ErrorKind::Corrupt`] when it is not the one the manifest was made for,
/// [`ErrorKind::Unsupported`] when it was built for another ABI.
pub fn check_library(found: &Found, trust: &Trust) -> Result<PathBuf> {
    let (Some(manifest), Some(library)) = (&found.manifest, found.library()) else {
        return Err(Error::new(ErrorKind::InvalidInput, "the manifest cannot be read"));
    };
    let (major, minor) = manifest.abi_version();
    if major != ABI_MAJOR {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "`{}` was built for plugin ABI {major}.{minor}, and this program has \
                 {ABI_MAJOR}.{ABI_MINOR}",
                library.display()
            ),
        )
        .with_hint(if major > ABI_MAJOR {
            "install a newer diolkos, or an older version of the plugin"
        } else {
            "install a newer version of the plugin"
        }));
    }
    if !library.exists() {
        let message = format!(
            "library `{}`, which `{}` names, is not there",
            library.display(),
            found.path.display()
        );
        return Err(Error::new(ErrorKind::NotFound, message)
            .with_hint("install the plugin again, its manifest together with its library"));
    }
    trust.check(&library, found.origin)?;
    if let Some(expected) = &manifest.sha256 {
        let actual = sha256_of(&library)?;
        if !actual.eq_ignore_ascii_case(expected) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "library `{}` is not the one its manifest names: expected sha256 {expected}, \
                     got {actual}",
                    library.display()
                ),
            )
            .with_hint("install the plugin again"));
        }
    }
    Ok(library)
}

fn open(found: &Found, trust: &Trust) -> Result<Loaded> {
    let library = check_library(found, trust)?;
    let plugin = diolkos_sdk::abi::load(&library)?;
    Ok(plugin
        .transports
        .into_iter()
        .map(|(name, transport)| (name, Arc::from(transport)))
        .collect())
}

fn sha256_of(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read `{}`", path.display());
    let mut file = std::fs::File::open(path).context(cannot)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer).context(cannot)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digest =
        diolkos_sdk::Digest::from_hash(diolkos_sdk::Algorithm::Sha256, &hasher.finalize())?;
    Ok(digest.hex().to_owned())
}

/// Tells whether a file claims to be a plugin's manifest, broken or not.
fn looks_like_manifest(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| {
        text.lines().any(|line| line.trim_start().starts_with("manifest_version"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, file: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        fn plugin(&self, dir: &str, name: &str, transport: &str) -> PathBuf {
            self.write(&format!("{dir}/{name}.toml"), &manifest(name, transport))
        }

        fn discover(&self, dirs: &[(&str, Origin)]) -> Transports {
            let dirs: Vec<_> = dirs
                .iter()
                .map(|(dir, origin)| SearchDir { path: self.0.path().join(dir), origin: *origin })
                .collect();
            Transports::discover(&dirs, Trust::current())
        }
    }

    fn manifest(name: &str, transport: &str) -> String {
        format!(
            "manifest_version = 1\nname = \"{name}\"\nversion = \"1\"\nabi = \"1.0\"\n\
             library = \"lib{name}.so\"\n[[transport]]\nname = \"{transport}\"\n\
             syntax = \"{transport}:X\"\n"
        )
    }

    #[test]
    fn the_first_directory_wins_and_what_is_shadowed_is_remembered() {
        let tree = Tree::new();
        let first = tree.plugin("a", "one", "t");
        tree.plugin("b", "one", "t");
        tree.plugin("b", "two", "t");
        let transports = tree.discover(&[("a", Origin::Flag), ("b", Origin::System)]);
        assert_eq!(transports.provider("t").unwrap().path, first);
        let [_, second, third] = transports.found() else { panic!("three manifests") };
        assert!(matches!(&second.state, State::Shadowed(by) if *by == first));
        assert!(third.is_active(), "another plugin, although its transport comes too late");
        assert_eq!(transports.usable().count(), 1);
    }

    #[test]
    fn a_broken_plugin_is_an_error_only_when_its_transport_is_asked_for() {
        let tree = Tree::new();
        tree.write("a/bad.toml", "manifest_version = 1\nname = [");
        tree.plugin("a", "good", "good");
        tree.plugin("b", "bad", "bad");
        let transports = tree.discover(&[("a", Origin::Flag), ("b", Origin::System)]);
        assert!(transports.find("good").is_some());
        let error = transports.load("bad").err().unwrap();
        let text = error.chain().join("\n");
        assert!(text.contains("bad.toml` is broken"), "{text}");
    }

    #[test]
    fn a_manifest_that_others_can_write_to_is_refused_with_what_to_do() {
        let tree = Tree::new();
        let path = tree.plugin("a", "open", "open");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let transports = tree.discover(&[("a", Origin::Flag)]);
        assert!(transports.find("open").is_none());
        let error = transports.load("open").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.hint().unwrap().contains("chmod"), "{error:?}");
    }

    #[test]
    fn an_unknown_transport_is_answered_with_every_place_and_every_refusal() {
        let tree = Tree::new();
        tree.write("a/bad.toml", "manifest_version = 9");
        tree.plugin("a", "good", "good");
        let transports = tree.discover(&[("a", Origin::Flag), ("nowhere", Origin::System)]);
        let error = transports.load("x").err().unwrap();
        let chain = error.chain();
        assert_eq!(chain[0], "unknown transport \"x\"");
        assert!(chain[1].contains("there are good"), "{chain:?}");
        assert!(chain[2].contains("bad.toml") && chain[2].contains("version 9"), "{chain:?}");
        assert!(chain[3].contains("nowhere` (not there)"), "{chain:?}");
    }

    #[test]
    fn beside_the_program_only_files_that_claim_to_be_manifests_count() {
        let tree = Tree::new();
        tree.write("bin/Cargo.toml", "[package]\nname = \"x\"\n");
        tree.write("bin/broken.toml", "manifest_version = 1\n]");
        tree.plugin("bin", "good", "good");
        let transports = tree.discover(&[("bin", Origin::Program)]);
        let names: Vec<_> = transports.found().iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["broken", "good"]);
    }

    #[test]
    fn a_library_is_refused_before_it_runs() {
        let tree = Tree::new();
        tree.plugin("a", "gone", "gone");
        tree.write("a/old.toml", &manifest("old", "old").replace("abi = \"1.0\"", "abi = \"0.9\""));
        tree.write("a/libopen.so", "");
        let open = tree.plugin("a", "open", "open").with_file_name("libopen.so");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        tree.write("a/libother.so", "other");
        let sum = "0".repeat(64);
        tree.write(
            "a/other.toml",
            &manifest("other", "other")
                .replace("[[transport]]", &format!("sha256 = \"{sum}\"\n[[transport]]")),
        );
        let transports = tree.discover(&[("a", Origin::Flag)]);
        for (name, kind, text) in [
            ("gone", ErrorKind::NotFound, "libgone.so"),
            ("old", ErrorKind::Unsupported, "ABI 0.9"),
            ("open", ErrorKind::Denied, "written to by everybody"),
            ("other", ErrorKind::Corrupt, "expected sha256 000"),
        ] {
            let error = transports.load(name).err().unwrap();
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.chain().join(": ").contains(text), "{error:?}");
        }
    }
}
