//! References to images in an archive.

use std::path::Path;

use diolkos_formats::docker_archive::{Choice, Images};
use diolkos_sdk::{
    Destination, Error, ErrorKind, ImageRef, Names, Reference, Result, Session, Source, Tags,
};

use super::destination::ArchiveDestination;
use super::source;
use crate::input;

/// An image in an archive.
#[derive(Clone, Debug)]
pub(super) struct ArchiveRef {
    path: String,
    choice: Choice,
}

impl ArchiveRef {
    /// Parses the text after `docker-archive:`.
    pub fn parse(details: &str) -> Result<Self> {
        if details.is_empty() {
            let message = "docker-archive reference  isn't of the form <path>[:<reference>]";
            return Err(invalid(message));
        }
        if details.contains('\0') {
            return Err(invalid("docker-archive: a path has no NUL byte"));
        }
        let (path, rest) = details.split_once(':').unwrap_or((details, ""));
        let choice = match (details.contains(':'), diolkos_formats::layout::name::position(rest)?) {
            (_, Some(position)) => Choice::Position(position),
            (true, None) => Choice::Reference(tagged(rest)?),
            (false, None) => Choice::Only,
        };
        Ok(Self { path: path.to_owned(), choice })
    }
}

/// Parses a reference that must have a tag, or gets `latest`.
fn tagged(text: &str) -> Result<Reference> {
    let parsed: Reference =
        text.parse().map_err(|error: Error| error.context("docker-archive parsing reference"))?;
    let reference = parsed.or_latest();
    if reference.digest().is_some() {
        let message = match reference.tag() {
            Some(_) => format!("docker-archive doesn't support digest references: {reference}"),
            None => format!("reference does not include a tag: {reference}"),
        };
        return Err(invalid(&message).with_hint("name the image by a tag, or by @INDEX"));
    }
    Ok(reference)
}

pub(super) fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, message.to_owned())
}

impl ImageRef for ArchiveRef {
    fn names(&self) -> Names {
        let mut names = Names::new(match &self.choice {
            Choice::Only => self.path.clone(),
            Choice::Position(position) => format!("{}:@{position}", self.path),
            Choice::Reference(reference) => format!("{}:{reference}", self.path),
        });
        if let Choice::Reference(reference) = &self.choice {
            names.docker_reference = Some(reference.to_string());
        }
        names
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(source::open(Path::new(&self.path), &self.choice, session)?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        let reference = match &self.choice {
            Choice::Only => None,
            Choice::Reference(reference) => Some(reference.clone()),
            Choice::Position(position) => {
                let message =
                    format!("Destination reference must not contain a manifest index @{position}");
                return Err(invalid(&message));
            }
        };
        let mut tags = Vec::from_iter(reference);
        for tag in session.options.all("additional-tag") {
            let tag = tagged(tag)
                .map_err(|error| error.context(format!("error parsing additional-tag '{tag}'")))?;
            tags.push(tag);
        }
        let append = session.options.flag("append")?.unwrap_or(false);
        let destination = ArchiveDestination::create(&self.path, tags, append, session)?;
        Ok(Box::new(destination))
    }

    fn tags(&self, session: &Session) -> Result<Tags> {
        let tar = input::open(Path::new(&self.path), session)?;
        Ok(Tags { repository: String::new(), tags: Images::read(&tar)?.references()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_parse_again_and_references_get_a_tag() {
        for (text, details, reference) in [
            ("a.tar", "a.tar", None),
            ("a.tar:@3", "a.tar:@3", None),
            (
                "/x/a.tar:app",
                "/x/a.tar:docker.io/library/app:latest",
                Some("docker.io/library/app:latest"),
            ),
            ("a:r.example:5000/app:1", "a:r.example:5000/app:1", Some("r.example:5000/app:1")),
        ] {
            let names = ArchiveRef::parse(text).unwrap().names();
            assert_eq!(names.details, details);
            assert_eq!(names.docker_reference.as_deref(), reference);
            assert_eq!(ArchiveRef::parse(details).unwrap().names(), names);
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for bad in [
            "",
            "a:",
            "a:@x",
            "a:@-1",
            "a:UPPER",
            &format!("x:{digest}"),
            &format!("x:t:1{}", &digest[1..]),
        ] {
            assert_eq!(
                ArchiveRef::parse(bad).err().unwrap().kind(),
                ErrorKind::InvalidInput,
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn strange_names_are_refused_without_panic(text in "(\\PC|[a:@/0-9.]){0,30}") {
            let _ = ArchiveRef::parse(&text);
        }
    }
}
