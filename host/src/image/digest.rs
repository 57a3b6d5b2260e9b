//! Digests of manifests, and the signatures that schema 1 manifests carry inside themselves.
//!
//! A signed schema 1 manifest is its *payload* with one more field, `signatures`, whose protected
//! header says where the payload was cut open. Its digest is the payload's. The signatures prove
//! nothing (their keys are throw-away keys), but registries insist on there being one.
//!
//! # Source
//! Docker image manifest version 2, schema 1, "Signed Manifests"; RFC 7515.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use diolkos_sdk::model::media_type::DOCKER_V2S1_SIGNED;
use diolkos_sdk::{Algorithm, Digest, Error, ErrorKind, Result};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::Serialize;
use sha2::Digest as _;

use super::json::{self, Object};
use super::media::guess_media_type;

/// Returns the SHA-256 digest of a manifest.
///
/// Signatures within a schema 1 manifest do not count: it is the digest of what they sign.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when a signed schema 1 manifest does not say what is signed.
pub fn digest_of(bytes: &[u8]) -> Result<Digest> {
    digest_by(Algorithm::Sha256, bytes)
}

/// Returns the digest of a manifest by a chosen algorithm; otherwise as [`digest_of`].
///
/// # Errors
/// As [`digest_of`].
pub fn digest_by(algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
    if guess_media_type(bytes) == Some(DOCKER_V2S1_SIGNED) {
        return Ok(of_blob(algorithm, &signed_payload(bytes)?));
    }
    Ok(of_blob(algorithm, bytes))
}

/// Tells whether a manifest has this digest, whichever algorithm it is of.
///
/// # Errors
/// As [`digest_of`].
pub fn digest_matches(bytes: &[u8], digest: &Digest) -> Result<bool> {
    Ok(digest_by(digest.algorithm(), bytes)? == *digest)
}

/// Returns the digest of bytes that are no manifest.
pub(super) fn of_blob(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::from_hash(algorithm, &sha2::Sha256::digest(bytes)),
        Algorithm::Sha512 => Digest::from_hash(algorithm, &sha2::Sha512::digest(bytes)),
    }
    .expect("each algorithm makes hashes of its own length")
}

/// Returns what the signatures of a schema 1 manifest sign.
///
/// The document must be its payload with nothing but `signatures` put in before the closing brace.
/// Otherwise a header could claim any payload, and so any digest, for any content.
fn signed_payload(bytes: &[u8]) -> Result<Vec<u8>> {
    let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, format!("schema 1 signature: {why}"));
    let document = Object::parse(bytes)?;
    let signatures = document.objects("signatures")?.unwrap_or_default();
    let mut cut: Option<(usize, Vec<u8>)> = None;
    for signature in &signatures {
        let protected = signature.string("protected")?;
        let header = decode(&protected).ok_or_else(|| corrupt("base64 decode error"))?;
        let header = Object::parse(&header)?;
        let length =
            header.integer("formatLength")?.ok_or_else(|| corrupt("missing formatted length"))?;
        let length = usize::try_from(length).map_err(|_| corrupt("invalid format length"))?;
        let tail = header.get("formatTail").ok_or_else(|| corrupt("missing formatted tail"))?;
        let tail: String =
            serde_json::from_str(tail.get()).map_err(|_| corrupt("missing formatted tail"))?;
        let tail = decode(&tail).ok_or_else(|| corrupt("base64 decode error on tail"))?;
        match &cut {
            None => cut = Some((length, tail)),
            Some((other, _)) if *other != length => {
                return Err(corrupt("conflicting format length"));
            }
            Some((_, other)) if *other != tail => return Err(corrupt("conflicting format tail")),
            Some(_) => {}
        }
    }
    let (length, tail) = cut.ok_or_else(|| corrupt("missing signatures"))?;
    let (head, rest) =
        bytes.split_at_checked(length).ok_or_else(|| corrupt("invalid format length"))?;
    let only_signatures_follow = rest.strip_prefix(b",").is_some_and(|rest| {
        let rest = [b"{", rest].concat();
        Object::parse(&rest).is_ok_and(|added| {
            let mut keys = added.entries().map(|(key, _)| key);
            keys.next() == Some("signatures") && keys.next().is_none()
        })
    });
    if !only_signatures_follow || tail.trim_ascii() != b"}" {
        return Err(corrupt("it does not cover the whole manifest"));
    }
    Ok([head, &tail].concat())
}

/// Decodes base64 for URLs, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

#[derive(Serialize)]
struct Signed {
    header: Header,
    signature: String,
    protected: String,
}

#[derive(Serialize)]
struct Header {
    jwk: Key,
    alg: &'static str,
}

#[derive(Serialize)]
struct Key {
    crv: &'static str,
    kid: String,
    kty: &'static str,
    x: String,
    y: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
    time: String,
}

