//! containers-registries.conf(5): where images of a name are to be had, and how.
//!
//! - [`mod@file`]: one file, in either version of the format. [`table`]: its tables, key by key.
//! - [`registry`]: what a `[[registry]]` says, and [`names`]: prefixes and locations.
//! - [`aliases`]: short names.
//!
//! Files are looked for by name and read once; where there are none this costs as many calls as
//! there are places. Nothing is kept between two calls of [`RegistriesConf::load`].

mod aliases;
mod file;
mod names;
mod registry;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use diolkos_sdk::{Error, ErrorKind, Reference, Result};

use self::aliases::Aliases;
use self::file::{Parsed, Versions};
pub(crate) use self::registry::{PullSource, Registry};
use super::places::Places;
use super::text::{self, invalid};

/// The entry of `credential-helpers` that stands for files with credentials.
pub(crate) const AUTH_FILE_HELPER: &str = "containers-auth.json";

/// What is done about a short name that has no alias and could be of several registries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ShortNameMode {
    Disabled,
    Enforcing,
    #[default]
    Permissive,
}

impl ShortNameMode {
    fn named(name: &str) -> Option<Self> {
        match name {
            "disabled" => Some(Self::Disabled),
            "enforcing" => Some(Self::Enforcing),
            "permissive" => Some(Self::Permissive),
            _ => None,
        }
    }
}

/// All that is said about registries, merged from the files that say it.
#[derive(Debug, Default)]
pub(crate) struct RegistriesConf {
    /// By prefix.
    registries: BTreeMap<String, Registry>,
    search: Vec<String>,
    helpers: Vec<String>,
    mode: ShortNameMode,
    aliases: Aliases,
    notes: Vec<String>,
    files: Files,
    /// Other programs' aliases, once somebody asked for them.
    recorded: OnceLock<Aliases>,
}

/// Which files there may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    main: PathBuf,
    must_exist: bool,
    /// In the order they are read.
    drop_ins: Vec<PathBuf>,
    /// Where other programs record what a user chose for a short name.
    aliases: Option<PathBuf>,
}

impl Files {
    fn choose(places: &Places, explicit: Option<&Path>) -> Self {
        let system = places.system_containers();
        let user = places.user_containers();
        let dir_of = |containers: &PathBuf| containers.join("registries.conf.d");
        let all = || [Some(dir_of(&system)), user.as_ref().map(dir_of)].into_iter().flatten();
        let (main, must_exist, drop_ins) = match (explicit, &places.registries_conf) {
            (Some(path), _) => (path.to_owned(), true, all().collect()),
            // The variable names all that holds.
            (None, Some(path)) => (path.clone(), true, Vec::new()),
            (None, None) => match &user {
                Some(user) if user.join("registries.conf").exists() => {
                    (user.join("registries.conf"), false, vec![dir_of(user)])
                }
                _ => (system.join("registries.conf"), false, all().collect()),
            },
        };
        let aliases = if places.uid == 0 {
            Some(places.etc.with_file_name("var").join("cache"))
        } else {
            places.in_home(".cache")
        };
        let aliases = aliases.map(|cache| cache.join("containers/short-name-aliases.conf"));
        Self { main, must_exist, drop_ins, aliases }
    }
}

impl RegistriesConf {
    /// Reads the file that holds, and those that are dropped in.
    ///
    /// In this order: `explicit`, `$CONTAINERS_REGISTRIES_CONF` and nothing else, the user's file
    /// with the user's `registries.conf.d`, or the system's file with the system's and then the
    /// user's `registries.conf.d`; the latter two go along with `explicit` as well.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for what makes no sense, and where a file that was named does
    /// not exist.
    ///
    /// # Source
    /// containers-registries.conf(5), containers-registries.conf.d(5).
    pub fn load(places: &Places, explicit: Option<&Path>) -> Result<Self> {
        let files = Files::choose(places, explicit);
        let mut conf = Self::default();
        let main = if files.must_exist {
            text::read(&files.main).map(Some)
        } else {
            text::read_if_any(&files.main)
        };
        if let Some(text) = main.map_err(|error| loading(&files.main, error))? {
            conf.notes.push(format!("registries are set up by `{}`", files.main.display()));
            conf.merge(file::parse(&text, &files.main, Versions::Any)?);
        }
        for dir in &files.drop_ins {
            let paths = text::list(dir, ".conf");
            for path in paths.map_err(|error| error.context("reading registries.conf.d"))? {
                // One that is gone by now was removed at this moment.
                let text = text::read_if_any(&path).map_err(|error| loading(&path, error))?;
                if let Some(text) = text {
                    conf.notes.push(format!("registries are set up by `{}` too", path.display()));
                    conf.merge(file::parse(&text, &path, Versions::OnlySecond)?);
                }
            }
        }
        if conf.helpers.is_empty() {
            conf.helpers.push(AUTH_FILE_HELPER.to_owned());
        }
        conf.files = files;
        Ok(conf)
    }

