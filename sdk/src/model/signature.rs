//! Signatures as they are stored beside an image.

/// The format of a stored signature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureFormat {
    /// A "simple signing" OpenPGP message, containers-signature(5).
    SimpleSigning,
    /// A sigstore (cosign) payload with its signature and annotations.
    SigstoreJson,
    /// A format this version does not know, by its name; it travels unchanged.
    Other(String),
}

impl SignatureFormat {
    /// Returns the name that marks this format in files and over the ABI.
    pub fn name(&self) -> &str {
        match self {
            Self::SimpleSigning => "simple-signing",
            Self::SigstoreJson => "sigstore-json",
            Self::Other(name) => name,
        }
    }

    /// Returns the format with this name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "simple-signing" => Self::SimpleSigning,
            "sigstore-json" => Self::SigstoreJson,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// One stored signature: its format and its bytes, which only the trust code looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What the bytes are.
    pub format: SignatureFormat,
    /// The signature in that format, without any prefix that a storage adds to mark it.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads a signature from the form that files of `dir:` and lookaside storages have.
    ///
    /// A leading NUL byte announces a format by name, ended by a line feed; anything else is a
    /// simple signature.
    ///
    /// # Errors
    /// The text is no valid marker: NUL without a name and a line feed.
    ///
    /// # Source
    /// containers-transports(5), `dir`; the blob form that containers/image writes.
    pub fn from_blob(blob: &[u8]) -> crate::Result<Self> {
        let invalid = |why: &str| {
            crate::Error::new(crate::ErrorKind::Corrupt, format!("invalid signature file: {why}"))
        };
        match blob {
            [] => Err(invalid("it is empty")),
            [0, rest @ ..] => {
                let end = rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .ok_or_else(|| invalid("its format marker has no end"))?;
                let name = std::str::from_utf8(&rest[..end])
                    .map_err(|_| invalid("its format marker is not text"))?;
                Ok(Self {
                    format: SignatureFormat::from_name(name),
                    bytes: rest[end + 1..].to_vec(),
                })
            }
            // OpenPGP binary packets have the high bit set; nothing else was ever written bare.
            [first, ..] if first & 0x80 != 0 => {
                Ok(Self { format: SignatureFormat::SimpleSigning, bytes: blob.to_vec() })
            }
            _ => Err(invalid("its format is unknown")),
        }
    }

    /// Writes the form that files of `dir:` and lookaside storages have.
    pub fn to_blob(&self) -> Vec<u8> {
        match &self.format {
            SignatureFormat::SimpleSigning => self.bytes.clone(),
            format => {
                let mut blob = vec![0];
                blob.extend_from_slice(format.name().as_bytes());
                blob.push(b'\n');
                blob.extend_from_slice(&self.bytes);
                blob
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_files_survive_a_round_trip_whatever_their_format() {
        for blob in [&b"\x89openpgp"[..], b"\0sigstore-json\n{}", b"\0new-thing\n\0\n"] {
            assert_eq!(Signature::from_blob(blob).unwrap().to_blob(), blob);
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for blob in [&b""[..], b"{}", b"\0sigstore-json", b"\0\xff\xfe\nx"] {
            assert!(Signature::from_blob(blob).is_err());
        }
    }
}
