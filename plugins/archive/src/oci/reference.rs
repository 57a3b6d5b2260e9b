//! References to images in an archive.

use diolkos_formats::layout::{Choice, name};
use diolkos_formats::paths::ImagePath;
use diolkos_sdk::{Destination, Error, ErrorKind, ImageRef, Names, Result, Session, Source, Tags};

use super::destination::ArchiveDestination;
use super::source::{ArchiveSource, index};
use crate::input;

/// An image in an archive, or the only one.
#[derive(Clone, Debug)]
pub(super) struct ArchiveRef {
    given: String,
    path: ImagePath,
    name: String,
    position: Option<usize>,
}

impl ArchiveRef {
    /// Parses the text after `oci-archive:`.
    pub fn parse(details: &str) -> Result<Self> {
        let (given, image) = name::split(details);
        let position = name::position(image)?;
        let path = ImagePath::parse(given)?;
        let name = if position.is_some() { "" } else { image };
        name::check(name)?;
        Ok(Self { given: given.to_owned(), path, name: name.to_owned(), position })
    }

    fn choice(&self) -> Choice<'_> {
        match self.position {
            Some(position) => Choice::Position(position),
            None if self.name.is_empty() => Choice::Only,
            None => Choice::Name(&self.name),
        }
    }
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

impl ImageRef for ArchiveRef {
    fn names(&self) -> Names {
        let details = match self.position {
            Some(position) => format!("{}:@{position}", self.given),
            None => format!("{}:{}", self.given, self.name),
        };
        // The name is no part of the identity: with and without it may mean the same image.
        let mut policy_namespaces = self.path.parents();
        if self.path.resolved() != "/" {
            policy_namespaces.insert(0, self.path.resolved().to_owned());
        }
        Names {
            details,
            docker_reference: None,
            policy_identity: self.path.resolved().to_owned(),
            policy_namespaces,
            location: None,
        }
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        let tar = input::open(self.path.path(), session)?;
        Ok(Box::new(ArchiveSource::open(tar, self.choice())?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        if let Some(position) = self.position {
            return Err(invalid(format!(
                "Destination reference must not contain a manifest index @{position}"
            )));
        }
        let path = self.path.path();
        let name = self.name.clone();
        Ok(Box::new(ArchiveDestination::create(path, name, session)?))
    }

    fn tags(&self, session: &Session) -> Result<Tags> {
        let tar = input::open(self.path.path(), session)?;
        let mut tags = Vec::new();
        for entry in index(&tar)?.entries() {
            tags.extend(entry?.name);
        }
        Ok(Tags { repository: String::new(), tags })
    }
}
