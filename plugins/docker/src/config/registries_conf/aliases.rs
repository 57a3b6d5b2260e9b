//! Short names: what `[aliases]` makes of names without a registry.

use std::collections::BTreeMap;
use std::path::Path;

use diolkos_sdk::{Reference, Result};

use super::names;
use super::table::Section;
use crate::config::text::invalid;

/// Short names and what they stand for; nothing where an earlier file is overruled.
pub(super) type Aliases = BTreeMap<String, Option<Reference>>;

/// Reads a table of aliases.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput), with all that is wrong.
pub(super) fn read(section: &mut Section<'_>) -> Result<Aliases> {
    let mut faults = Vec::new();
    let mut aliases = Aliases::new();
    for (line, name, value) in section.pairs()? {
        let checked = check_name(&name).and_then(|()| match value.as_str() {
            "" => Ok(None),
            value => full_name(value).map(Some),
        });
        match checked {
            Ok(value) => {
                aliases.insert(name, value);
            }
            Err(why) => faults.push(format!("line {line}: {why}")),
        }
    }
    if faults.is_empty() {
        return Ok(aliases);
    }
    Err(invalid(format!("validating short-name aliases: {}", faults.join("; "))))
}

/// Reads a file that holds nothing but aliases: the one that other programs keep for a user.
pub(super) fn parse(text: &str, path: &Path) -> Result<Aliases> {
    let aliases = Section::document(text).and_then(|mut document| {
        let section = document.section("aliases", "[aliases]")?;
        section.map_or_else(|| Ok(Aliases::new()), |mut section| read(&mut section))
    });
    aliases.map_err(|error| {
        error.context(format!("loading short-name aliases config file `{}`", path.display()))
    })
}

/// Checks that a name is short: a repository without registry, tag or digest.
pub(super) fn check_name(name: &str) -> std::result::Result<(), String> {
    let invalid = |why: &str| Err(format!("invalid short name {name:?}: {why}"));
    let Ok(parsed) = name.parse::<Reference>() else { return invalid("it is no reference") };
    if parsed.digest().is_some() {
        return invalid("must not contain digest");
    }
    if parsed.tag().is_some() {
        return invalid("must not contain tag");
    }
    match name.split_once('/') {
        Some((host, _)) if names::begins_with_host(host) => invalid("must not contain registry"),
        _ => Ok(()),
    }
}

/// Parses what an alias stands for: a repository with its registry, without tag or digest.
fn full_name(text: &str) -> std::result::Result<Reference, String> {
    let invalid = |why: &str| Err(format!("invalid alias {text:?}: {why}"));
    let Ok(name) = text.parse::<Reference>() else { return invalid("it is no reference") };
    if name.digest().is_some() {
        return invalid("must not contain digest");
    }
    if name.tag().is_some() {
        return invalid("must not contain tag");
    }
    match text.split_once('/') {
        Some((host, _)) if names::begins_with_host(host) => Ok(name),
        _ => invalid("must contain registry and repository"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Aliases> {
        parse(text, Path::new("aliases.conf"))
    }

    #[test]
    fn a_short_name_stands_for_a_full_one_and_an_empty_one_for_nothing() {
        let aliases =
            of("[aliases]\n'app' = 'quay.io/me/app'\n'me/app' = 'docker.io/app'\nx = ''\n")
                .unwrap();
        let text = |name: &str| aliases[name].as_ref().map(ToString::to_string);
        assert_eq!(text("app").as_deref(), Some("quay.io/me/app"));
        assert_eq!(text("me/app").as_deref(), Some("docker.io/library/app"));
        assert_eq!(text("x"), None);
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_named_with_its_line() {
        let error =
            of("[aliases]\n'a:1' = 'q.io/a'\n'ok' = 'q.io/ok'\n'b' = 'nohost/b'\n").unwrap_err();
        let text = error.chain().join(": ");
        for words in [
            "`aliases.conf`",
            "line 2: invalid short name \"a:1\": must not contain tag",
            "line 4: invalid alias \"nohost/b\": must contain registry and repository",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn names_of_another_form_are_refused() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for (name, why) in [
            ("a:1", "must not contain tag"),
            (&digest, "must not contain digest"),
            ("q.io/a", "must not contain registry"),
            ("localhost/a", "must not contain registry"),
            ("UPPER", "no reference"),
            ("", "no reference"),
        ] {
            assert!(check_name(name).unwrap_err().contains(why), "{name}");
        }
        assert_eq!(check_name("me/app"), Ok(()));
        let digest = format!("q.io/{digest}");
        for (value, why) in [
            ("q.io/a:1", "must not contain tag"),
            (&digest, "must not contain digest"),
            ("app", "must contain registry"),
            ("me/app", "must contain registry"),
            ("q.io/UPPER", "no reference"),
        ] {
            assert!(full_name(value).unwrap_err().contains(why), "{value}");
        }
    }
}
