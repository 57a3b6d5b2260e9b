//! Docker references: `[domain/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use super::{Digest, Error, ErrorKind};

/// A docker reference in its normal form: domain and path always present, tag and digest optional.
///
/// `busybox` becomes `docker.io/library/busybox`; no tag is added, see [`Reference::or_latest`].
///
/// # Source
/// The grammar and normalisation of github.com/distribution/reference, which Docker, podman and
/// skopeo share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The longest name (domain and path), in bytes.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

impl Reference {
    /// Returns the registry's host, with its port if one is given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository's path within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns domain and path, such as `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the tag, if one is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one is given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the name as Docker shows it: without `docker.io/` and `library/`.
    pub fn familiar_name(&self) -> String {
        if self.domain != "docker.io" {
            return self.name();
        }
        match self.path.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// Returns the whole reference as Docker shows it, and as users write it: without `docker.io/`
    /// and `library/`, unless it would then be read as another one.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        let is_other =
            |text: &str| text.parse::<Self>().map_or(true, |it| it.domain != self.domain);
        if self.domain == "docker.io" && is_other(&text) {
            text = self.name();
        }
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }

    /// Returns the scopes of policy.json above this reference, most specific first.
    ///
    /// # Source
    /// containers-policy.json(5), `docker:`.
    pub fn policy_namespaces(&self) -> Vec<String> {
        let full = self.name();
        let mut scopes = vec![full.clone()];
        let mut rest = full.as_str();
        while let Some((parent, _)) = rest.rsplit_once('/') {
            scopes.push(parent.to_owned());
            rest = parent;
        }
        // Wildcards never carry a port.
        let mut host = match rest.rsplit_once(':') {
            Some((host, _)) if !rest.starts_with('[') => host,
            _ => rest,
        };
        if host.starts_with('[') {
            return scopes;
        }
        while let Some((_, parent)) = host.split_once('.') {
            scopes.push(format!("*.{parent}"));
            host = parent;
        }
        scopes
    }

    /// Returns this reference without tag and digest.
    #[must_use]
    pub fn without_tag_and_digest(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// Returns this reference with the tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(&self) -> Self {
        let mut result = self.clone();
        if result.tag.is_none() && result.digest.is_none() {
            result.tag = Some("latest".to_owned());
        }
        result
    }

    /// Returns this reference with another tag and without digest.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when `tag` is not a valid tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, Error> {
        if !is_tag(tag) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("invalid tag `{tag}`")));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Returns this reference with a digest; a tag stays.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| {
            let shown: String = text.chars().take(300).collect();
            Error::new(ErrorKind::InvalidInput, format!("invalid reference `{shown}`: {why}"))
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an image ID, not a name".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse::<Digest>().map_err(|error| error.to_string())?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (domain, remainder) = split_domain(rest);
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(format!(
            "invalid tag `{tag}`: a tag is up to {MAX_TAG} letters, digits, `_`, `.` and `-`, and \
             starts with a letter, digit or `_`"
        ));
    }
    if !is_domain(domain) {
        return Err(format!("invalid registry `{domain}`"));
    }
    let path = if domain == "docker.io" && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository name must be lowercase".into());
    }
    if !path.split('/').all(is_path_component) {
        return Err(format!("invalid repository name `{path}`"));
    }
    if domain.len() + 1 + path.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} characters"));
    }
    Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
}

/// Splits the registry off, by Docker's rule: the part before the first slash is one only if it
/// looks like a host.
fn split_domain(text: &str) -> (&str, &str) {
    let is_host = |part: &str| {
        part.contains(['.', ':'])
            || part == "localhost"
            || part.bytes().any(|b| b.is_ascii_uppercase())
    };
    match text.split_once('/') {
        Some((first, rest)) if is_host(first) => {
            (if first == "index.docker.io" { "docker.io" } else { first }, rest)
        }
        _ => ("docker.io", text),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if domain.starts_with('[') {
        return !host.is_empty() && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|part| {
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    })
}

/// Lower-case letters and digits in runs, with one `.`, one or two `_`, or any number of `-`
/// between runs.
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_alnum(first) || !is_alnum(last) {
        return false;
    }
    bytes.split(is_alnum).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    !bytes.is_empty()
        && bytes.len() <= MAX_TAG
        && word(&bytes[0])
        && bytes.iter().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_normalised_as_docker_does() {
        assert_eq!(normal("busybox"), "docker.io/library/busybox");
        assert_eq!(normal("busybox:1"), "docker.io/library/busybox:1");
        assert_eq!(normal("user/app"), "docker.io/user/app");
        assert_eq!(normal("index.docker.io/busybox"), "docker.io/library/busybox");
        assert_eq!(normal("localhost/app"), "localhost/app");
        assert_eq!(normal("localhost:5000/app:v1"), "localhost:5000/app:v1");
        assert_eq!(normal("[::1]:5000/a/b"), "[::1]:5000/a/b");
        assert_eq!(normal("Upper/app"), "Upper/app");
        assert_eq!(normal("q.io/a__b/c--d/e.f/g_h"), "q.io/a__b/c--d/e.f/g_h");
    }

    #[test]
    fn tag_and_digest_may_stand_together() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let reference: Reference = format!("a:1@{digest}").parse().unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest().unwrap().as_str(), digest);
        assert_eq!(reference.or_latest(), reference);
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for bad in [
            "",
            "UPPER",
            "a/UPPER",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a b",
            "a___b",
            "a..b",
            "-a",
            "a@sha256:12",
            "host-.example:5000/a",
            "host.example:port/a",
            "[::1/a",
            &"ab".repeat(32),
            &format!("a:{}", "x".repeat(129)),
            &"a/".repeat(140),
            "../../etc/passwd",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn familiar_names_drop_only_what_docker_adds() {
        let familiar = |text: &str| text.parse::<Reference>().unwrap().familiar_name();
        assert_eq!(familiar("docker.io/library/busybox:1"), "busybox");
        assert_eq!(familiar("user/app"), "user/app");
        assert_eq!(familiar("quay.io/library/app"), "quay.io/library/app");
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_normal_form(text in "[a-zA-Z0-9./:@_\\-\\[\\]]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }
    }
}
