//! Digests of bytes as they pass, and what they must be.

use diolkos_sdk::{Algorithm, Digest, Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256, Sha512};

/// Computes a digest and counts bytes.
#[derive(Clone)]
pub(super) struct Hasher {
    state: State,
    size: u64,
}

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// Starts a digest.
    pub(super) fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
        };
        Self { state, size: 0 }
    }

    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
        self.size += bytes.len() as u64;
    }

    /// Returns the digest and the number of bytes.
    pub(super) fn finish(self) -> (Digest, u64) {
        let digest = match self.state {
            State::Sha256(hash) => Digest::from_hash(Algorithm::Sha256, &hash.finalize()),
            State::Sha512(hash) => Digest::from_hash(Algorithm::Sha512, &hash.finalize()),
        };
        (digest.expect("a hash has its algorithm's length"), self.size)
    }
}

/// Checks bytes against the digest and the size they were asked by.
#[derive(Clone)]
pub(super) struct Verifier<'a> {
    hasher: Hasher,
    expected: &'a Digest,
    size: Option<u64>,
}

impl<'a> Verifier<'a> {
    /// Starts checking; an unknown size is not checked.
    pub(super) fn new(expected: &'a Digest, size: Option<u64>) -> Self {
        Self { hasher: Hasher::new(expected.algorithm()), expected, size }
    }

    /// Returns how many bytes were added.
    pub(super) fn position(&self) -> u64 {
        self.hasher.size
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] as soon as there are more bytes than there may be, so that an
    /// endless blob ends.
    pub(super) fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        match self.size {
            Some(size) if self.hasher.size > size => Err(Error::new(
                ErrorKind::Corrupt,
                format!("the blob is longer than the {size} bytes it should have"),
            )),
            _ => Ok(()),
        }
    }

    /// Checks the whole and returns the number of bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when digest or size differ.
    pub(super) fn finish(self) -> Result<u64> {
        let (digest, count) = self.hasher.finish();
        if let Some(size) = self.size
            && count < size
        {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the blob ends after {count} of {size} bytes"),
            ));
        }
        if digest != *self.expected {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("Digest did not match, expected {}, got {digest}", self.expected),
            ));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &Digest, size: Option<u64>) -> Result<u64> {
        let mut verifier = Verifier::new(expected, size);
        verifier.update(bytes)?;
        verifier.finish()
    }

    #[test]
    fn only_the_right_bytes_pass() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"hello");
            let (digest, size) = hasher.finish();
            assert_eq!(size, 5);
            assert_eq!(check(b"hello", &digest, Some(5)).unwrap(), 5);
            assert_eq!(check(b"hello", &digest, None).unwrap(), 5);
            for (bytes, size) in [(&b"hellO"[..], 5), (b"hell", 5), (b"hello!", 5), (b"hello", 4)] {
                let error = check(bytes, &digest, Some(size)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
    }
}
