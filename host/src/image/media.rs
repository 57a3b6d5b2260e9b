//! Media types: recognised from bytes, and the families that differ only in compression.

use diolkos_sdk::model::media_type::{
    DOCKER_CONFIG, DOCKER_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER_GZIP, DOCKER_LAYER,
    DOCKER_LAYER_GZIP, DOCKER_LIST, DOCKER_V2S1, DOCKER_V2S1_SIGNED, DOCKER_V2S2, OCI_CONFIG,
    OCI_FOREIGN_LAYER, OCI_FOREIGN_LAYER_GZIP, OCI_FOREIGN_LAYER_ZSTD, OCI_INDEX, OCI_LAYER,
    OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use diolkos_sdk::{Error, ErrorKind, Result};

use super::json::Object;
use crate::compress::Compression;

/// Docker layer, zstd: never standardised, but found.
pub(super) const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// What encrypted OCI layers have at the end of their type.
const ENCRYPTED: &str = "+encrypted";

/// Recognises the type of a manifest from its bytes; `None` when it is none that is known.
///
/// A type that the document itself names counts first; then schema versions and the config's type.
pub fn guess_media_type(bytes: &[u8]) -> Option<&'static str> {
    let document = Object::parse(bytes).ok()?;
    let named = document.string("mediaType").ok()?;
    let schema_version = document.integer("schemaVersion").ok()?;
    if let Some(known) = known_manifest_type(&named)
        && !matches!(known, DOCKER_V2S1 | DOCKER_V2S1_SIGNED)
    {
        return Some(known);
    }
    match schema_version {
        Some(1) if document.get("signatures").is_some() => Some(DOCKER_V2S1_SIGNED),
        Some(1) => Some(DOCKER_V2S1),
        Some(2) => {
            let config = document.object("config").ok()?.unwrap_or_default();
            let config_type = config.string("mediaType").ok()?;
            let instances = document.array("manifests").ok()?.unwrap_or_default();
            match config_type.as_str() {
                OCI_CONFIG => Some(OCI_MANIFEST),
                DOCKER_CONFIG => Some(DOCKER_V2S2),
                "" if !instances.is_empty() => Some(OCI_INDEX),
                _ if !instances.is_empty() => None,
                _ => Some(OCI_MANIFEST),
            }
        }
        _ => None,
    }
}

/// Returns the type as a constant if it is one of a manifest or index.
pub(super) fn known_manifest_type(media_type: &str) -> Option<&'static str> {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_V2S2, DOCKER_LIST, DOCKER_V2S1, DOCKER_V2S1_SIGNED]
        .into_iter()
        .find(|known| *known == media_type)
}

/// Fields that only one kind of manifest has; a document with those of two is refused.
const TELLING_FIELDS: [&str; 5] = ["config", "fsLayers", "history", "layers", "manifests"];

/// Refuses a document that could be read as something else than `media_type`.
///
/// # Source
/// OCI image-spec, security advisory GHSA-77vh-xpmg-72qh: one digest must not mean two images.
pub(super) fn refuse_ambiguous(document: &Object<'_>, media_type: &str) -> Result<()> {
    let allowed: &[&str] = match media_type {
        DOCKER_V2S1 | DOCKER_V2S1_SIGNED => &["fsLayers", "history"],
        OCI_INDEX | DOCKER_LIST => &["manifests"],
        _ => &["config", "layers"],
    };
    let unexpected: Vec<_> = TELLING_FIELDS
        .into_iter()
        .filter(|field| !allowed.contains(field) && document.get(field).is_some())
        .map(|field| format!("{field:?}"))
        .collect();
    if unexpected.is_empty() {
        return Ok(());
    }
    let shown = if media_type == DOCKER_V2S1 { DOCKER_V2S1_SIGNED } else { media_type };
    Err(Error::new(
        ErrorKind::Corrupt,
        format!(
            "rejecting ambiguous manifest, unexpected fields []string{{{}}} in supposedly {shown}",
            unexpected.join(", ")
        ),
    ))
}

/// Layer types that differ only in compression.
struct Family {
    plain: &'static str,
    gzip: &'static str,
    zstd: Option<&'static str>,
}

impl Family {
    fn contains(&self, media_type: &str) -> bool {
        self.plain == media_type || self.gzip == media_type || self.zstd == Some(media_type)
    }
}

/// Which families a type of manifest knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OCI manifests.
    Oci,
    /// Docker schema 2, and schema 1 in as far as it has layer types at all.
    Docker,
}

