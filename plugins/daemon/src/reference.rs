//! What follows `docker-daemon:`, and its names.
//!
//! A name with a tag or a digest, normalised as Docker does it, or `sha256:` and 64 digits, which
//! is an image's ID: the digest of its config. Short IDs are refused, they look like names.

use diolkos_sdk::{
    Algorithm, Destination, Digest, Error, ErrorKind, ImageRef, Names, Reference, Result, Session,
    Source,
};

use crate::client::Daemon;
use crate::destination::DaemonDestination;
use crate::endpoint::Endpoint;
use crate::options::Options;
use crate::source;

/// An image in a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DaemonRef {
    Id(Digest),
    Name(Reference),
}

impl DaemonRef {
    /// Parses the text after `docker-daemon:`.
    pub fn parse(details: &str) -> Result<Self> {
        if let Ok(digest) = details.parse::<Digest>() {
            if digest.algorithm() != Algorithm::Sha256 {
                return Err(invalid(format!(
                    "Invalid docker-daemon: reference {details}: only digest algorithm sha256 \
                     accepted"
                )));
            }
            return Ok(Self::Id(digest));
        }
        let name: Reference = details.parse().map_err(|error: Error| {
            let message = error.message();
            let why = message.split_once(&format!("`{details}`: ")).map_or(message, |(_, why)| why);
            invalid(format!("invalid reference format: {why}"))
        })?;
        let familiar = name.familiar();
        if name.familiar_name() == "sha256" {
            return Err(invalid(format!(
                "Invalid docker-daemon: reference {details}: The sha256 repository name is \
                 reserved for (non-shortened) digest references"
            )));
        }
        match (name.tag(), name.digest()) {
            (None, None) => Err(invalid(format!(
                "docker-daemon: reference {familiar} has neither a tag nor a digest"
            ))
            .with_hint(format!("name a tag: `docker-daemon:{familiar}:latest`"))),
            (Some(_), Some(_)) => Err(invalid(
                "docker-daemon: references with both a tag and digest are currently not supported"
                    .to_owned(),
            )),
            _ => Ok(Self::Name(name)),
        }
    }

    /// Returns what the daemon calls the image.
    pub fn text(&self) -> String {
        match self {
            Self::Id(digest) => digest.to_string(),
            Self::Name(name) => name.familiar(),
        }
    }
}

fn daemon(session: &Session) -> Result<Daemon> {
    let endpoint = Endpoint::find(&Options::of(session)?, &session.host);
    endpoint
        .and_then(|endpoint| Daemon::new(&endpoint, session))
        .map_err(|error| error.context("initializing docker engine client"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

impl ImageRef for DaemonRef {
    fn names(&self) -> Names {
        let mut names = Names::new(self.text());
        // An ID has no scope but the transport's own: it says nothing of where an image is from.
        if let Self::Name(name) = self {
            names.docker_reference = Some(name.to_string());
            names.policy_identity = name.to_string();
            names.policy_namespaces = name.policy_namespaces();
        }
        names
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(source::open(&daemon(session)?, self, session)?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        let tagged = match self {
            Self::Name(name) if name.tag().is_some() => name,
            _ => {
                return Err(invalid(format!(
                    "Invalid destination docker-daemon:{}: a destination must be a name:tag",
                    self.text()
                )));
            }
        };
        let daemon = daemon(session)?;
        // One that is not there is noticed before anything is read for it.
        daemon.runtime().block_on(&session.host, daemon.version())?;
        Ok(Box::new(DaemonDestination::new(daemon, tagged.clone())))
    }

    fn delete(&self, _: &Session) -> Result<()> {
        Err(Error::unsupported("Deleting images not implemented for docker-daemon: images")
            .with_hint(format!("`docker rmi {}` does it", self.text())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        let error = DaemonRef::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        error.message().to_owned()
    }

    #[test]
    fn names_and_ids_are_told_apart() {
        let id = format!("sha256:{}", "ab".repeat(32));
        let names = DaemonRef::parse(&id).unwrap().names();
        assert_eq!((names.details.as_str(), names.docker_reference), (id.as_str(), None));
        assert!(names.policy_identity.is_empty() && names.policy_namespaces.is_empty());
        let names = DaemonRef::parse("app:1").unwrap().names();
        assert_eq!(names.details, "app:1");
        assert_eq!(names.policy_identity, "docker.io/library/app:1");
        assert_eq!(names.policy_namespaces[0], "docker.io/library/app");
        assert_eq!(DaemonRef::parse(&format!("r.io/a/b@{id}")).unwrap().text().len(), 80);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert!(refused("sha256:abcd").contains("reserved for (non-shortened) digest references"));
        assert!(refused(&format!("sha512:{}", "0".repeat(128))).contains("only digest algorithm"));
        assert!(refused("app").contains("app has neither a tag nor a digest"));
        assert!(refused("UP:1").ends_with("repository name must be lowercase"));
        let both = format!("app:1@sha256:{}", "0".repeat(64));
        assert!(refused(&both).contains("both a tag and digest"));
        refused(&"0".repeat(64));
        refused("");
    }

    proptest! {
        #[test]
        fn details_parse_again_to_the_same_names(text in "[a-z0-9./:@_\\-]{0,50}") {
            if let Ok(reference) = DaemonRef::parse(&text) {
                prop_assert_eq!(DaemonRef::parse(&reference.names().details).unwrap(), reference);
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,120}") {
            let _ = DaemonRef::parse(&text);
        }
    }
}
