//! Prefixes and locations: what a name is matched with, and where it leads.

use diolkos_sdk::{Reference, Result};

use crate::config::text::invalid;

/// Checks a prefix or location, and takes slashes from its end.
pub(super) fn location(text: &str) -> std::result::Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err(format!("invalid location '{text}': URI schemes are not supported"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Tells whether a text is `host[:port]`.
pub(super) fn is_host(text: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        return !address.is_empty()
            && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
            && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    port.is_none_or(is_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Tells whether the first part of a location is one that names are taken to begin with.
pub(super) fn begins_with_host(location: &str) -> bool {
    let host = location.split('/').next().unwrap_or_default();
    // A tag after a repository without a host is not a port, but nobody can tell.
    host == "localhost" || (host.contains(['.', ':']) && !host.starts_with(':'))
}

/// Returns how many bytes of a full name a prefix covers, if it does.
///
/// A prefix ends where the name does, or before `/`, `:` or `@`. So `example.com` covers
/// `example.com:5000/app` too, as with other readers of these files.
pub(super) fn covered(name: &str, prefix: &str) -> Option<usize> {
    if let Some(parent) = prefix.strip_prefix('*').filter(|parent| parent.starts_with('.')) {
        let end = name.find(['/', ':', '@']).unwrap_or(name.len());
        return name[..end].ends_with(parent).then_some(end);
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

/// Puts a location in place of what a prefix covers.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) when no full name comes out.
pub(super) fn rewrite(name: &Reference, prefix: &str, location: &str) -> Result<Reference> {
    let text = name.to_string();
    let length = covered(&text, prefix).ok_or_else(|| {
        invalid(format!("rewriting reference: `{text}` does not begin with `{prefix}`"))
    })?;
    let rewritten = format!("{location}{}", &text[length..]);
    let result: Reference = rewritten.parse().map_err(|error: diolkos_sdk::Error| {
        invalid(format!("rewriting reference: `{location}` is no place for `{text}`"))
            .with_source(error)
    })?;
    if result.to_string() != rewritten {
        return Err(invalid(format!(
            "rewriting reference: `{rewritten}` is not a full name, it would be read as `{result}`"
        ))
        .with_hint(format!(
            "begin the location `{location}` with a host that has a dot or a port, and write \
             docker.io/library out"
        )));
    }
    let is_image = |name: &Reference| name.tag().is_some() || name.digest().is_some();
    if is_image(name) && !is_image(&result) {
        return Err(invalid(format!(
            "rewriting reference: `{result}` has neither a tag nor a digest, but `{text}` has"
        ))
        .with_hint(format!(
            "write a tag at the end of the location, as the prefix `{prefix}` does"
        )));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(name: &str, prefix: &str, location: &str) -> Result<String> {
        rewrite(&name.parse().unwrap(), prefix, location).map(|name| name.to_string())
    }

    #[test]
    fn a_prefix_ends_at_a_separator() {
        for (name, prefix, length) in [
            ("a.b/c/d:1", "a.b", Some(3)),
            ("a.b/c/d:1", "a.b/c", Some(5)),
            ("a.b/c/d:1", "a.b/c/d", Some(7)),
            ("a.b/c/d:1", "a.b/c/d:1", Some(9)),
            ("a.b/c/d@sha256:12", "a.b/c/d", Some(7)),
            ("a.b:5000/c", "a.b", Some(3)),
            ("a.b/c/d:1", "a.b/c/", None),
            ("a.b/c/d:1", "a", None),
            ("a.b/cd", "a.b/c", None),
            ("a.b", "a.b/c", None),
        ] {
            assert_eq!(covered(name, prefix), length, "{name} {prefix}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_any_number_of_subdomains_but_not_for_none() {
        for (name, length) in [
            ("a.example.com/x:1", Some(13)),
            ("a.b.example.com/x", Some(15)),
            ("a.example.com:5000/x", Some(13)),
            ("a.example.com.example.com/x", Some(25)),
            ("a.example.com", Some(13)),
            ("example.com/x", None),
            ("aexample.com/x", None),
            ("a.example.com.evil/x", None),
            ("evil/a.example.com/x", None),
        ] {
            assert_eq!(covered(name, "*.example.com"), length, "{name}");
        }
        // Only at the beginning, before a dot.
        assert_eq!(covered("a.example.com/x", "a.*.com"), None);
        assert_eq!(covered("a.example.com/x", "*example.com"), None);
    }

    #[test]
    fn what_follows_the_prefix_stays() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (name, prefix, location, expected) in [
            ("a.b/c/d:1", "a.b/c", "m.n/x/y", "m.n/x/y/d:1"),
            ("a.b/c:1", "a.b/c", "m.n:5000/x", "m.n:5000/x:1"),
            ("a.b/c:1", "a.b/c:1", "m.n/x:2", "m.n/x:2"),
            ("a.b/c", "a.b", "localhost", "localhost/c"),
            ("x.a.b/c:1", "*.a.b", "m.n/all", "m.n/all/c:1"),
            (&format!("a.b/c@{digest}"), "a.b", "m.n", &format!("m.n/c@{digest}")),
        ] {
            assert_eq!(rewritten(name, prefix, location).unwrap(), expected);
        }
    }

    #[test]
    fn a_location_that_leads_to_no_full_name_is_an_error_with_a_way_out() {
        let error = rewritten("a.b/c:1", "a.b", "mirror").unwrap_err();
        assert!(error.message().contains("docker.io/mirror/c:1"), "{error}");
        assert!(error.hint().unwrap().contains("dot or a port"));
        let error = rewritten("a.b/c:1", "a.b/c", "docker.io/busybox").unwrap_err();
        assert!(error.message().contains("docker.io/library/busybox:1"), "{error}");
        let error = rewritten("a.b/c:1", "a.b/c:1", "m.n/c").unwrap_err();
        assert!(error.message().contains("neither a tag nor a digest"), "{error}");
        for location in ["/x", "m.n//x", "m.n/UPPER", ""] {
            assert!(rewritten("a.b/c:1", "a.b", location).is_err(), "{location}");
        }
    }

    #[test]
    fn hosts_are_told_from_other_text() {
        for good in ["a", "a.b", "a-b.c:5000", "localhost", "[::1]", "[fe80::1]:80"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a.", ".a", "-a", "a-", "a:", "a:x", "a/b", "a b", "[]", "[::1", "[::1]x"] {
            assert!(!is_host(bad), "{bad}");
        }
        for (location, expected) in [
            ("a.b/c", true),
            ("localhost/c", true),
            ("a:1/c", true),
            ("a/c.d", false),
            ("/c", false),
        ] {
            assert_eq!(begins_with_host(location), expected, "{location}");
        }
    }

    #[test]
    fn schemes_are_refused_and_slashes_at_the_end_are_dropped() {
        assert!(location("https://a.b").unwrap_err().contains("URI schemes are not supported"));
        assert_eq!(location("a.b/c//").unwrap(), "a.b/c");
    }
}
