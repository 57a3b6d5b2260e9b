//! Who we are, as files and programs of this machine know it.
//!
//! [`Lookup::find`] goes through the files in order, and takes the first credentials that it
//! meets. In each file it asks the helper that `credHelpers` names for the registry, then the
//! `credsStore`, then looks into `auths`. Logins are kept where they will be found again.
//!
//! - [`files`]: which files count. [`auth_file`]: what stands in one; [`key`]: what for.
//! - [`find`], [`keep`]: going through them, with [`helper`], programs that keep credentials.
//! - [`update`]: files are changed, and stay whole; [`object`]: what is not understood survives.
//!
//! A password or token is in a [`Secret`] as soon as it is read; no message holds one.
//!
//! # Source
//! containers-auth.json(5); for `credsStore`, which other programs than Docker ignore, Docker.

mod auth_file;
mod files;
mod find;
mod helper;
mod keep;
mod key;
mod object;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_support;
mod update;

use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Host, Result};

use crate::config::places::Places;
use crate::options::{Credentials, Secret};

use auth_file::NamedHelper;
use helper::Helper;

pub(crate) use files::{AuthFiles, check_exists};
pub(crate) use key::parse_argument;

/// In the list of helpers of registries.conf, the files of this module.
const FILES: &str = "containers-auth.json";

/// Proof of who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// A name and a password.
    Password(Credentials),
    /// A token to get other tokens with; nobody is asked for a password then.
    Token(Secret),
}

/// Credentials that were found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Found {
    pub identity: Identity,
    /// The user's name, which may be known with a token too; empty where it is not.
    pub username: String,
    /// Where they were, for people: "`/run/containers/0/auth.json`, key `quay.io/org`".
    pub origin: String,
}

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Found(Found),
    Nothing(Nothing),
}

/// Why nothing was found: what to say when a registry then refuses us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nothing {
    /// The files that were looked into, whether or not they exist.
    pub searched: Vec<PathBuf>,
    /// What may have had credentials and could not be asked.
    pub problems: Vec<String>,
}

impl Answer {
    /// Returns the credentials, if there are any.
    pub fn found(self) -> Option<Found> {
        match self {
            Self::Found(found) => Some(found),
            Self::Nothing(_) => None,
        }
    }
}

impl Nothing {
    /// Says where nothing was found, for a message.
    pub fn describe(&self) -> String {
        let searched: Vec<_> =
            self.searched.iter().map(|path| format!("`{}`", path.display())).collect();
        let mut text = match &searched[..] {
            [] => "no file of credentials was looked for".to_owned(),
            paths => format!("no credentials in {}", paths.join(", ")),
        };
        for problem in &self.problems {
            text += "; ";
            text += problem;
        }
        text
    }
}

/// Whether credentials were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    Yes,
    /// There were none for this key.
    WereNone,
}

/// Where credentials are looked for.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub places: &'a Places,
    pub files: &'a AuthFiles,
    /// `credential-helpers` of registries.conf; empty means the files alone.
    pub helpers: &'a [String],
    pub host: &'a Host,
}

