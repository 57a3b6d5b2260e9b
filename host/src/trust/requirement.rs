//! What policy.json may require of an image.
//!
//! # Source
//! containers-policy.json(5), "POLICY REQUIREMENTS".

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_sdk::{Reference, Result};
use serde_json::value::RawValue;

use super::strict::{Strict, invalid};
use crate::image::json::Object;

/// One condition that an image must meet.
///
/// Those that ask for signatures are checked for being well-formed when a policy is read; what they
/// say in detail is not kept, as nothing verifies signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    /// Every image meets it.
    InsecureAcceptAnything,
    /// No image meets it.
    Reject,
    /// A signature by GPG.
    SignedBy,
    /// A signature of the image that this one is based on; nobody ever built it.
    SignedBaseLayer,
    /// A signature by sigstore.
    SigstoreSigned,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InsecureAcceptAnything => "insecureAcceptAnything",
            Self::Reject => "reject",
            Self::SignedBy => "signedBy",
            Self::SignedBaseLayer => "signedBaseLayer",
            Self::SigstoreSigned => "sigstoreSigned",
        })
    }
}

/// Reads a list of requirements, which may not be empty.
pub(super) fn parse_list(value: &RawValue) -> Result<Vec<Requirement>> {
    let items: Option<Vec<&RawValue>> = serde_json::from_str(value.get())
        .map_err(|_| invalid(format!("expected a list of requirements, got {value}")))?;
    let items = items.unwrap_or_default();
    if items.is_empty() {
        return Err(invalid("List of verification policy requirements must not be empty"));
    }
    items.into_iter().map(|item| parse(item.get())).collect()
}

fn parse(text: &str) -> Result<Requirement> {
    let kind = type_of(text)?;
    match kind.as_str() {
        "insecureAcceptAnything" => {
            Strict::exact(text, &["type"])?;
            Ok(Requirement::InsecureAcceptAnything)
        }
        "reject" => {
            Strict::exact(text, &["type"])?;
            Ok(Requirement::Reject)
        }
        "signedBy" => check_signed_by(text).map(|()| Requirement::SignedBy),
        "signedBaseLayer" => {
            let object = Strict::exact(text, &["type", "baseLayerIdentity"])?;
            check_identity(object.raw("baseLayerIdentity"))?;
            Ok(Requirement::SignedBaseLayer)
        }
        "sigstoreSigned" => check_sigstore_signed(text).map(|()| Requirement::SigstoreSigned),
        _ => Err(invalid(format!("Unknown policy requirement type {kind:?}"))),
    }
}

/// Returns the `type` of an object.
fn type_of(text: &str) -> Result<String> {
    Object::parse_text(text)
        .and_then(|object| object.string("type"))
        .map_err(|error| invalid(error.message().to_owned()))
}

fn check_signed_by(text: &str) -> Result<()> {
    const KEYS: [&str; 3] = ["keyPath", "keyPaths", "keyData"];
    let object = Strict::open(text, |key| {
        KEYS.contains(&key) || matches!(key, "type" | "keyType" | "signedIdentity")
    })?;
    let key_type = object.string("keyType")?;
    match key_type.as_str() {
        "GPGKeys" | "signedByGPGKeys" | "X509Certificates" | "signedByX509CAs" => {}
        _ if object.has("keyType") => {
            return Err(invalid(format!("Unrecognized keyType value {key_type:?}")));
        }
        _ => {}
    }
    let sources = given(&object, &KEYS)?;
    check_optional_identity(&object)?;
    match KEYS.iter().filter(|key| object.has(key)).count() {
        0 => {
            return Err(invalid(
                "Exactly one of keyPath, keyPaths and keyData must be specified, none of them \
                 present",
            ));
        }
        1 => {}
        _ => {
            return Err(invalid(
                "Exactly one of keyPath, keyPaths and keyData must be specified, more than one \
                 present",
            ));
        }
    }
    if key_type.is_empty() {
        return Err(invalid("invalid keyType \"\""));
    }
    if sources != 1 {
        return Err(invalid("exactly one of keyPath, keyPaths and keyData must be specified"));
    }
    Ok(())
}

