//! One `[[registry]]` table: what it says, and which places it sends a name to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diolkos_sdk::{Reference, Result};

use super::names;
use super::table::Section;
use crate::config::text::invalid;

/// How the names below a prefix are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registry {
    pub(super) prefix: String,
    /// `None` only with a wildcard for a prefix: such names stay as they are.
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
    /// The file that says so, for messages.
    pub(super) file: Arc<Path>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    serves: Serves,
}

/// Which images a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    All,
    Digests,
    Tags,
}

impl Serves {
    fn includes(self, name: &Reference) -> bool {
        match self {
            Self::All => true,
            Self::Digests => name.digest().is_some(),
            Self::Tags => name.digest().is_none(),
        }
    }
}

/// A place that an image is looked for at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullSource {
    /// The image's name there.
    pub reference: Reference,
    /// Whether unverified certificates and plain HTTP will do.
    pub insecure: bool,
    /// Whether this is a mirror and not the registry itself.
    pub is_mirror: bool,
}

impl Registry {
    /// Returns the beginning of the names that this is about.
    #[cfg(test)]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Tells whether names below the prefix may not be reached there. Mirrors still may: together
    /// they say that nothing but mirrors is to be used.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Tells whether unverified certificates and plain HTTP will do.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Returns the places to pull `name` from, in order: the mirrors that serve such names, then
    /// the registry itself.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) when a location leads to
    /// what is no name.
    pub fn pull_sources(&self, name: &Reference) -> Result<Vec<PullSource>> {
        let mirrors = self.mirrors.iter().filter(|mirror| mirror.serves.includes(name));
        let mirrors = mirrors.map(|mirror| (Some(&mirror.location), mirror.insecure, true));
        let itself = (self.location.as_ref(), self.insecure, false);
        let places = mirrors.chain([itself]).map(|(location, insecure, is_mirror)| {
            let reference = match location {
                Some(location) => {
                    names::rewrite(name, &self.prefix, location).map_err(|error| {
                        error.context(format!(
                            "using the registry `{}` of `{}`",
                            self.prefix,
                            self.file.display()
                        ))
                    })?
                }
                None => name.clone(),
            };
            Ok(PullSource { reference, insecure, is_mirror })
        });
        places.collect()
    }

    /// Returns the place of `name` itself: for pushing, deleting and listing, which neither
    /// mirrors nor locations have a say in.
    pub fn direct(&self, name: &Reference) -> PullSource {
        PullSource { reference: name.clone(), insecure: self.insecure, is_mirror: false }
    }

    /// Reads a table of the second version.
    pub(super) fn read(
        section: &mut Section<'_>,
        file: &Arc<Path>,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let location = place(section, "location")?;
        let prefix = match (place(section, "prefix")?, &location) {
            (Some(prefix), _) => prefix,
            (None, Some(location)) => location.clone(),
            (None, None) => {
                return Err(fault(
                    section,
                    "location",
                    "invalid condition: both location and prefix are unset",
                ));
            }
        };
        let is_wildcard = prefix.starts_with("*.");
        if is_wildcard && prefix.contains(['/', '@', ':']) {
            return Err(fault(
                section,
                "prefix",
                &format!(
                    "wildcarded prefix should be in the format: *.example.com, current prefix \
                     {prefix:?} is incorrectly formatted"
                ),
            ));
        }
        if location.is_none() && !is_wildcard {
            return Err(fault(
                section,
                "prefix",
                "invalid condition: location is unset and prefix is not in the format: \
                 *.example.com",
            ));
        }
        if section.string("pull-from-mirror")?.is_some() {
            return Err(fault(
                section,
                "pull-from-mirror",
                &format!("pull-from-mirror must not be set for a non-mirror registry {prefix:?}"),
            ));
        }
        let only_digests = section.flag("mirror-by-digest-only")?;
        let mut mirrors = Vec::new();
        for mut table in section.sections("mirror", "[[registry.mirror]]")?.unwrap_or_default() {
            mirrors.push(Mirror::read(&mut table, &prefix, only_digests)?);
            notes.extend(table.leftovers());
        }
        Ok(Self {
            location,
            insecure: section.flag("insecure")?,
            blocked: section.flag("blocked")?,
            mirrors,
            file: file.clone(),
            prefix,
        })
    }

