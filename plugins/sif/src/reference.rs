//! References `sif:PATH`: all of the text is a path, colons included.

use diolkos_formats::paths::ImagePath;
use diolkos_sdk::{Destination, Error, ImageRef, Names, Result, Session, Source};

use crate::source;

/// A file with an image.
#[derive(Clone, Debug)]
pub(crate) struct SifRef {
    details: String,
    path: ImagePath,
}

impl SifRef {
    /// Parses the text after `sif:`.
    ///
    /// # Errors
    /// [`InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) when the path cannot be resolved: all
    /// but its last component must exist.
    pub fn parse(details: &str) -> Result<Self> {
        Ok(Self { details: details.to_owned(), path: ImagePath::parse(details)? })
    }
}

impl ImageRef for SifRef {
    fn names(&self) -> Names {
        Names {
            policy_identity: self.path.resolved().to_owned(),
            policy_namespaces: self.path.parents(),
            ..Names::new(self.details.clone())
        }
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(source::open(self.path.path(), session)?))
    }

    fn create(&self, _: &Session) -> Result<Box<dyn Destination>> {
        Err(Error::unsupported("\"sif:\" locations can only be read from, not written to"))
    }

    fn delete(&self, _: &Session) -> Result<()> {
        Err(Error::unsupported("Deleting images not implemented for sif: images")
            .with_hint(format!("remove the file `{}` itself", self.details)))
    }
}
