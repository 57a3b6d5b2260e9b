//! An ability of destinations beyond ABI 1.0: knowing an image's config before its blobs.
//!
//! A storage that tells layers by their diff IDs, or by the chain of them, cannot say from a layer's
//! digest whether it has it. A destination that answers the extension [`NAME`] with [`answer`] is
//! told the config before [`reuse`](crate::Destination::reuse) is asked for the first layer; its
//! `rootfs.diff_ids` are those of the layers in order. The config itself is put as ever.
//!
//! A destination without the ability is told nothing, and no config is read early for it.

use crate::{Destination, Result};

/// The extension's name.
pub const NAME: &str = "diolkos.image-config/1";

/// Asks a destination whether it wants to know.
pub fn is_wanted(destination: &dyn Destination) -> bool {
    matches!(destination.extension(NAME, b""), Some(Ok(_)))
}

/// Tells a destination the config of the image that comes.
///
/// # Errors
/// The destination's own; the image can be copied all the same.
pub fn tell(destination: &dyn Destination, config: &[u8]) -> Result<()> {
    destination.extension(NAME, config).map_or(Ok(()), |answer| answer.map(drop))
}

/// Answers the extension in a destination, where `name` is its name; `told` gets the config.
pub fn answer(
    name: &str,
    input: &[u8],
    told: impl FnOnce(&[u8]) -> Result<()>,
) -> Option<Result<Vec<u8>>> {
    if name != NAME {
        return None;
    }
    // A config is never empty: this asks whether one is wanted.
    let result = if input.is_empty() { Ok(()) } else { told(input) };
    Some(result.map(|()| Vec::new()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Accepts, BlobIncoming, BlobWriter, Committed, Digest, RawManifest, TopLevel};

    struct Listens(Option<Mutex<Vec<u8>>>);

    impl Destination for Listens {
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
            let heard = self.0.as_ref()?;
            answer(name, input, |config| {
                *heard.lock().unwrap() = config.to_vec();
                Ok(())
            })
        }
    }

    #[test]
    fn only_who_wants_to_know_is_told() {
        let listens = Listens(Some(Mutex::default()));
        assert!(is_wanted(&listens));
        assert!(listens.0.as_ref().unwrap().lock().unwrap().is_empty(), "asking tells nothing");
        tell(&listens, b"{}").unwrap();
        assert_eq!(*listens.0.as_ref().unwrap().lock().unwrap(), b"{}");
        assert!(!is_wanted(&Listens(None)));
        tell(&Listens(None), b"{}").unwrap();
        assert!(answer("something/1", b"{}", |_| Ok(())).is_none());
    }
}