fn check_sigstore_signed(text: &str) -> Result<()> {
    const KEYS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];
    const REKOR: [&str; 4] =
        ["rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"];
    let object = Strict::open(text, |key| {
        KEYS.contains(&key)
            || REKOR.contains(&key)
            || matches!(key, "type" | "fulcio" | "pki" | "signedIdentity")
    })?;
    let (fulcio, pki) = (object.raw("fulcio"), object.raw("pki"));
    if let Some(fulcio) = fulcio {
        check_fulcio(fulcio.get())?;
    }
    if let Some(pki) = pki {
        check_pki(pki.get())?;
    }
    let keys = given(&object, &KEYS)?;
    let rekor = given(&object, &REKOR)?;
    check_optional_identity(&object)?;
    for list in ["keyPaths", "keyDatas", "rekorPublicKeyPaths", "rekorPublicKeyDatas"] {
        if object.has(list) && object.strings(list)?.unwrap_or_default().is_empty() {
            return Err(invalid(format!("\"{list}\" contains no entries")));
        }
    }
    if keys + usize::from(fulcio.is_some()) + usize::from(pki.is_some()) != 1 {
        return Err(invalid(
            "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, and pki must be specified",
        ));
    }
    if rekor > 1 {
        return Err(invalid(
            "at most one of rekorPublickeyPath, rekorPublicKeyPaths, rekorPublickeyData and \
             rekorPublicKeyDatas can be used simultaneously",
        ));
    }
    if fulcio.is_some() && rekor == 0 {
        return Err(invalid(
            "At least one of rekorPublickeyPath, rekorPublicKeyPaths, rekorPublickeyData and \
             rekorPublicKeyDatas must be specified if fulcio is used",
        ));
    }
    if pki.is_some() && rekor > 0 {
        return Err(invalid(
            "rekorPublickeyPath, rekorPublicKeyPaths, rekorPublickeyData and rekorPublicKeyDatas \
             are not supported for pki",
        ));
    }
    Ok(())
}

fn check_fulcio(text: &str) -> Result<()> {
    let object = Strict::open(text, |key| {
        matches!(key, "caPath" | "caData" | "oidcIssuer" | "subjectEmail")
    })?;
    match given(&object, &["caPath", "caData"])? {
        0 => return Err(invalid("At least one of caPath and caData must be specified")),
        1 => {}
        _ => return Err(invalid("caPath and caData cannot be used simultaneously")),
    }
    for field in ["oidcIssuer", "subjectEmail"] {
        if object.string(field)?.is_empty() {
            return Err(invalid(format!("{field} not specified")));
        }
    }
    Ok(())
}

fn check_pki(text: &str) -> Result<()> {
    const ROOTS: [&str; 2] = ["caRootsPath", "caRootsData"];
    const INTERMEDIATES: [&str; 2] = ["caIntermediatesPath", "caIntermediatesData"];
    let object = Strict::open(text, |key| {
        ROOTS.contains(&key)
            || INTERMEDIATES.contains(&key)
            || matches!(key, "subjectEmail" | "subjectHostname")
    })?;
    match given(&object, &ROOTS)? {
        0 => return Err(invalid("At least one of caRootsPath and caRootsData must be specified")),
        1 => {}
        _ => return Err(invalid("caRootsPath and caRootsData cannot be used simultaneously")),
    }
    if given(&object, &INTERMEDIATES)? > 1 {
        return Err(invalid(
            "caIntermediatesPath and caIntermediatesData cannot be used simultaneously",
        ));
    }
    if object.string("subjectEmail")?.is_empty() && object.string("subjectHostname")?.is_empty() {
        return Err(invalid("At least one of subjectEmail, subjectHostname must be specified"));
    }
    Ok(())
}

