//! Who we are, as files and programs of this machine know it.

use std::path::{Path, PathBuf};

use diolkos_sdk::Result;

use crate::config::places::Places;
use crate::options::{Credentials, Secret};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Password(Credentials),
    Token(Secret),
}

pub(crate) struct Found {
    pub identity: Identity,
    pub origin: String,
}

pub(crate) struct Lookup<'a> {
    pub places: &'a Places,
    pub auth_file: Option<&'a Path>,
    pub compat_auth_file: Option<&'a Path>,
    pub helpers: &'a [String],
}

impl Lookup<'_> {
    pub fn find(&self, _key: &str, _note: &dyn Fn(&str)) -> Result<Option<Found>> {
        Ok(None)
    }
    pub fn searched(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}
