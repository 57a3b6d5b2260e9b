//! The files of an image: manifests, config, signatures.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_formats::files;
use diolkos_sdk::{Digest, Result};

/// The largest one that is read, in bytes.
const MOST: u64 = 64 << 20;

/// The key of the manifest that was written last.
pub(crate) const MANIFEST: &str = "manifest";
/// The key of that manifest's signatures.
pub(crate) const SIGNATURES: &str = "signatures";

/// Returns the key of a manifest by its digest.
pub(crate) fn manifest_key(digest: &Digest) -> String {
    format!("manifest-{digest}")
}

/// Returns the key of the signatures of a manifest by its digest.
pub(crate) fn signature_key(digest: &Digest) -> String {
    format!("signature-{}", digest.hex())
}

/// Returns the name of the file that has a key's content: the key, or an encoding of it.
pub(crate) fn file_name(key: &str) -> String {
    let is_plain = |byte: u8| byte == b'.' || byte.is_ascii_digit() || byte.is_ascii_lowercase();
    if key.bytes().all(is_plain) { key.to_owned() } else { format!("={}", STANDARD.encode(key)) }
}

/// Returns where a key's content is, below the directory of an image.
pub(crate) fn path(image_dir: &Path, key: &str) -> PathBuf {
    image_dir.join(file_name(key))
}

/// Reads a key's content, `None` if there is none.
pub(crate) fn read(image_dir: &Path, key: &str) -> Result<Option<Vec<u8>>> {
    files::read_if_any(&path(image_dir, key), MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_keys_are_encoded() {
        assert_eq!(file_name("manifest"), "manifest");
        assert_eq!(file_name("sha256:ab"), "=c2hhMjU2OmFi");
        assert_eq!(file_name("manifest-x"), "=bWFuaWZlc3QteA==");
        assert_eq!(file_name("A"), "=QQ==");
    }
}