/// Counts which of these fields say something, checking each by what its name says it is.
fn given(object: &Strict<'_>, keys: &[&str]) -> Result<usize> {
    let mut count = 0;
    for key in keys {
        let values = if key.ends_with('s') {
            object.strings(key)?
        } else {
            let value = object.string(key)?;
            let is_null = object.raw(key).is_none_or(|raw| raw.get() == "null");
            // Empty data is still data; an empty path is none.
            let absent = is_null || (value.is_empty() && key.ends_with("Path"));
            (!absent).then(|| vec![value])
        };
        if key.contains("Data") {
            for value in values.iter().flatten() {
                // Go skips line breaks within base64.
                let value: String = value.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                STANDARD.decode(value).map_err(|_| invalid(format!("{key} is not base64")))?;
            }
        }
        count += usize::from(values.is_some());
    }
    Ok(count)
}

fn check_optional_identity(object: &Strict<'_>) -> Result<()> {
    match object.raw("signedIdentity") {
        None => Ok(()),
        identity => check_identity(identity),
    }
}

/// Checks which identity a signature must be for.
fn check_identity(value: Option<&RawValue>) -> Result<()> {
    let text = value.map_or("null", RawValue::get);
    let kind = type_of(text)?;
    match kind.as_str() {
        "matchExact" | "matchRepoDigestOrExact" | "matchRepository" => {
            Strict::exact(text, &["type"])?;
        }
        "exactReference" => {
            let object = Strict::exact(text, &["type", "dockerReference"])?;
            let name = object.string("dockerReference")?;
            let reference: Reference = name.parse().map_err(|error| {
                invalid(format!("Invalid format of dockerReference {name:?}: {error}"))
            })?;
            if reference.tag().is_none() && reference.digest().is_none() {
                return Err(invalid(format!(
                    "dockerReference {name:?} contains neither a tag nor digest"
                )));
            }
        }
        "exactRepository" => {
            let object = Strict::exact(text, &["type", "dockerRepository"])?;
            let name = object.string("dockerRepository")?;
            name.parse::<Reference>().map_err(|error| {
                invalid(format!("Invalid format of dockerRepository {name:?}: {error}"))
            })?;
        }
        "remapIdentity" => {
            let object = Strict::exact(text, &["type", "prefix", "signedPrefix"])?;
            for field in ["prefix", "signedPrefix"] {
                let prefix = object.string(field)?;
                if !is_prefix(&prefix) {
                    return Err(invalid(format!("prefix {prefix:?} is not valid")));
                }
            }
        }
        _ => return Err(invalid(format!("Unknown policy reference match type {kind:?}"))),
    }
    Ok(())
}