impl Lookup<'_> {
    /// Finds the credentials for a key: `registry`, or `registry/namespace/repository`.
    ///
    /// A helper or file that fails is an error, unless another one has credentials. A `credsStore`
    /// that fails is a problem to mention, and no error: images of others need no credentials,
    /// and a config.json often comes to a machine without the programs it names.
    ///
    /// # Errors
    /// A malformed key or file, a helper that is missing or fails.
    pub fn find(&self, key: &str) -> Result<Answer> {
        key::validate(key)?;
        let registry = key::registry_of(key);
        let mut nothing = Nothing::default();
        let mut errors = Vec::new();
        for name in self.helpers() {
            let result = if name == FILES {
                self.find_in_files(key, registry, &mut nothing)
            } else {
                self.ask(&name, registry)
            };
            match result {
                Ok(Some(found)) => {
                    self.host.debug(format!("credentials for {key} come from {}", found.origin));
                    return Ok(Answer::Found(found));
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    let why = error.chain().join(": ");
                    self.host.debug(format!("looking up credentials for {key}: {why}"));
                    errors.push(error);
                }
            }
        }
        if let Some(error) = join("errors looking up credentials", errors) {
            return Err(error);
        }
        self.host.debug(format!("no credentials for {key} found"));
        Ok(Answer::Nothing(nothing))
    }

    /// Keeps a user's password; returns where, for people.
    ///
    /// # Errors
    /// A malformed key or file, a namespace where only registries can be kept, a file that cannot
    /// be written, a helper that is missing or fails.
    pub fn store(&self, key: &str, who: &Credentials) -> Result<String> {
        let key = self.key_to_edit(key)?;
        let mut errors = Vec::new();
        for name in self.helpers() {
            let stored = if name == FILES {
                self.store_in_file(&key, who)
            } else {
                self.give(&name, &key, who)
            };
            match stored {
                Ok(place) => {
                    self.host.debug(format!("credentials for {key} are kept in {place}"));
                    return Ok(place);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(join("Errors storing credentials", errors).unwrap_or_else(|| {
            Error::new(ErrorKind::Internal, "there is no place to keep credentials in")
        }))
    }

    /// Removes the credentials for exactly this key, wherever they are kept.
    ///
    /// # Errors
    /// As [`Lookup::store`].
    pub fn remove(&self, key: &str) -> Result<Removed> {
        let key = self.key_to_edit(key)?;
        let mut removed = Removed::WereNone;
        let mut errors = Vec::new();
        for name in self.helpers() {
            let result = if name == FILES {
                self.remove_from_file(&key)
            } else {
                self.let_forget(&name, &key)
            };
            match result {
                Ok(Removed::Yes) => removed = Removed::Yes,
                Ok(Removed::WereNone) => {}
                Err(error) => errors.push(error),
            }
        }
        join("errors removing credentials", errors).map_or(Ok(removed), Err)
    }

    /// Removes all credentials that were kept for containers' programs, and with them the names of
    /// helpers in auth.json, as other programs do.
    ///
    /// # Errors
    /// As [`Lookup::store`].
    pub fn remove_all(&self) -> Result<()> {
        let mut errors = Vec::new();
        for name in self.helpers() {
            let result = if name == FILES { self.empty_file() } else { self.let_forget_all(&name) };
            errors.extend(result.err());
        }
        join("errors removing all credentials", errors).map_or(Ok(()), Err)
    }

    /// Returns the helpers of registries.conf that count; Docker knows none of them.
    fn helpers(&self) -> Vec<String> {
        if self.helpers.is_empty() || matches!(self.files, AuthFiles::Docker(_)) {
            return vec![FILES.to_owned()];
        }
        self.helpers.to_vec()
    }

    fn helper(&self, name: &str) -> Helper<'_> {
        Helper::new(name, self.places.path.as_deref(), self.host)
    }
}

/// Parses bytes as a file of credentials and as a helper's answer, and forgets them.
#[cfg(feature = "fuzzing")]
pub(crate) fn try_out(bytes: &[u8]) {
    for format in [auth_file::Format::Sections, auth_file::Format::Legacy] {
        let _ = auth_file::AuthFile::parse(bytes, Path::new("auth.json"), format);
    }
    let _ = helper::parse_answer(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = key::parse_argument(text);
    }
}

/// Says which file wanted a helper that failed.
fn asked_for(error: Error, path: &Path, named: &NamedHelper) -> Error {
    let message =
        format!("credHelpers in `{}` names a helper for `{}`", path.display(), named.server);
    if error.kind() != ErrorKind::NotFound {
        return error.context(message);
    }
    let hint = format!(
        "install docker-credential-{}, or remove its line from `{}`",
        named.name,
        path.display()
    );
    Error::new(ErrorKind::InvalidInput, message).with_source(error).with_hint(hint)
}

/// Makes one error of several; `None` of none.
fn join(what: &str, mut errors: Vec<Error>) -> Option<Error> {
    if errors.len() < 2 {
        return errors.pop().map(|error| error.context(what.to_owned()));
    }
    let kind = errors[0].kind();
    let hint = errors.iter().find_map(Error::hint).map(str::to_owned);
    let all: Vec<_> = errors.iter().map(|error| error.chain().join(": ")).collect();
    let joined = Error::new(kind, format!("{what}: {}", all.join("; ")));
    Some(match hint {
        Some(hint) => joined.with_hint(hint),
        None => joined,
    })
}

/// Quotes a path as messages of other programs do.
fn quote(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