    /// Makes the registry that an entry of the lists of the first version stands for.
    pub(super) fn plain(prefix: String, insecure: bool, blocked: bool, file: &Arc<Path>) -> Self {
        Self {
            location: Some(prefix.clone()),
            prefix,
            insecure,
            blocked,
            mirrors: Vec::new(),
            file: file.clone(),
        }
    }

    /// Adds what another list of the first version says of the same registry.
    pub(super) fn add(&mut self, other: &Self) {
        self.insecure |= other.insecure;
        self.blocked |= other.blocked;
    }

    /// Returns what is odd about the places of this registry, though no error.
    pub(super) fn oddities(&self) -> impl Iterator<Item = String> {
        let mirrors = self.mirrors.iter().map(|mirror| &mirror.location);
        let odd =
            self.location.iter().chain(mirrors).filter(|place| !names::begins_with_host(place));
        odd.map(|place| {
            format!("the location `{place}` of `{}` does not begin with a host", self.prefix)
        })
    }
}

impl Mirror {
    fn read(section: &mut Section<'_>, registry: &str, only_digests: bool) -> Result<Self> {
        let location = place(section, "location")?.ok_or_else(|| {
            fault(section, "location", "invalid condition: mirror location is unset")
        })?;
        let serves = section.string("pull-from-mirror")?;
        if let (Some(_), true) = (&serves, only_digests) {
            return Err(fault(
                section,
                "pull-from-mirror",
                &format!(
                    "cannot set mirror usage mirror-by-digest-only for the registry ({registry:?}) \
                     and pull-from-mirror for per-mirror ({location:?}) at the same time"
                ),
            ));
        }
        let serves = match serves.as_deref() {
            None if only_digests => Serves::Digests,
            None | Some("all") => Serves::All,
            Some("digest-only") => Serves::Digests,
            Some("tag-only") => Serves::Tags,
            Some(other) => {
                let message =
                    format!("unsupported pull-from-mirror value {other:?} for mirror {location:?}");
                return Err(fault(section, "pull-from-mirror", &message)
                    .with_hint("use `all`, `digest-only` or `tag-only`"));
            }
        };
        Ok(Self { location, insecure: section.flag("insecure")?, serves })
    }
}

/// Takes a prefix or location.
fn place(section: &mut Section<'_>, key: &'static str) -> Result<Option<String>> {
    let text = section.string(key)?.map(|text| names::location(&text));
    let text = text.transpose().map_err(|why| fault(section, key, &why))?;
    Ok(text.filter(|text| !text.is_empty()))
}

fn fault(section: &Section<'_>, key: &str, message: &str) -> diolkos_sdk::Error {
    invalid(format!("line {}: {message}", section.line_of(key)))
}

/// Checks that tables about one location agree, and keeps the first of each prefix.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) for a location that is
/// blocked or insecure for one prefix and not for another.
pub(super) fn by_prefix(registries: Vec<Registry>) -> Result<BTreeMap<String, Registry>> {
    let mut by_place: BTreeMap<&str, &Registry> = BTreeMap::new();
    for registry in &registries {
        let place = registry.location.as_deref().unwrap_or(&registry.prefix);
        let first = by_place.entry(place).or_insert(registry);
        let conflict = if first.insecure != registry.insecure {
            "insecure"
        } else if first.blocked != registry.blocked {
            "blocked"
        } else {
            continue;
        };
        return Err(invalid(format!(
            "registry '{place}' is defined multiple times with conflicting '{conflict}' setting"
        )));
    }
    let mut by_prefix = BTreeMap::new();
    for registry in registries {
        by_prefix.entry(registry.prefix.clone()).or_insert(registry);
    }
    Ok(by_prefix)
}
