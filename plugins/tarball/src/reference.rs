//! References `tarball:PATH[:PATH...]`.

use diolkos_sdk::{Error, ErrorKind, ImageRef, Names, Result, Session, Source};

use crate::source;

/// What stands for the standard input.
pub(crate) const STDIN: &str = "-";

/// The archives of an image, the base first.
#[derive(Clone, Debug)]
pub(crate) struct TarballRef {
    paths: Vec<String>,
}

impl TarballRef {
    /// Parses the text after `tarball:`.
    pub fn parse(details: &str) -> Result<Self> {
        let paths: Vec<String> = details.split(':').map(str::to_owned).collect();
        if let Some(path) = paths.iter().find(|path| path.is_empty() || path.contains('\0')) {
            let message = format!("tarball: {path:?} is no path of an archive");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if paths.iter().filter(|path| *path == STDIN).count() > 1 {
            let message = "tarball: the standard input can be one layer alone";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(Self { paths })
    }
}

impl ImageRef for TarballRef {
    fn names(&self) -> Names {
        Names::new(self.paths.join(":"))
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(source::open(&self.paths, session)?))
    }
}
