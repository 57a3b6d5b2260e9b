//! An ability of destinations beyond ABI 1.0: going on with a blob whose writing broke off.
//!
//! A destination that keeps what has arrived of a blob, after a [`BlobWriter`](crate::BlobWriter)
//! failed for a passing reason, answers the extension [`NAME`] with [`answer`]. The host asks with
//! [`received`] before it tries again. The next
//! [`put_blob`](crate::Destination::put_blob) with that digest then gives a writer for the rest, and
//! the host writes the bytes from there on. They are verified as a whole all the same.
//!
//! A destination without the ability gets every blob from its first byte.

use crate::{Destination, Digest, Error, ErrorKind, Result};

/// The extension's name.
pub const NAME: &str = "diolkos.resume-blob/1";

/// Asks a destination how many of a blob's first bytes it has kept; `None` where it has not the
/// ability.
pub fn received(destination: &dyn Destination, digest: &Digest) -> Result<Option<u64>> {
    let Some(answer) = destination.extension(NAME, digest.as_str().as_bytes()) else {
        return Ok(None);
    };
    let text = String::from_utf8(answer?).unwrap_or_default();
    text.parse().map(Some).map_err(|_| {
        Error::new(
            ErrorKind::Internal,
            format!("the destination's answer to {NAME} is not a number: {text:?}"),
        )
    })
}

/// Answers the extension in a destination, where `name` is its name.
///
/// `received` returns how many of the blob's first bytes were kept, and makes the next
/// [`put_blob`](crate::Destination::put_blob) go on there.
pub fn answer(
    name: &str,
    input: &[u8],
    received: impl FnOnce(&Digest) -> Result<u64>,
) -> Option<Result<Vec<u8>>> {
    if name != NAME {
        return None;
    }
    let digest = std::str::from_utf8(input).ok().and_then(|text| text.parse().ok());
    let Some(digest) = digest else {
        return Some(Err(Error::new(ErrorKind::InvalidInput, "the input is no digest")));
    };
    Some(received(&digest).map(|count| count.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Accepts, BlobIncoming, BlobWriter, Committed, RawManifest, TopLevel};

    struct Keeps(Option<&'static str>);

    impl Destination for Keeps {
        fn accepts(&self) -> Accepts {
            Accepts::default()
        }
        fn put_blob(&self, _: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
            Ok(None)
        }
        fn put_manifest(&self, _: &RawManifest, _: Option<&Digest>) -> Result<()> {
            Ok(())
        }
        fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
            Ok(Committed::default())
        }
        fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
            match self.0? {
                "honest" => answer(name, input, |digest| Ok(digest.as_str().len() as u64)),
                other => Some(Ok(other.as_bytes().to_vec())),
            }
        }
    }

    #[test]
    fn what_was_kept_crosses_as_a_number_and_nonsense_is_an_error() {
        let digest: Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        assert_eq!(received(&Keeps(Some("honest")), &digest).unwrap(), Some(71));
        assert_eq!(received(&Keeps(None), &digest).unwrap(), None);
        let error = received(&Keeps(Some("-5")), &digest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(answer("something/1", b"", |_| Ok(0)).is_none());
        assert!(answer(NAME, b"no digest", |_| Ok(0)).unwrap().is_err());
    }
}