/// Tells whether the text is a registry, or a registry and part of a repository's path.
fn is_prefix(text: &str) -> bool {
    let (domain, path) = match text.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (text, None),
    };
    // A dot makes any label a host, so that the rules for hosts are those of references.
    let host = if domain.starts_with('[') { domain.to_owned() } else { format!("x.{domain}") };
    let is_domain =
        !domain.contains(['_', '@']) && format!("{host}/x").parse::<Reference>().is_ok();
    let is_path = path.is_none_or(|path| {
        !path.contains([':', '@'])
            && format!("registry.example/{path}").parse::<Reference>().is_ok()
    });
    is_domain && is_path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        parse(text)
            .map(|requirement| panic!("{requirement} passed: {text}"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_documented_requirement_is_understood() {
        for (text, expected) in [
            (r#"{"type":"insecureAcceptAnything"}"#, Requirement::InsecureAcceptAnything),
            (r#"{"type":"reject"}"#, Requirement::Reject),
            (r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}"#, Requirement::SignedBy),
            (
                r#"{"type":"signedBy","keyType":"signedByGPGKeys","keyPaths":["/a","/b"],
                    "signedIdentity":{"type":"exactRepository","dockerRepository":"quay.io/x"}}"#,
                Requirement::SignedBy,
            ),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys","keyData":"AAAA",
                    "signedIdentity":{"type":"remapIdentity","prefix":"a:5000/b","signedPrefix":"c"}}"#,
                Requirement::SignedBy,
            ),
            (
                r#"{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}"#,
                Requirement::SignedBaseLayer,
            ),
            (r#"{"type":"sigstoreSigned","keyDatas":["AAAA"]}"#, Requirement::SigstoreSigned),
            (
                r#"{"type":"sigstoreSigned","rekorPublicKeyData":"AAAA","fulcio":
                    {"caPath":"/c","oidcIssuer":"https://i","subjectEmail":"a@b"}}"#,
                Requirement::SigstoreSigned,
            ),
            (
                r#"{"type":"sigstoreSigned","pki":{"caRootsPath":"/c","subjectHostname":"h"},
                    "signedIdentity":{"type":"exactReference","dockerReference":"busybox:1"}}"#,
                Requirement::SigstoreSigned,
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn whatever_is_not_expected_is_refused() {
        for (text, expected) in [
            (r#"{"type":"x"}"#, r#"Unknown policy requirement type "x""#),
            ("{}", r#"Unknown policy requirement type """#),
            (r#"{"type":"reject","a":1}"#, r#"Unknown key "a""#),
            (r#"{"type":"reject","type":"reject"}"#, r#"Duplicate key "type""#),
            (r#"{"Type":"reject"}"#, r#"Unknown key "Type""#),
            (
                r#"{"type":"signedBaseLayer"}"#,
                r#"Key "baseLayerIdentity" missing in a JSON object"#,
            ),
            (
                r#"{"type":"signedBy","keyType":"x","keyPath":"/k"}"#,
                r#"Unrecognized keyType value "x""#,
            ),
            (r#"{"type":"signedBy","keyPath":"/k"}"#, r#"invalid keyType """#),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys"}"#,
                "Exactly one of keyPath, keyPaths and keyData must be specified, none of them present",
            ),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k","keyData":"AAAA"}"#,
                "Exactly one of keyPath, keyPaths and keyData must be specified, more than one present",
            ),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":""}"#,
                "exactly one of keyPath, keyPaths and keyData must be specified",
            ),
            (r#"{"type":"signedBy","keyType":"GPGKeys","keyData":"!"}"#, "keyData is not base64"),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k","signedIdentity":null}"#,
                r#"Unknown policy reference match type """#,
            ),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k",
                    "signedIdentity":{"type":"exactReference","dockerReference":"busybox"}}"#,
                r#"dockerReference "busybox" contains neither a tag nor digest"#,
            ),
            (
                r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k",
                    "signedIdentity":{"type":"remapIdentity","prefix":"a_b","signedPrefix":"c"}}"#,
                r#"prefix "a_b" is not valid"#,
            ),
            (r#"{"type":"sigstoreSigned","keyPaths":[]}"#, r#""keyPaths" contains no entries"#),
            (
                r#"{"type":"sigstoreSigned","keyPath":"/k","pki":{"caRootsPath":"/c","subjectEmail":"e"}}"#,
                "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, and pki must be specified",
            ),
            (
                r#"{"type":"sigstoreSigned","fulcio":{"caPath":"/c","oidcIssuer":"i","subjectEmail":"e"}}"#,
                "At least one of rekorPublickeyPath, rekorPublicKeyPaths, rekorPublickeyData and \
                 rekorPublicKeyDatas must be specified if fulcio is used",
            ),
            (
                r#"{"type":"sigstoreSigned","fulcio":{"caPath":"/c","subjectEmail":"e"}}"#,
                "oidcIssuer not specified",
            ),
            (
                r#"{"type":"sigstoreSigned","pki":{"caRootsPath":"/c"}}"#,
                "At least one of subjectEmail, subjectHostname must be specified",
            ),
            (r#"{"type":"sigstoreSigned","fulcio":[]}"#, "JSON object expected, got 91"),
        ] {
            assert_eq!(error_of(text), expected, "{text}");
        }
    }

    #[test]
    fn prefixes_are_registries_or_begin_with_one() {
        for good in ["a", "a.b:5000", "A-b", "[::1]:80", "a/b", "a.b/c_d/e", "localhost:1/x"] {
            assert!(is_prefix(good), "{good}");
        }
        for bad in ["", "a_b", "a/", "/a", "a/B", "a:b", "a/b:c", "-a", "a@b", "a//b", "[::1"] {
            assert!(!is_prefix(bad), "{bad}");
        }
    }
}
