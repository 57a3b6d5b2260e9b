//! One file of the format, parsed: the second version, or the first, never both.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diolkos_sdk::Result;

use super::ShortNameMode;
use super::aliases::{self, Aliases};
use super::names;
use super::registry::{self, Registry};
use super::table::Section;
use crate::config::text::invalid;

/// Which versions of the format a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// Both: the main file.
    Any,
    /// The second: a file that is dropped in.
    OnlySecond,
}

/// What a file says; `None` where it says nothing.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub registries: BTreeMap<String, Registry>,
    pub search: Option<Vec<String>>,
    pub helpers: Option<Vec<String>>,
    pub mode: Option<ShortNameMode>,
    pub aliases: Aliases,
    /// Oddities that are no errors, for the log.
    pub notes: Vec<String>,
}

/// Parses a file.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput), naming the file, and the line
/// and key where there is one.
pub(super) fn parse(text: &str, path: &Path, versions: Versions) -> Result<Parsed> {
    let mut parsed = document(text, path, versions).map_err(|error| {
        error.context(format!("loading registries configuration `{}`", path.display()))
    })?;
    for note in &mut parsed.notes {
        *note = format!("{}: {note}", path.display());
    }
    Ok(parsed)
}

fn document(text: &str, path: &Path, versions: Versions) -> Result<Parsed> {
    let mut document = Section::document(text)?;
    let file: Arc<Path> = Arc::from(path);
    let mut notes = Vec::new();
    let first = FirstVersion::read(&mut document, &mut notes)?;
    let second = SecondVersion::read(&mut document, &file, &mut notes)?;
    notes.extend(document.leftovers());
    let mut parsed = match first {
        Some(_) if versions == Versions::OnlySecond => {
            return Err(invalid("registry must be in v2 format but is in v1".into()).with_hint(
                "write `[[registry]]` tables; lists such as [registries.insecure] may stand in \
                 registries.conf only",
            ));
        }
        Some(_) if second.is_any => {
            return Err(invalid("mixing sysregistry v1/v2 is not supported".into()).with_hint(
                "move what [registries.search], [registries.insecure] and [registries.block] say \
                 to unqualified-search-registries and [[registry]] tables",
            ));
        }
        Some(first) => first.into_parsed(&file)?,
        None => second.into_parsed()?,
    };
    for registry in parsed.search.iter_mut().flatten() {
        *registry = names::location(registry).map_err(invalid)?;
        if !names::is_host(registry) {
            let message = format!("invalid unqualified-search-registries entry {registry:?}");
            return Err(invalid(message).with_hint("write a host and perhaps a port, nothing else"));
        }
    }
    notes.extend(parsed.registries.values().flat_map(Registry::oddities));
    parsed.notes = notes;
    Ok(parsed)
}

/// The lists of the first version.
#[derive(Default)]
struct FirstVersion {
    search: Option<Vec<String>>,
    insecure: Option<Vec<String>>,
    block: Option<Vec<String>>,
}

impl FirstVersion {
    /// Reads the lists; `None` if the file has none, not even empty ones.
    fn read(document: &mut Section<'_>, notes: &mut Vec<String>) -> Result<Option<Self>> {
        let Some(mut lists) = document.section("registries", "[registries]")? else {
            return Ok(None);
        };
        let mut list = |key, name| -> Result<Option<Vec<String>>> {
            let Some(mut section) = lists.section(key, name)? else { return Ok(None) };
            let list = section.strings("registries")?;
            notes.extend(section.leftovers());
            Ok(list)
        };
        let result = Self {
            search: list("search", "[registries.search]")?,
            insecure: list("insecure", "[registries.insecure]")?,
            block: list("block", "[registries.block]")?,
        };
        notes.extend(lists.leftovers());
        let is_any = result.search.is_some() || result.insecure.is_some() || result.block.is_some();
        Ok(is_any.then_some(result))
    }

    fn into_parsed(self, file: &Arc<Path>) -> Result<Parsed> {
        let mut registries = BTreeMap::new();
        let lists = [(self.insecure, (true, false)), (self.block, (false, true))];
        for (list, (insecure, blocked)) in lists {
            for text in list.unwrap_or_default() {
                let place = names::location(&text).map_err(invalid)?;
                let registry = Registry::plain(place.clone(), insecure, blocked, file);
                registries.entry(place).or_insert(registry.clone()).add(&registry);
            }
        }
        Ok(Parsed { registries, search: self.search, ..Parsed::default() })
    }
}

/// The keys of the second version.
struct SecondVersion {
    registries: Vec<Registry>,
    rest: Parsed,
    /// Whether the file has any of the keys.
    is_any: bool,
}

impl SecondVersion {
    fn read(document: &mut Section<'_>, file: &Arc<Path>, notes: &mut Vec<String>) -> Result<Self> {
        let tables = document.sections("registry", "[[registry]]")?;
        let mut is_any = tables.is_some();
        let mut registries = Vec::new();
        for mut table in tables.unwrap_or_default() {
            registries.push(Registry::read(&mut table, file, notes)?);
            notes.extend(table.leftovers());
        }
        let mode = document.string("short-name-mode")?;
        let layer_helper = document.string("additional-layer-store-auth-helper")?;
        if let Some(helper) = &layer_helper {
            notes.push(format!(
                "line {}: `{helper}` is not called, there are no additional layer stores here",
                document.line_of("additional-layer-store-auth-helper")
            ));
        }
        let search = document.strings("unqualified-search-registries")?;
        let helpers = document.strings("credential-helpers")?;
        let aliases = document.section("aliases", "[aliases]")?;
        is_any |= mode.is_some()
            || layer_helper.is_some()
            || search.is_some()
            || helpers.is_some()
            || aliases.is_some();
        let mode = mode.map(|mode| {
            ShortNameMode::named(&mode).ok_or_else(|| {
                let line = document.line_of("short-name-mode");
                invalid(format!("line {line}: invalid short-name mode: {mode:?}"))
                    .with_hint("use `enforcing`, `permissive` or `disabled`")
            })
        });
        let rest = Parsed {
            search,
            helpers,
            mode: mode.transpose()?,
            aliases: aliases
                .map(|mut section| aliases::read(&mut section))
                .transpose()?
                .unwrap_or_default(),
            ..Parsed::default()
        };
        Ok(Self { registries, rest, is_any })
    }

    fn into_parsed(self) -> Result<Parsed> {
        Ok(Parsed { registries: registry::by_prefix(self.registries)?, ..self.rest })
    }
}
