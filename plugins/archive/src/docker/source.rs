//! Reading an image from an archive, in place.

use std::path::Path;

use diolkos_formats::docker_archive::{ArchiveSource, Choice, Images};
use diolkos_sdk::{Result, Session};

use crate::input;

/// Opens the image that is meant.
///
/// # Errors
/// Those of [`input::open`] and of [`Images`].
pub(super) fn open(path: &Path, choice: &Choice, session: &Session) -> Result<ArchiveSource> {
    let tar = input::open(path, session)?;
    let image = Images::read(&tar)?.find(choice)?;
    Ok(ArchiveSource::new(tar, image, session.host.clone()))
}
