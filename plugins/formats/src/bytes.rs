//! Bytes in memory: their digest, and values as JSON.

use diolkos_sdk::{Algorithm, Digest, Error, ErrorKind, Result};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Returns the digest of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    digest_of(Sha256::new_with_prefix(bytes))
}

/// Returns the digest of what was hashed.
pub fn digest_of(hash: Sha256) -> Digest {
    Digest::from_hash(Algorithm::Sha256, &hash.finalize())
        .expect("the hash has the algorithm's length")
}

/// Writes JSON without white space.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write JSON").with_source(error))
}
