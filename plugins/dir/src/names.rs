//! What the files of a `dir:` image are called, and what its `version` file says.
//!
//! Digests other than SHA-256 carry their algorithm in the file's name; such images have version
//! 1.2, all others 1.1.

use diolkos_sdk::{Algorithm, Digest};

/// The name of the top-level manifest or an instance's.
pub(crate) fn manifest(instance: Option<&Digest>) -> String {
    instance.map_or_else(|| "manifest.json".into(), |digest| blob(digest) + ".manifest.json")
}

/// The name of a blob.
pub(crate) fn blob(digest: &Digest) -> String {
    let algorithm = digest.algorithm();
    if algorithm == Algorithm::Sha256 {
        return digest.hex().to_owned();
    }
    format!("{}-{}", algorithm.name(), digest.hex())
}

/// The name of a signature of the image or an instance, counted from 1.
pub(crate) fn signature(instance: Option<&Digest>, number: usize) -> String {
    match instance {
        None => format!("signature-{number}"),
        Some(digest) => format!("{}.signature-{number}", blob(digest)),
    }
}

/// The name of the file that makes a directory an image's.
pub(crate) const VERSION: &str = "version";

/// What the `version` file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl Version {
    /// All digests are SHA-256.
    pub(crate) const SHA256_ONLY: Self = Self(1, 1);
    /// Digests may be others.
    pub(crate) const ANY_DIGEST: Self = Self(1, 2);
    /// The newest version that we read and overwrite.
    pub(crate) const NEWEST: Self = Self::ANY_DIGEST;

    /// Parses the file; nothing but the exact text is a version.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let numbers = text.strip_prefix(PREFIX)?.strip_suffix('\n')?;
        let (major, minor) = numbers.split_once('.')?;
        let version = Self(major.parse().ok()?, minor.parse().ok()?);
        (version.to_text() == text).then_some(version)
    }

    /// Writes the file's text.
    pub(crate) fn to_text(self) -> String {
        format!("{PREFIX}{}.{}\n", self.0, self.1)
    }
}

const PREFIX: &str = "Directory Transport Version: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_digest_algorithms_apart() {
        let sha256: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let sha512: Digest = format!("sha512:{}", "b".repeat(128)).parse().unwrap();
        let (a, b) = ("a".repeat(64), "b".repeat(128));
        assert_eq!(blob(&sha256), a);
        assert_eq!(blob(&sha512), format!("sha512-{b}"));
        assert_eq!(manifest(None), "manifest.json");
        assert_eq!(manifest(Some(&sha256)), format!("{a}.manifest.json"));
        assert_eq!(manifest(Some(&sha512)), format!("sha512-{b}.manifest.json"));
        assert_eq!(signature(None, 1), "signature-1");
        assert_eq!(signature(Some(&sha256), 2), format!("{a}.signature-2"));
        assert_eq!(signature(Some(&sha512), 3), format!("sha512-{b}.signature-3"));
    }

    #[test]
    fn only_the_exact_text_is_a_version() {
        let text = "Directory Transport Version: 1.1\n";
        assert_eq!(Version::SHA256_ONLY.to_text(), text);
        assert_eq!(Version::parse(text.as_bytes()), Some(Version::SHA256_ONLY));
        let newer = Version::parse(b"Directory Transport Version: 1.10\n").unwrap();
        assert!(newer > Version::NEWEST);
        for bad in ["", "1.1\n", "Directory Transport Version: 1.1", "x", "\u{1}"] {
            assert_eq!(Version::parse(bad.as_bytes()), None, "{bad:?}");
        }
        for bad in ["01.1", "1.+1", "1.1.1", "1", " 1.1", "1.1\n", "99999999999.1"] {
            assert_eq!(Version::parse(format!("{PREFIX}{bad}\n").as_bytes()), None, "{bad:?}");
        }
    }
}
