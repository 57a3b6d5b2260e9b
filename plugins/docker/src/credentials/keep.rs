//! Keeping credentials where they are found again, and forgetting them.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use diolkos_sdk::{Error, ErrorKind, Result, ResultExt};

use super::auth_file::{AuthFile, Format, NamedHelper, broken_file};
use super::object::Object;
use super::update::{self, Change};
use super::{AuthFiles, Lookup, Removed, asked_for, key, quote};
use crate::options::Credentials;

/// Where a file's logins for a key belong.
enum Keeper {
    /// With the helper that `credHelpers` names.
    Helper(NamedHelper),
    /// With the helper that `credsStore` names.
    Store(NamedHelper),
    /// In the file itself.
    File,
}

impl Keeper {
    /// Decides it for what the file at `path` says now.
    fn of(file: &AuthFile, path: &Path, key: &str) -> Result<Self> {
        let registry = key::normal_key(key, false);
        // Docker's registry is written in several ways; the file may have any of them.
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        Ok(match file.helper(registry, path)? {
            Some(named) if named.name.is_empty() => Self::File,
            Some(named) => Self::Helper(named),
            // A store knows registries alone, and so a namespace stays in the file.
            None if is_namespaced(key) => Self::File,
            None => file.store(registry).map_or(Self::File, Self::Store),
        })
    }
}