    /// Adds what a later file says: it replaces whatever it names.
    fn merge(&mut self, later: Parsed) {
        self.registries.extend(later.registries);
        self.aliases.extend(later.aliases);
        self.notes.extend(later.notes);
        if let Some(search) = later.search {
            self.search = search;
        }
        if let Some(helpers) = later.helpers {
            self.helpers = helpers;
        }
        if let Some(mode) = later.mode {
            self.mode = mode;
        }
    }

    /// Returns the registry with the longest prefix of `name`.
    pub fn find(&self, name: &Reference) -> Option<&Registry> {
        self.find_text(&name.to_string())
    }

    fn find_text(&self, name: &str) -> Option<&Registry> {
        let matching =
            self.registries.values().filter(|entry| names::covered(name, &entry.prefix).is_some());
        // Of two that are as long (`*.b.c` and `a.b.c`) the first in order holds, as elsewhere.
        matching.rev().max_by_key(|entry| entry.prefix.len())
    }

    /// Returns the places to pull `name` from, in order; its own name if nothing is said.
    ///
    /// Each place must then pass [`Self::check`], for what is blocked may have mirrors that are
    /// not, and the other way round.
    ///
    /// # Errors
    /// Those of [`Registry::pull_sources`].
    pub fn pull_sources(&self, name: &Reference) -> Result<Vec<PullSource>> {
        match self.find(name) {
            Some(registry) => registry.pull_sources(name),
            None => Ok(vec![self.direct(name)]),
        }
    }

    /// Returns the place of `name` itself: for pushing, deleting and listing.
    pub fn direct(&self, name: &Reference) -> PullSource {
        match self.find(name) {
            Some(registry) => registry.direct(name),
            None => PullSource { reference: name.clone(), insecure: false, is_mirror: false },
        }
    }

    /// Checks that the registry of a name may be talked to under just this name.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] if it is blocked.
    pub fn check(&self, name: &Reference) -> Result<()> {
        match self.find(name) {
            Some(registry) if registry.is_blocked() => Err(self.blocked_error(registry)),
            _ => Ok(()),
        }
    }

    /// Does [`Self::check`] for a whole registry, `host[:port]`; returns whether it is insecure.
    ///
    /// # Errors
    /// As for [`Self::check`].
    pub fn check_host(&self, registry: &str) -> Result<bool> {
        match self.find_text(registry) {
            Some(entry) if entry.is_blocked() => Err(self.blocked_error(entry)),
            entry => Ok(entry.is_some_and(Registry::is_insecure)),
        }
    }

    fn blocked_error(&self, registry: &Registry) -> Error {
        let main = self.files.main.display();
        let message = match self.files.drop_ins.last() {
            Some(dir) => {
                format!("registry {} is blocked in {main} or {}", registry.prefix, dir.display())
            }
            None => format!("registry {} is blocked in {main}", registry.prefix),
        };
        Error::new(ErrorKind::Denied, message)
            .with_hint(format!("`blocked` is set in `{}`", registry.file.display()))
    }

    /// Returns the programs to ask for credentials, in order; [`AUTH_FILE_HELPER`] stands for the
    /// files. Never empty.
    pub fn credential_helpers(&self) -> &[String] {
        &self.helpers
    }

    /// Returns what is odd about the files, though no error, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// What is said of names without a registry. `docker:` names have one, or Docker's; the entries are
/// read all the same, so that a file with a broken one is refused as by other programs.
#[allow(dead_code, reason = "for transports whose names may be short")]
impl RegistriesConf {
    /// Returns the registries, `host[:port]`, that a name without registry may be of, in order.
    pub fn unqualified_search_registries(&self) -> &[String] {
        &self.search
    }

    /// Returns what to do about a short name that has no alias.
    pub fn short_name_mode(&self) -> ShortNameMode {
        self.mode
    }

    /// Returns what a short name stands for, if anything: what a user once chose, else what the
    /// configuration says.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name that is not short, and for a broken file of choices.
    pub fn alias(&self, short_name: &str) -> Result<Option<Reference>> {
        aliases::check_name(short_name).map_err(invalid)?;
        let alias = self.recorded()?.get(short_name).or_else(|| self.aliases.get(short_name));
        Ok(alias.cloned().flatten())
    }

    fn recorded(&self) -> Result<&Aliases> {
        if let Some(aliases) = self.recorded.get() {
            return Ok(aliases);
        }
        let aliases = match &self.files.aliases {
            Some(path) => match text::read_if_any(path)? {
                Some(text) => aliases::parse(&text, path)?,
                None => Aliases::new(),
            },
            None => Aliases::new(),
        };
        Ok(self.recorded.get_or_init(|| aliases))
    }
}

fn loading(path: &Path, error: Error) -> Error {
    error.context(format!("loading registries configuration `{}`", path.display()))
}

/// Parses a main file and forgets it: for those who try texts out.
///
/// # Errors
/// As for [`RegistriesConf::load`].
#[cfg_attr(not(any(test, feature = "fuzzing")), allow(dead_code))]
pub(crate) fn parse(text: &str, path: &Path) -> Result<RegistriesConf> {
    let mut conf = RegistriesConf::default();
    conf.merge(file::parse(text, path, Versions::Any)?);
    path.clone_into(&mut conf.files.main);
    Ok(conf)
}