const OCI_FAMILIES: [Family; 2] = [
    Family {
        plain: OCI_FOREIGN_LAYER,
        gzip: OCI_FOREIGN_LAYER_GZIP,
        zstd: Some(OCI_FOREIGN_LAYER_ZSTD),
    },
    Family { plain: OCI_LAYER, gzip: OCI_LAYER_GZIP, zstd: Some(OCI_LAYER_ZSTD) },
];

const DOCKER_FAMILIES: [Family; 2] = [
    Family { plain: DOCKER_FOREIGN_LAYER, gzip: DOCKER_FOREIGN_LAYER_GZIP, zstd: None },
    Family { plain: DOCKER_LAYER, gzip: DOCKER_LAYER_GZIP, zstd: None },
];

impl Dialect {
    fn family(self, media_type: &str) -> Option<&'static Family> {
        let families = match self {
            Self::Oci => &OCI_FAMILIES,
            Self::Docker => &DOCKER_FAMILIES,
        };
        families.iter().find(|family| family.contains(media_type))
    }

    /// Tells whether layers of this type may be written in another compression.
    pub(super) fn is_recompressible(self, media_type: &str) -> bool {
        self.family(media_type).is_some()
    }

    /// Returns the type that a layer of `media_type` has in another compression.
    ///
    /// # Errors
    /// `ManifestRejected` when this dialect has no word for it, `Unsupported` for other content.
    pub(super) fn in_compression(
        self,
        media_type: &str,
        compression: Compression,
    ) -> Result<&'static str> {
        let Some(family) = self.family(media_type) else {
            let what = match compression {
                Compression::None => "decompression",
                _ => "compression",
            };
            return Err(Error::unsupported(format!(
                "unsupported MIME type for {what}: {media_type:?}"
            )));
        };
        let found = match compression {
            Compression::None => Some(family.plain),
            Compression::Gzip => Some(family.gzip),
            Compression::Zstd => family.zstd,
            Compression::Bzip2 | Compression::Xz => {
                return Err(Error::new(
                    ErrorKind::ManifestRejected,
                    format!(
                        "unknown compressed with algorithm {} variant for type {media_type:?}",
                        compression.name()
                    ),
                ));
            }
        };
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::ManifestRejected,
                format!(
                    "{} compression is not supported for type {media_type:?}",
                    compression.name()
                ),
            )
        })
    }
}

/// Returns the compression that a layer's type tells, if it does.
pub(super) fn compression_of(media_type: &str) -> Option<Compression> {
    match media_type {
        OCI_LAYER | OCI_FOREIGN_LAYER | DOCKER_LAYER | DOCKER_FOREIGN_LAYER => {
            Some(Compression::None)
        }
        OCI_LAYER_GZIP | OCI_FOREIGN_LAYER_GZIP | DOCKER_LAYER_GZIP | DOCKER_FOREIGN_LAYER_GZIP => {
            Some(Compression::Gzip)
        }
        OCI_LAYER_ZSTD | OCI_FOREIGN_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(Compression::Zstd),
        _ => None,
    }
}

/// Returns OCI's word for a layer type of schema 2.
pub(super) fn to_oci(media_type: &str) -> Result<&'static str> {
    Ok(match media_type {
        DOCKER_FOREIGN_LAYER => OCI_FOREIGN_LAYER,
        DOCKER_FOREIGN_LAYER_GZIP => OCI_FOREIGN_LAYER_GZIP,
        DOCKER_LAYER => OCI_LAYER,
        DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
        DOCKER_LAYER_ZSTD => OCI_LAYER_ZSTD,
        other => return Err(unknown_type(other)),
    })
}

/// Returns schema 2's word for a layer type of OCI.
pub(super) fn to_docker(media_type: &str) -> Result<&'static str> {
    Ok(match media_type {
        OCI_FOREIGN_LAYER => DOCKER_FOREIGN_LAYER,
        OCI_FOREIGN_LAYER_GZIP => DOCKER_FOREIGN_LAYER_GZIP,
        OCI_LAYER => DOCKER_LAYER,
        OCI_LAYER_GZIP => DOCKER_LAYER_GZIP,
        OCI_LAYER_ZSTD => {
            return Err(Error::unsupported(format!(
                "Error during manifest conversion: {media_type:?}: zstd compression is not \
                 officially supported for docker images"
            )));
        }
        OCI_FOREIGN_LAYER_ZSTD => {
            return Err(Error::unsupported(format!(
                "Error during manifest conversion: {media_type:?}: zstd compression is not \
                 supported for docker images"
            )));
        }
        other if other.strip_suffix(ENCRYPTED).is_some_and(is_oci_layer) => {
            return Err(Error::unsupported(format!(
                "during manifest conversion: encrypted layers ({other:?}) are not supported in \
                 docker images"
            )));
        }
        other => return Err(unknown_type(other)),
    })
}

