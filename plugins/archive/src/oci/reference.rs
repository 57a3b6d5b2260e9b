//! References to images in an archive.

use diolkos_formats::layout::reference::{LayoutRef, tags};
use diolkos_sdk::{Destination, ImageRef, Names, Result, Session, Source, Tags};

use super::destination::ArchiveDestination;
use super::source::{ArchiveSource, index};
use crate::input;

/// An image in an archive, or the only one.
#[derive(Clone, Debug)]
pub(super) struct ArchiveRef(LayoutRef);

impl ArchiveRef {
    /// Parses the text after `oci-archive:`.
    pub fn parse(details: &str) -> Result<Self> {
        LayoutRef::parse(details).map(Self)
    }
}

impl ImageRef for ArchiveRef {
    fn names(&self) -> Names {
        self.0.names()
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        let tar = input::open(self.0.path(), session)?;
        Ok(Box::new(ArchiveSource::open(tar, self.0.choice())?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        let name = self.0.new_name()?.to_owned();
        Ok(Box::new(ArchiveDestination::create(self.0.path(), name, session)?))
    }

    fn tags(&self, session: &Session) -> Result<Tags> {
        let tar = input::open(self.0.path(), session)?;
        Ok(Tags { repository: String::new(), tags: tags(&index(&tar)?)? })
    }
}
