//! What logins are kept for: a registry, or a namespace or repository in one.

use diolkos_sdk::login::Place;
use diolkos_sdk::{Error, ErrorKind, Reference, Result};

/// How Docker's own files call its registry.
pub(super) const DOCKER_SERVER: &str = "https://index.docker.io/v1/";

/// Reads what a user wrote after `login` or `logout`.
///
/// Of a URL only host and port count.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a namespace that no repository can have, a tag or a digest.
pub(crate) fn parse_argument(written: &str) -> Result<Place> {
    let key = host_of_url(written).unwrap_or(written);
    let registry = registry_of(key);
    if registry.is_empty() {
        return Err(invalid(format!("{written:?} names no registry")));
    }
    let place = Place { key: key.to_owned(), registry: registry.to_owned() };
    if registry == key {
        return Ok(place);
    }
    let reference: Reference = key
        .parse()
        .map_err(|error: Error| error.context(format!("parse reference from {key:?}")))?;
    if reference.tag().is_some() || reference.digest().is_some() {
        return Err(invalid(format!(
            "reference {:?} contains tag or digest",
            reference.to_string()
        )));
    }
    if reference.domain() != registry {
        return Err(invalid(format!(
            "key {key:?} registry mismatch, {:?} vs. {:?}",
            reference.name(),
            reference.domain()
        ))
        .with_hint("begin with the registry's host name, such as `docker.io/`"));
    }
    Ok(place)
}

/// Returns host and port of a URL, `None` for what is no URL of a registry.
fn host_of_url(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// Checks what logins are looked up by; tells whether it is more than a registry.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a URL, a digest or a tag.
pub(super) fn validate(key: &str) -> Result<bool> {
    if key.starts_with("http://") || key.starts_with("https://") {
        return Err(invalid(format!("key {key} contains http[s]:// prefix")));
    }
    if key.contains('@') {
        return Err(invalid(format!("key {key} contains a '@' character")));
    }
    let namespace = key.split_once('/').map(|(_, namespace)| namespace);
    if namespace.is_some_and(|namespace| namespace.contains(':')) {
        return Err(invalid(format!("key {key} contains a ':' character after host[:port]")));
    }
    Ok(namespace.is_some())
}

/// Returns a key's registry.
pub(super) fn registry_of(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

/// Iterates over the keys that are good for `key`, from itself to its registry.
pub(super) fn with_parents(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| key.rsplit_once('/').map(|(parent, _)| parent))
}

/// Brings the names of one registry together: those of Docker's are many.
pub(super) fn normal_registry(registry: &str) -> &str {
    match registry {
        "registry-1.docker.io" | "docker.io" => "index.docker.io",
        other => other,
    }
}

/// Returns the registry that a key of a file means, in the form of [`normal_registry`].
///
/// A URL means its host. Without a scheme a path belongs to the key, but not in the files that
/// Docker wrote first, which have `legacy` keys.
pub(super) fn normal_key(key: &str, legacy: bool) -> &str {
    let bare = key.strip_prefix("http://").unwrap_or(key);
    let bare = bare.strip_prefix("https://").unwrap_or(bare);
    let host = if legacy || bare != key { registry_of(bare) } else { bare };
    normal_registry(host)
}

/// Returns how Docker's credential stores call a registry.
pub(super) fn docker_server(registry: &str) -> &str {
    if normal_registry(registry) == "index.docker.io" { DOCKER_SERVER } else { registry }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(written: &str) -> (String, String) {
        let place = parse_argument(written).unwrap();
        (place.key, place.registry)
    }

    #[test]
    fn of_a_url_the_host_counts_and_a_namespace_stays() {
        let both = |text: &str| (text.to_owned(), text.to_owned());
        assert_eq!(parts("quay.io"), both("quay.io"));
        assert_eq!(parts("localhost:5000"), both("localhost:5000"));
        assert_eq!(parts("https://quay.io/v1/x?y"), both("quay.io"));
        assert_eq!(parts("http://me@localhost:5000"), both("localhost:5000"));
        assert_eq!(parts("quay.io/org/app"), ("quay.io/org/app".into(), "quay.io".into()));
        assert_eq!(parts("docker.io/org"), ("docker.io/org".into(), "docker.io".into()));
    }

    #[test]
    fn what_is_no_repository_is_refused_by_name() {
        for (written, words) in [
            ("quay.io/Org", "parse reference from \"quay.io/Org\""),
            ("quay.io/org:1", "reference \"quay.io/org:1\" contains tag or digest"),
            ("", "\"\" names no registry"),
            ("https:///x", "\"https:///x\" names no registry"),
            ("org/app", "key \"org/app\" registry mismatch, \"docker.io/org/app\""),
        ] {
            let error = parse_argument(written).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().starts_with(words), "{error}");
        }
    }

    #[test]
    fn keys_have_no_scheme_tag_or_digest() {
        assert!(!validate("localhost:5000").unwrap());
        assert!(validate("localhost:5000/a/b").unwrap());
        for (key, words) in [
            ("https://quay.io", "key https://quay.io contains http[s]:// prefix"),
            ("quay.io/a@sha256:1", "key quay.io/a@sha256:1 contains a '@' character"),
            ("quay.io/a:1", "key quay.io/a:1 contains a ':' character after host[:port]"),
        ] {
            assert_eq!(validate(key).unwrap_err().message(), words);
        }
    }

    #[test]
    fn a_key_is_followed_by_what_it_is_part_of() {
        let keys: Vec<_> = with_parents("r:5/a/b").collect();
        assert_eq!(keys, ["r:5/a/b", "r:5/a", "r:5"]);
    }

    #[test]
    fn dockers_registry_has_many_names_and_old_keys_have_paths() {
        for key in ["docker.io", "registry-1.docker.io", DOCKER_SERVER, "http://docker.io"] {
            assert_eq!(normal_key(key, false), "index.docker.io");
        }
        assert_eq!(normal_key("https://quay.io/v1/", false), "quay.io");
        assert_eq!(normal_key("quay.io/org", false), "quay.io/org");
        assert_eq!(normal_key("quay.io/v1/", true), "quay.io");
        assert_eq!(docker_server("docker.io"), DOCKER_SERVER);
        assert_eq!(docker_server("quay.io"), "quay.io");
    }

    proptest! {
        #[test]
        fn what_was_parsed_can_be_looked_up(written in "[a-z]{1,5}(\\.io)?(:[0-9]{1,4})?(/[a-z0-9:@._-]{0,9}){0,3}") {
            if let Ok(place) = parse_argument(&written) {
                prop_assert!(validate(&place.key).is_ok());
                prop_assert_eq!(registry_of(&place.key), place.registry);
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(written in "\\PC{0,60}", legacy: bool) {
            let _ = parse_argument(&written);
            let _ = validate(&written);
            let _ = normal_key(&written, legacy);
        }
    }
}