fn is_oci_layer(media_type: &str) -> bool {
    Dialect::Oci.is_recompressible(media_type)
}

fn unknown_type(media_type: &str) -> Error {
    Error::unsupported(format!("Unknown media type during manifest conversion: {media_type:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_are_recognised_from_what_only_they_have() {
        for (document, expected) in [
            (format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_V2S2}"}}"#), Some(DOCKER_V2S2)),
            (format!(r#"{{"MEDIATYPE":"{OCI_INDEX}"}}"#), Some(OCI_INDEX)),
            (r#"{"schemaVersion":1}"#.into(), Some(DOCKER_V2S1)),
            (r#"{"schemaVersion":1,"signatures":null}"#.into(), Some(DOCKER_V2S1)),
            (r#"{"schemaVersion":1,"signatures":[]}"#.into(), Some(DOCKER_V2S1_SIGNED)),
            (
                format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}"}}}}"#),
                Some(OCI_MANIFEST),
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"{DOCKER_CONFIG}"}}}}"#),
                Some(DOCKER_V2S2),
            ),
            (r#"{"schemaVersion":2,"manifests":[{}]}"#.into(), Some(OCI_INDEX)),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), Some(OCI_MANIFEST)),
            (r#"{"schemaVersion":2,"config":{"mediaType":"x"},"manifests":[{}]}"#.into(), None),
            (r#"{"schemaVersion":2,"config":{"mediaType":"x"}}"#.into(), Some(OCI_MANIFEST)),
            (r#"{"schemaVersion":"2"}"#.into(), None),
            (r#"{"schemaVersion":2.0}"#.into(), None),
            (r#"{"schemaVersion":2,"mediaType":7}"#.into(), None),
            (r#"{"schemaVersion":3}"#.into(), None),
            ("null".into(), None),
            ("[]".into(), None),
            (r#"{"schemaVersion":1} x"#.into(), None),
            (String::new(), None),
        ] {
            assert_eq!(guess_media_type(document.as_bytes()), expected, "{document}");
        }
    }

    #[test]
    fn a_document_with_the_fields_of_two_kinds_is_refused() {
        let document = Object::parse(br#"{"manifests":[],"Layers":[],"config":null}"#).unwrap();
        let error = refuse_ambiguous(&document, OCI_INDEX).unwrap_err();
        assert_eq!(
            error.message(),
            "rejecting ambiguous manifest, unexpected fields []string{\"layers\"} in supposedly \
             application/vnd.oci.image.index.v1+json"
        );
        let error = refuse_ambiguous(&document, DOCKER_V2S1).unwrap_err();
        assert!(error.message().ends_with(&format!(
            "[]string{{\"layers\", \"manifests\"}} in supposedly {DOCKER_V2S1_SIGNED}"
        )));
    }

    #[test]
    fn only_oci_has_words_for_zstd() {
        let found = Dialect::Oci.in_compression(OCI_LAYER_GZIP, Compression::Zstd).unwrap();
        assert_eq!(found, OCI_LAYER_ZSTD);
        let error = Dialect::Docker.in_compression(DOCKER_LAYER, Compression::Zstd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ManifestRejected);
        let error = Dialect::Oci.in_compression(OCI_LAYER, Compression::Xz).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ManifestRejected);
        let error = Dialect::Oci.in_compression("text/plain", Compression::None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn layer_types_survive_the_way_to_oci_and_back() {
        for docker in
            [DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER_GZIP]
        {
            assert_eq!(to_docker(to_oci(docker).unwrap()).unwrap(), docker);
        }
        assert!(to_docker(OCI_LAYER_ZSTD).unwrap_err().message().contains("officially"));
        let encrypted = format!("{OCI_LAYER_GZIP}{ENCRYPTED}");
        assert!(to_docker(&encrypted).unwrap_err().message().contains("encrypted layers"));
        assert!(to_oci("x").is_err());
    }

    proptest! {
        #[test]
        fn guessing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = guess_media_type(&bytes);
        }
    }
}
