//! The `tarball:` transport: an image made of tar archives of files, each of which is a layer.
//!
//! Only reading. The image's config and manifest are made from the archives: when they were changed,
//! their digests, and those of what is in them where they are compressed. Each is read once for
//! that, and a second time when it is copied. The bytes of a layer are those of its file.
//! Deliberately absent: setting the config.
//!
//! # Source
//! containers/image, `tarball`, whose images these are, byte for byte, in the time zone UTC.

mod source;

use diolkos_sdk::{Error, ErrorKind, ImageRef, Names, Plugin, Result, Session, Source, Transport};

/// What stands for the standard input.
const STDIN: &str = "-";

/// The transport.
#[derive(Debug)]
pub struct Tarball;

impl Transport for Tarball {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(TarballRef::parse(details)?))
    }

    fn check_policy_scope(&self, _: &str) -> Result<()> {
        let message = r#"tarball: does not support any scopes except the default "" one"#;
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

/// The archives of an image, the base first.
#[derive(Clone, Debug)]
struct TarballRef {
    paths: Vec<String>,
}

impl TarballRef {
    fn parse(details: &str) -> Result<Self> {
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
        Ok(Box::new(source::TarballSource::open(&self.paths, session)?))
    }
}

/// Returns what this plugin consists of.
pub fn plugin() -> Plugin {
    Plugin::new().with("tarball", Tarball)
}

diolkos_sdk::export_plugin!(plugin);
