//! Content that a descriptor carries in itself, which need not be fetched.

use std::io::{Cursor, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_sdk::{Blob, BlobReader, Descriptor, Result, Source};

use super::verify::Verifier;

/// Opens a blob: from its descriptor if that carries it, else from the source.
///
/// Embedded content that is not what digest and size say is passed over, as the specification has
/// it: the blob itself may still be right.
///
/// # Errors
/// What the source says.
///
/// # Source
/// OCI image-spec 1.1, "Content Descriptors", `data`.
pub(super) fn open(source: &dyn Source, descriptor: &Descriptor) -> Result<Blob> {
    match content(descriptor) {
        Some(bytes) => Ok(Blob {
            size: Some(bytes.len() as u64),
            reader: Box::new(Embedded(Cursor::new(bytes))),
        }),
        None => source.blob(descriptor, 0),
    }
}

fn content(descriptor: &Descriptor) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(descriptor.data.as_deref()?).ok()?;
    let mut verifier = Verifier::new(&descriptor.digest, descriptor.size);
    verifier.update(&bytes).ok()?;
    verifier.finish().ok()?;
    Some(bytes)
}

struct Embedded(Cursor<Vec<u8>>);

impl BlobReader for Embedded {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.0.read(buffer).expect("memory can be read"))
    }
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::conformance::image::sha256;

    use super::*;

    #[test]
    fn only_embedded_content_that_is_right_is_used() {
        let descriptor = |data: &str, size: u64| Descriptor {
            data: Some(data.to_owned()),
            ..Descriptor::new("a/b", sha256(b"hello"), size)
        };
        assert_eq!(content(&descriptor("aGVsbG8=", 5)).unwrap(), b"hello");
        for (data, size) in [("aGVsbG8=", 6), ("aGVsbE8=", 5), ("not base64!", 5), ("", 5)] {
            assert!(content(&descriptor(data, size)).is_none(), "{data}");
        }
        assert!(content(&Descriptor::new("a/b", sha256(b"hello"), 5)).is_none());
    }
}
