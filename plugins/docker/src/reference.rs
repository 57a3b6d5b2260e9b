//! What follows `docker:`, and its names.
//!
//! `//REGISTRY/REPOSITORY[:TAG|@DIGEST]`, normalised as Docker does it; the tag is `latest` unless
//! something else is said. `//REPOSITORY@@unknown-digest@@` names a repository for writing an
//! image under nothing but its digest.

use std::sync::Arc;

use diolkos_sdk::{
    Destination, Error, ErrorKind, ImageRef, Location, Names, Reference, Result, Session, Source,
    Tags,
};

use crate::registry::{Registries, Repository};

/// What marks a reference to an image whose digest will be known when it is written.
const UNKNOWN_DIGEST: &str = "@@unknown-digest@@";

/// A parsed reference; it carries the open connections of its transport along.
pub(crate) struct DockerRef {
    name: Reference,
    registries: Arc<Registries>,
}

impl DockerRef {
    /// Parses what follows `docker:`.
    pub fn parse(details: &str, registries: &Arc<Registries>) -> Result<Self> {
        Ok(Self { name: parse(details)?, registries: registries.clone() })
    }

    fn repository(&self, session: &Session) -> Result<Repository> {
        self.registries.repository(&self.name, session)
    }
}

/// Parses a reference; one without tag and digest is of an unknown digest.
fn parse(details: &str) -> Result<Reference> {
    let invalid = |message: String| Error::new(ErrorKind::InvalidInput, message);
    let text = details.strip_prefix("//").ok_or_else(|| {
        invalid(format!("docker: image reference {details} does not start with //"))
    })?;
    if let Some(name) = text.strip_suffix(UNKNOWN_DIGEST) {
        let name = reference(name)?;
        if name.tag().is_some() || name.digest().is_some() {
            return Err(invalid(format!(
                "docker: image reference {name} has unknown digest set but it contains either a \
                 tag or digest"
            )));
        }
        return Ok(name);
    }
    let name = reference(text)?;
    if let (Some(_), Some(digest)) = (name.tag(), name.digest()) {
        let without_tag = name.without_tag_and_digest().with_digest(digest.clone());
        return Err(invalid(
            "Docker references with both a tag and digest are currently not supported".into(),
        )
        .with_hint(format!("leave the tag out: `docker://{}`", without_tag.familiar())));
    }
    Ok(name.or_latest())
}

/// Parses a reference, and says what is wrong in the words that scripts look for. The text itself is
/// left out: whoever asked shows it in full.
fn reference(text: &str) -> Result<Reference> {
    text.parse().map_err(|error: Error| {
        let message = error.message();
        let why = message.split_once(&format!("`{text}`: ")).map_or(message, |(_, why)| why);
        Error::new(error.kind(), format!("invalid reference format: {why}"))
    })
}

impl ImageRef for DockerRef {
    fn names(&self) -> Names {
        let unknown = self.name.tag().is_none() && self.name.digest().is_none();
        let suffix = if unknown { UNKNOWN_DIGEST } else { "" };
        Names {
            details: format!("//{}{suffix}", self.name.familiar()),
            docker_reference: Some(self.name.to_string()),
            policy_identity: if unknown { String::new() } else { self.name.to_string() },
            policy_namespaces: self.name.policy_namespaces(),
            location: Some(Location {
                scope: self.name.domain().to_owned(),
                place: self.name.path().to_owned(),
            }),
        }
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        if self.name.tag().is_none() && self.name.digest().is_none() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "reading images from docker: reference {:?} without a tag or digest is not \
                     supported",
                    self.name.to_string()
                ),
            ));
        }
        let places = self.registries.places(&self.name, session)?;
        Ok(Box::new(crate::source::DockerSource::new(places)?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        Ok(Box::new(crate::destination::DockerDestination::new(self.repository(session)?)))
    }

    fn delete(&self, session: &Session) -> Result<()> {
        crate::delete::delete(&self.repository(session)?)
    }

    fn tags(&self, session: &Session) -> Result<Tags> {
        crate::tags::list(&self.repository(session)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_malformed_reference_is_refused_in_the_words_that_scripts_know() {
        let words = |details: &str| parse(details).unwrap_err().message().to_owned();
        assert_eq!(words("//Foo"), "invalid reference format: repository name must be lowercase");
        assert!(words("//a b").starts_with("invalid reference format: "));
    }

    fn names(details: &str) -> Names {
        DockerRef::parse(details, &Arc::default()).unwrap().names()
    }

    #[test]
    fn short_names_get_their_registry_and_tag() {
        let names = names("//busybox");
        assert_eq!(names.details, "//busybox:latest");
        assert_eq!(names.docker_reference.as_deref(), Some("docker.io/library/busybox:latest"));
        assert_eq!(names.policy_identity, "docker.io/library/busybox:latest");
        assert_eq!(
            names.policy_namespaces,
            ["docker.io/library/busybox", "docker.io/library", "docker.io", "*.io"]
        );
        assert_eq!(
            names.location,
            Some(Location { scope: "docker.io".into(), place: "library/busybox".into() })
        );
    }

    #[test]
    fn wildcard_scopes_have_no_port() {
        assert_eq!(
            names("//r.example.com:5000/a/b:1").policy_namespaces,
            [
                "r.example.com:5000/a/b",
                "r.example.com:5000/a",
                "r.example.com:5000",
                "*.example.com",
                "*.com"
            ]
        );
        assert_eq!(
            names("//localhost:5000/a").policy_namespaces,
            ["localhost:5000/a", "localhost:5000"]
        );
        assert_eq!(names("//[::1]:5000/a").policy_namespaces, ["[::1]:5000/a", "[::1]:5000"]);
    }

    #[test]
    fn a_tag_and_a_digest_together_are_refused() {
        let text = format!("//a/b:1@sha256:{}", "ab".repeat(32));
        let error = parse(&text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.message().contains("both a tag and digest"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("docker://a/b@sha256:abab")));
    }

    #[test]
    fn two_slashes_are_needed() {
        for bad in ["busybox", "/busybox", "", "//", "//UPPER", "//a:1@@unknown-digest@@"] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(parse("/x").unwrap_err().message().contains("does not start with //"));
    }

    #[test]
    fn a_repository_without_tag_is_for_writing_only() {
        let names = names("//q.io/a/b@@unknown-digest@@");
        assert_eq!(names.details, "//q.io/a/b@@unknown-digest@@");
        assert_eq!(names.docker_reference.as_deref(), Some("q.io/a/b"));
    }

    proptest! {
        #[test]
        fn details_parse_again_to_the_same_names(text in "//[a-z0-9./:@_\\-]{0,50}") {
            if let Ok(reference) = DockerRef::parse(&text, &Arc::default()) {
                prop_assert_eq!(names(&reference.names().details), reference.names());
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,120}") {
            let _ = parse(&text);
        }
    }
}