/// Storing.
impl Lookup<'_> {
    /// Checks a key, and returns it as the file has it that is written.
    pub(super) fn key_to_edit(&self, key: &str) -> Result<String> {
        let namespaced = key::validate(key)?;
        if !matches!(self.files, AuthFiles::Docker(_)) {
            return Ok(key.to_owned());
        }
        if namespaced {
            let message = format!(
                "Credentials cannot be recorded in Docker-compatible format with namespaced key \
                 {key:?}"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(key::docker_server(key).to_owned())
    }

    pub(super) fn store_in_file(&self, key: &str, who: &Credentials) -> Result<String> {
        let path = self.files.to_write(self.places)?;
        let file = match update::read(&path)? {
            Some(bytes) => AuthFile::parse(&bytes, &path, Format::Sections)?,
            None => AuthFile::empty(),
        };
        // Helpers take their time; the file is not locked meanwhile.
        let kept_elsewhere = match Keeper::of(&file, &path, key)? {
            Keeper::File => None,
            // Other programs that read this file know nothing of stores.
            Keeper::Store(_) if !matches!(self.files, AuthFiles::Docker(_)) => None,
            Keeper::Helper(named) => {
                return self
                    .give(&named.name, &named.server, who)
                    .map_err(|error| asked_for(error, &path, &named))
                    .context(|| format!("updating {}", quote(&path)));
            }
            Keeper::Store(named) => match self.give(&named.name, &named.server, who) {
                Ok(place) => Some(place),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // Whoever reads the file without the program finds this.
                    self.host.debug(format!("{error} (credsStore in `{}`)", path.display()));
                    None
                }
                Err(error) => return Err(error.context(format!("updating {}", quote(&path)))),
            },
        };
        update::update(&path, self.host, |content| {
            let sections = |broken| broken_file(&path, broken);
            let mut auths = content.object("auths").map_err(sections)?;
            // A broken entry is replaced as a whole.
            let old = if auths.has(key) { auths.object(key).ok() } else { None };
            let mut entry = old.unwrap_or_default();
            for old in ["auth", "identitytoken", "registrytoken", "username", "password"] {
                entry.remove(old);
            }
            if kept_elsewhere.is_none() {
                let pair = format!("{}:{}", who.username, who.password.reveal());
                entry.set_text("auth", &BASE64_STANDARD.encode(pair));
            }
            auths.set(key, entry);
            content.set("auths", auths);
            Ok(((), Change::Changed))
        })?;
        Ok(kept_elsewhere.unwrap_or_else(|| path.display().to_string()))
    }

    pub(super) fn give(&self, name: &str, server: &str, who: &Credentials) -> Result<String> {
        if is_namespaced(server) {
            let message = format!("namespaced key is not supported for credential helper {name}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.helper(name).store(server, who)?;
        Ok(format!("credential helper: {name}"))
    }
}

/// Removing.
impl Lookup<'_> {
    pub(super) fn remove_from_file(&self, key: &str) -> Result<Removed> {
        let path = self.files.to_write(self.places)?;
        let Some(bytes) = update::read(&path)? else { return Ok(Removed::WereNone) };
        let file = AuthFile::parse(&bytes, &path, Format::Sections)?;
        let from_helper = match Keeper::of(&file, &path, key)? {
            Keeper::File => Ok(Removed::WereNone),
            Keeper::Helper(named) => self
                .let_forget(&named.name, &named.server)
                .map_err(|error| asked_for(error, &path, &named)),
            Keeper::Store(named) => Ok(self.let_store_forget(&named, &path)),
        };
        let from_file = update::update(&path, self.host, |content| {
            let mut auths = content.object("auths").map_err(|broken| broken_file(&path, broken))?;
            if !auths.remove(key) {
                return Ok((Removed::WereNone, Change::Same));
            }
            content.set("auths", auths);
            Ok((Removed::Yes, Change::Changed))
        })?;
        // The entry is gone even if the helper failed.
        Ok(if from_helper? == Removed::Yes { Removed::Yes } else { from_file })
    }

    /// Lets a store forget a server. It is asked first: many stores forget what they never knew.
    fn let_store_forget(&self, named: &NamedHelper, path: &Path) -> Removed {
        let helper = self.helper(&named.name);
        let forgotten = match helper.get(&named.server) {
            Ok(None) => return Removed::WereNone,
            Ok(Some(_)) => helper.erase(&named.server),
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(true) => Removed::Yes,
            Ok(false) => Removed::WereNone,
            Err(error) => {
                self.host.debug(format!("{error} (credsStore in `{}`)", path.display()));
                Removed::WereNone
            }
        }
    }

    pub(super) fn let_forget(&self, name: &str, key: &str) -> Result<Removed> {
        if is_namespaced(key) {
            self.host.debug(format!("{key} has a namespace, and credential helper {name} none"));
            return Ok(Removed::WereNone);
        }
        let known = self.helper(name).erase(key).map_err(|error| {
            error.context(format!("removing credentials for {key} from credential helper {name}"))
        })?;
        Ok(if known { Removed::Yes } else { Removed::WereNone })
    }

    pub(super) fn let_forget_all(&self, name: &str) -> Result<()> {
        let helper = self.helper(name);
        let servers = match helper.list() {
            // Where it is not installed it keeps nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            servers => servers?,
        };
        for server in servers {
            helper.erase(&server)?;
        }
        Ok(())
    }

    pub(super) fn empty_file(&self) -> Result<()> {
        let path = self.files.to_write(self.places)?;
        let Some(bytes) = update::read(&path)? else { return Ok(()) };
        let file = AuthFile::parse(&bytes, &path, Format::Sections)?;
        for named in file.helpers(&path)? {
            self.helper(&named.name)
                .erase(&named.server)
                .map_err(|error| asked_for(error, &path, &named))?;
        }
        for key in file.keys() {
            let registry = key::normal_key(key, false);
            if let Some(named) = file.store(registry).filter(|_| !is_namespaced(key)) {
                self.let_store_forget(&named, &path);
            }
        }
        let docker = matches!(self.files, AuthFiles::Docker(_));
        update::update(&path, self.host, |content| {
            content.set("auths", Object::default());
            if !docker {
                content.remove("credHelpers");
            }
            Ok(((), Change::Changed))
        })
    }
}

/// Tells whether a key, in whichever form, names more than a registry.
fn is_namespaced(key: &str) -> bool {
    !key.contains("://") && key.contains('/')
}