/// Adds a signature by a key that is thrown away to a schema 1 manifest in compact form.
///
/// The bytes differ each time, the digest does not.
pub(super) fn sign(payload: &[u8]) -> Result<Vec<u8>> {
    let failed = |_| Error::new(ErrorKind::Internal, "signing a schema 1 manifest failed");
    let random = SystemRandom::new();
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(failed)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|_| Error::new(ErrorKind::Internal, "a key just made cannot be read"))?;
    let body = payload.strip_suffix(b"}").expect("our serialiser ends an object with a brace");
    let protected = URL_SAFE_NO_PAD.encode(json::to_vec(&Protected {
        format_length: body.len(),
        format_tail: URL_SAFE_NO_PAD.encode(b"}"),
        time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }));
    let input = format!("{protected}.{}", URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(&random, input.as_bytes()).map_err(failed)?;
    // An uncompressed point: 4, then both coordinates.
    let point = key.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let signatures = [Signed {
        header: Header {
            jwk: Key {
                crv: "P-256",
                kid: key_id(point),
                kty: "EC",
                x: URL_SAFE_NO_PAD.encode(x),
                y: URL_SAFE_NO_PAD.encode(y),
            },
            alg: "ES256",
        },
        signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
        protected,
    }];
    Ok([body, b",\"signatures\":", &json::to_vec(&signatures), b"}"].concat())
}

/// Returns the key's fingerprint: twelve groups of four characters.
fn key_id(point: &[u8]) -> String {
    /// What comes before the point in the DER form of a P-256 public key.
    const SPKI_PREFIX: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = sha2::Sha256::digest([&SPKI_PREFIX, point].concat());
    let mut id = String::with_capacity(59);
    for (index, group) in hash[..30].chunks_exact(5).enumerate() {
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for position in 0..8 {
            if position % 4 == 0 && index + position > 0 {
                id.push(':');
            }
            let digit = (bits >> (35 - 5 * position)) & 31;
            write!(id, "{}", char::from(BASE32[usize::try_from(digit).expect("five bits")]))
                .expect("writing to a string cannot fail");
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAYLOAD: &[u8] = br#"{"name":"a","fsLayers":[],"history":[],"schemaVersion":1}"#;

    fn protected(length: usize, tail: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(format!(
            r#"{{"formatLength":{length},"formatTail":"{}","time":"2020-01-01T00:00:00Z"}}"#,
            URL_SAFE_NO_PAD.encode(tail)
        ))
    }

    #[test]
    fn the_digest_of_a_signed_manifest_is_that_of_its_payload() {
        let signed = sign(PAYLOAD).unwrap();
        assert_ne!(signed, sign(PAYLOAD).unwrap(), "each signature has its own key");
        assert_eq!(guess_media_type(&signed), Some(DOCKER_V2S1_SIGNED));
        assert_eq!(digest_of(&signed).unwrap(), of_blob(Algorithm::Sha256, PAYLOAD));
        assert!(digest_matches(&signed, &of_blob(Algorithm::Sha512, PAYLOAD)).unwrap());
        assert!(!digest_matches(&signed, &of_blob(Algorithm::Sha256, &signed)).unwrap());
    }

    #[test]
    fn an_indented_manifest_gets_its_tail_back() {
        let payload = "{\n   \"schemaVersion\": 1\n}";
        let signed = format!(
            "{{\n   \"schemaVersion\": 1,\n   \"signatures\": [\n      {{\"protected\": \"{}\"}}\n   ]\n}}",
            protected(payload.len() - 2, b"\n}")
        );
        assert_eq!(
            digest_of(signed.as_bytes()).unwrap(),
            of_blob(Algorithm::Sha256, payload.as_bytes())
        );
    }

    #[test]
    fn a_signature_cannot_lend_its_digest_to_other_content() {
        let other = |length: usize, tail: &[u8]| {
            format!(
                r#"{{"evil":true,"schemaVersion":1,"signatures":[{{"protected":"{}"}}]}}"#,
                protected(length, tail)
            )
        };
        let good = other(r#"{"evil":true,"schemaVersion":1"#.len(), b"}");
        assert!(digest_of(good.as_bytes()).is_ok());
        for bad in [other(1, &PAYLOAD[1..]), other(0, PAYLOAD), other(12, b"}"), other(9999, b"}")]
        {
            let error = digest_of(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn the_signature_verifies_with_the_key_beside_it() {
        let signed = sign(PAYLOAD).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&signed).unwrap();
        let signature = &document["signatures"][0];
        let part = |value: &serde_json::Value| decode(value.as_str().unwrap()).unwrap();
        let key = &signature["header"]["jwk"];
        let point = [vec![4], part(&key["x"]), part(&key["y"])].concat();
        let input = format!(
            "{}.{}",
            signature["protected"].as_str().unwrap(),
            URL_SAFE_NO_PAD.encode(PAYLOAD)
        );
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
            .verify(input.as_bytes(), &part(&signature["signature"]))
            .unwrap();
        let id = key["kid"].as_str().unwrap();
        assert_eq!(id.split(':').map(str::len).collect::<Vec<_>>(), [4; 12]);
    }

    proptest! {
        #[test]
        fn signatures_of_any_shape_are_read_or_refused(
            length in 0_usize..200,
            tail in proptest::collection::vec(any::<u8>(), 0..8),
            noise in "\\PC{0,40}",
        ) {
            let text = format!(
                r#"{{"schemaVersion":1,"x":{noise:?},"signatures":[{{"protected":"{}"}}]}}"#,
                protected(length, &tail)
            );
            let _ = digest_of(text.as_bytes());
            let _ = digest_of(noise.as_bytes());
        }
    }
}
