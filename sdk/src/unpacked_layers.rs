//! An ability of destinations beyond ABI 1.0: taking layers uncompressed while the manifest goes on
//! naming them as they were.
//!
//! A storage that keeps layers as trees of files wants their tar archives, yet the manifest that it
//! keeps beside them is the original one, which names what was compressed. For a destination that
//! answers the extension [`NAME`] the host decompresses layers on the way and changes nothing in
//! the manifest: what is written to a layer's writer is the uncompressed archive, and its
//! [`finish`](crate::BlobWriter::finish) is told digest and size of the blob as the manifest names
//! it, and the diff ID, which is the digest of what was written. Both are verified or computed by
//! the host. Configs, and layers that are not compressed, are as ever.
//!
//! A host without the ability hands layers over as they are; [`is_wanted`] was then never asked.

use crate::{Destination, Result};

/// The extension's name.
pub const NAME: &str = "diolkos.unpacked-layers/1";

/// Asks a destination whether it wants them so. Asked before the first blob, and perhaps
/// again.
pub fn is_wanted(destination: &dyn Destination) -> bool {
    matches!(destination.extension(NAME, b""), Some(Ok(_)))
}

/// Answers the extension in a destination, where `name` is its name; `asked` notes that the host
/// has the ability.
pub fn answer(name: &str, asked: impl FnOnce()) -> Option<Result<Vec<u8>>> {
    (name == NAME).then(|| {
        asked();
        Ok(Vec::new())
    })
}
