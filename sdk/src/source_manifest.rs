//! An ability of destinations beyond ABI 1.0: knowing the manifest that the source has.
//!
//! What is written may be another one: of an index the host may copy the image of one platform, and
//! a manifest may be converted. A storage that finds images by any digest they are known by can then
//! keep the source's beside the image: a destination that answers the extension [`NAME`] with
//! [`answer`] is given the source's top-level manifest or index, byte for byte, before its
//! [`commit`](crate::Destination::commit). It is told nothing where that is what was written.

use crate::{Destination, Result};

/// The extension's name.
pub const NAME: &str = "diolkos.source-manifest/1";

/// Gives the manifest to a destination, which may not care.
///
/// # Errors
/// The destination's own.
pub fn tell(destination: &dyn Destination, manifest: &[u8]) -> Result<()> {
    destination.extension(NAME, manifest).map_or(Ok(()), |answer| answer.map(drop))
}

/// Answers the extension in a destination, where `name` is its name; `told` gets the manifest.
pub fn answer(
    name: &str,
    input: &[u8],
    told: impl FnOnce(&[u8]) -> Result<()>,
) -> Option<Result<Vec<u8>>> {
    (name == NAME).then(|| told(input).map(|()| Vec::new()))
}
