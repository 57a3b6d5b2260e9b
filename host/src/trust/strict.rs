//! Objects of JSON where every surprise is an error: a typo in a policy must not weaken it.

use std::collections::HashSet;

use diolkos_sdk::{Error, ErrorKind, Result};
use serde_json::value::RawValue;

use crate::image::json::Object;

/// An object without repeated keys and with no keys but those that were expected.
pub(super) struct Strict<'a>(Object<'a>);

impl<'a> Strict<'a> {
    /// Reads an object in which `is_known` says which keys there may be.
    pub(super) fn open(text: &'a str, is_known: impl Fn(&str) -> bool) -> Result<Self> {
        if !text.trim_start().starts_with('{') && !text.trim().is_empty() {
            return Err(invalid(format!("JSON object expected, got {}", shown(text))));
        }
        let object = Object::parse_text(text).map_err(|error| invalid(error.to_string()))?;
        let mut seen = HashSet::new();
        for (key, _) in object.entries() {
            if !seen.insert(key) {
                return Err(invalid(format!("Duplicate key {key:?}")));
            }
            if !is_known(key) {
                return Err(invalid(format!("Unknown key {key:?}")));
            }
        }
        Ok(Self(object))
    }

    /// Reads an object that must have exactly these keys.
    pub(super) fn exact(text: &'a str, keys: &[&str]) -> Result<Self> {
        let strict = Self::open(text, |key| keys.contains(&key))?;
        match keys.iter().find(|key| !strict.has(key)) {
            None => Ok(strict),
            Some(missing) => Err(invalid(format!("Key {missing:?} missing in a JSON object"))),
        }
    }

    /// Tells whether a key is there, even if its value is `null`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Returns the text of a value, `null` too.
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.0.entries().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// Returns all keys and values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.entries()
    }

    /// Returns a string, empty when absent or `null`.
    pub(super) fn string(&self, key: &str) -> Result<String> {
        self.0.string(key).map_err(as_invalid)
    }

    /// Returns an array of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.0.strings(key).map_err(as_invalid)
    }
}

/// Returns the error of a file that is no policy.
pub(super) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Turns what is wrong with data elsewhere into what is wrong with a file that a user wrote.
fn as_invalid(error: Error) -> Error {
    invalid(error.message().to_owned())
}

/// Shows what was there instead of an object, as Go's `%#v` does.
fn shown(text: &str) -> String {
    match text.trim() {
        "null" => "<nil>".to_owned(),
        array if array.starts_with('[') => "91".to_owned(),
        other => other.chars().take(60).collect(),
    }
}
