//! Searching files, and asking the helpers that they name.

use std::path::Path;

use diolkos_sdk::{ErrorKind, Result};

use super::auth_file::{AuthFile, Content, Entry};
use super::helper::Kept;
use super::{Found, Identity, Lookup, Nothing, asked_for, quote, update};
use crate::options::Credentials;

impl Lookup<'_> {
    pub(super) fn find_in_files(
        &self,
        key: &str,
        registry: &str,
        nothing: &mut Nothing,
    ) -> Result<Option<Found>> {
        for (path, format) in self.files.to_read(self.places, self.host) {
            let found = match update::read(&path)? {
                Some(bytes) => {
                    let file = AuthFile::parse(&bytes, &path, format)?;
                    self.find_in_file(&file, &path, key, registry, nothing)?
                }
                None => None,
            };
            if found.is_some() {
                return Ok(found);
            }
            self.host.debug(format!("no credentials for {key} in `{}`", path.display()));
            nothing.searched.push(path);
        }
        Ok(None)
    }

    fn find_in_file(
        &self,
        file: &AuthFile,
        path: &Path,
        key: &str,
        registry: &str,
        nothing: &mut Nothing,
    ) -> Result<Option<Found>> {
        let store = match file.helper(registry, path)? {
            // An empty name takes the registry out of the store.
            Some(named) if named.name.is_empty() => None,
            Some(named) => {
                let found = self
                    .ask(&named.name, &named.server)
                    .map_err(|error| asked_for(error, path, &named))?;
                if found.is_none() {
                    nothing.problems.push(format!(
                        "credential helper `docker-credential-{}` knows nothing of it",
                        named.name
                    ));
                }
                return Ok(found);
            }
            None => file.store(registry),
        };
        // What the file says itself may be of a repository; a store knows registries alone.
        if let Some(entry) = file.entry(key, registry, path)?
            && let Some(found) = self.of_entry(entry, path)
        {
            return Ok(Some(found));
        }
        let Some(named) = store else { return Ok(None) };
        match self.ask(&named.name, &named.server) {
            Err(error) if error.kind() != ErrorKind::Cancelled => {
                let problem = format!("{} (credsStore in `{}`)", error, path.display());
                self.host.debug(&problem);
                nothing.problems.push(problem);
                Ok(None)
            }
            asked => asked,
        }
    }

    fn of_entry(&self, entry: Entry, path: &Path) -> Option<Found> {
        let origin = format!("`{}`, key `{}`", path.display(), entry.key);
        match entry.content {
            Content::Nothing => {
                let message =
                    format!("credential entry {:?} in {} is empty", entry.key, quote(path));
                self.host.debug(message);
                None
            }
            Content::WithoutColon => {
                self.host.warn(format!(
                    "Error parsing the \"auth\" field of a credential entry {:?} in {}, \
                     missing colon",
                    entry.key,
                    quote(path)
                ));
                None
            }
            Content::Login { username, identity_token: Some(token), .. } => {
                Some(Found { identity: Identity::Token(token), username, origin })
            }
            Content::Login { username, password, identity_token: None } => {
                let who = Credentials { username: username.clone(), password };
                Some(Found { identity: Identity::Password(who), username, origin })
            }
        }
    }

    /// Asks a helper. It knows registries alone, whatever repository somebody needs.
    pub(super) fn ask(&self, name: &str, server: &str) -> Result<Option<Found>> {
        let helper = self.helper(name);
        let origin = || format!("credential helper `{}`, server `{server}`", helper.program());
        self.host.debug(format!("asking {}", origin()));
        Ok(helper.get(server)?.map(|kept| match kept {
            Kept::Token(token) => Found {
                identity: Identity::Token(token),
                username: String::new(),
                origin: origin(),
            },
            Kept::Password(who) => Found {
                username: who.username.clone(),
                identity: Identity::Password(who),
                origin: origin(),
            },
        }))
    }
}
