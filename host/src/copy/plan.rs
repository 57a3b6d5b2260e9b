//! What a copy will do, decided from facts alone: no I/O here.
//!
//! The same decisions print a dry run ([`Plan`]) and drive the transfer, so that what was
//! announced is what happens. One thing is only known while bytes flow: whether a layer is
//! compressed as its media type says. [`LayerRules::action`] is therefore asked again with what
//! the first bytes show.

use std::fmt;

use diolkos_sdk::model::media_type;
use diolkos_sdk::{Digest, Error, ErrorKind, LayerForm, Result};
use serde::Serialize;

use super::request::{CopyRequest, LayerRequest, ManifestFormat};
use crate::compress::Compression;

/// What happens to the bytes of a layer that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They are copied as they are.
    Keep,
    /// They are compressed.
    Compress(Compression),
    /// They are decompressed.
    Decompress,
    /// They are decompressed and compressed again.
    Recompress(Compression),
}

/// How the layers of one image are treated.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerRules {
    form: LayerForm,
    /// The format that the user named, if any.
    named: Option<Compression>,
    pub level: Option<i32>,
    /// Only layers in the named format will do.
    pub force: bool,
    /// Whether the manifest has a word for layers in zstd.
    names_zstd: bool,
}

impl LayerRules {
    /// Joins what the destination prefers and what the user asked for, for a manifest that is
    /// written in one of these types.
    pub(super) fn new(form: LayerForm, request: &CopyRequest, types: &[String]) -> Self {
        let form = match (form, request.layers) {
            (LayerForm::Preserve, LayerRequest::Compress) => LayerForm::Compress,
            (LayerForm::Preserve, LayerRequest::Decompress) => LayerForm::Decompress,
            (form, _) => form,
        };
        Self {
            form,
            named: request.compression,
            level: request.compression_level,
            force: request.force_compression,
            names_zstd: types.iter().any(|media_type| media_type == media_type::OCI_MANIFEST),
        }
    }

    /// Decides about a layer that is compressed in this way.
    pub(super) fn action(&self, found: Compression) -> Action {
        let target = self.named.unwrap_or(Compression::Gzip);
        match (self.form, found) {
            (LayerForm::Compress, Compression::None) => Action::Compress(target),
            (LayerForm::Compress, Compression::Zstd) if !self.names_zstd => {
                Action::Recompress(target)
            }
            (LayerForm::Compress, found) if self.named.is_some() && found != target => {
                Action::Recompress(target)
            }
            // As it is, it could not be named.
            (LayerForm::Preserve, Compression::Zstd) if !self.names_zstd => Action::Decompress,
            (LayerForm::Decompress, found) if found != Compression::None => Action::Decompress,
            _ => Action::Keep,
        }
    }

    /// Decides about a layer of which only the media type is known; `None` if that says too little.
    pub(super) fn likely_action(&self, by_type: Option<Compression>) -> Option<Action> {
        match by_type {
            Some(compression) => Some(self.action(compression)),
            None if self.form == LayerForm::Preserve => Some(Action::Keep),
            None => None,
        }
    }

    /// Tells whether equal content in this compression may take a layer's place.
    pub(super) fn may_reuse(&self, found: Option<Compression>) -> bool {
        match self.named {
            Some(format) if self.force => found == Some(format),
            _ => true,
        }
    }
}

/// Chooses the types a manifest may be written in, the preferred one first.
///
/// `accepted` is what the destination takes, empty for anything; `cannot_modify` says why the
/// manifest must stay as it is, if it must.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when the destination takes no type that can hold what is asked.
pub(super) fn manifest_types(
    source: &str,
    accepted: &[String],
    request: &CopyRequest,
    cannot_modify: Option<&str>,
) -> Result<Vec<String>> {
    const ALL: [&str; 4] = [
        media_type::OCI_MANIFEST,
        media_type::DOCKER_V2S2,
        media_type::DOCKER_V2S1_SIGNED,
        media_type::DOCKER_V2S1,
    ];
    // What a destination accepts is what it prefers. Whether it keeps another type where that must
    // not change is for it to say: `oci:` keeps Docker manifests then, as other tools do there.
    if cannot_modify.is_some() {
        return Ok(vec![source.to_owned()]);
    }
    let mut types: Vec<&str> = match request.format {
        Some(format) => vec![format_type(format)],
        None if accepted.is_empty() => ALL.to_vec(),
        None => accepted
            .iter()
            .map(String::as_str)
            .filter(|media_type| !media_type::is_index(media_type))
            .collect(),
    };
    if let Some(compression) = request.compression {
        let allowed = |media_type: &&str| match compression {
            Compression::None | Compression::Gzip => true,
            Compression::Zstd => *media_type == media_type::OCI_MANIFEST,
            Compression::Bzip2 | Compression::Xz => false,
        };
        types.retain(allowed);
        if types.is_empty() {
            return Err(no_type_for(compression, accepted, request.format));
        }
    }
    let by_preference = [source, media_type::DOCKER_V2S2, media_type::DOCKER_V2S1_SIGNED];
    let mut ordered: Vec<String> = Vec::new();
    for media_type in by_preference.iter().chain(&types) {
        if types.contains(media_type) && !ordered.iter().any(|known| known == media_type) {
            ordered.push((*media_type).to_owned());
        }
    }
    Ok(ordered)
}

/// The manifest type that a format asked for means.
pub(super) fn format_type(format: ManifestFormat) -> &'static str {
    match format {
        ManifestFormat::Oci => media_type::OCI_MANIFEST,
        ManifestFormat::V2s2 => media_type::DOCKER_V2S2,
        ManifestFormat::V2s1 => media_type::DOCKER_V2S1_SIGNED,
    }
}

fn no_type_for(
    compression: Compression,
    accepted: &[String],
    format: Option<ManifestFormat>,
) -> Error {
    let name = compression.name();
    let message = if let Some(format) = format {
        format!(
            "compression using {name} required together with format {}, which does not support it",
            format_type(format)
        )
    } else if accepted.is_empty() {
        format!(
            "compression using {name} required, but none of the known manifest formats support it"
        )
    } else {
        format!(
            "compression using {name} required but the destination only supports MIME types [{}], \
             none of which support it",
            accepted.join(", ")
        )
    };
    Error::new(ErrorKind::Unsupported, message)
}

/// Chooses the types an index may be written in, the preferred one first.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when the destination takes no index, or not this one unchanged.
pub(super) fn index_types(
    source: &str,
    accepted: &[String],
    request: &CopyRequest,
    cannot_modify: Option<&str>,
) -> Result<Vec<String>> {
    const ALL: [&str; 2] = [media_type::DOCKER_LIST, media_type::OCI_INDEX];
    let wanted = match request.format {
        Some(ManifestFormat::Oci) => Some(media_type::OCI_INDEX),
        Some(ManifestFormat::V2s2 | ManifestFormat::V2s1) => Some(media_type::DOCKER_LIST),
        None => None,
    };
    // What the user names replaces what the destination prefers, as it does for images.
    let takes = |media_type: &str| match wanted {
        Some(wanted) => wanted == media_type,
        None => accepted.is_empty() || accepted.iter().any(|accepted| accepted == media_type),
    };
    let selected = match wanted {
        Some(wanted) => Some(wanted),
        None if takes(source) => Some(source),
        None => accepted.iter().map(String::as_str).find(|accepted| media_type::is_index(accepted)),
    };
    let Some(selected) = selected.filter(|selected| takes(selected)) else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "determining manifest list type to write to destination: destination does not \
                 support any supported manifest list types ([{}])",
                ALL.join(" ")
            ),
        ));
    };
    if let Some(why) = cannot_modify {
        if selected != source {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Manifest list must be converted to type {selected:?} to be written to \
                     destination, but we cannot modify it: {why:?}"
                ),
            ));
        }
        return Ok(vec![source.to_owned()]);
    }
    let mut types = vec![selected.to_owned()];
    types.extend(ALL.into_iter().filter(|t| *t != selected && takes(t)).map(str::to_owned));
    Ok(types)
}

/// What a copy will do, for people and for programs.
///
/// As JSON, the field names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The source as the user wrote it.
    pub source: String,
    /// The destination as the user wrote it.
    pub destination: String,
    /// The index that is written, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexPlan>,
    /// The images that are written, in order.
    pub images: Vec<ImagePlan>,
    /// Bytes that are read from the source.
    pub bytes_to_copy: u64,
    /// Bytes that the destination has already, or can share.
    pub bytes_reused: u64,
}

/// What happens to an index.
#[derive(Clone, Debug, Serialize)]
pub struct IndexPlan {
    /// Its digest at the source.
    pub digest: Digest,
    /// Its media type at the source.
    pub media_type: String,
    /// The media type it is written in.
    pub written_as: String,
    /// How many instances it names.
    pub instances: usize,
}

/// What happens to one image.
#[derive(Clone, Debug, Serialize)]
pub struct ImagePlan {
    /// Digest of its manifest at the source.
    pub digest: Digest,
    /// Its platform, where an index tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Media type of its manifest at the source.
    pub media_type: String,
    /// The media type its manifest is written in first.
    pub written_as: String,
    /// Further types that are tried when the destination refuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
    /// Why the manifest may not be changed, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchanged_because: Option<String>,
    /// Whether the destination has this very image already, so that nothing is left to do.
    pub already_there: bool,
    /// How many signatures go along.
    pub signatures: usize,
    /// Its config and layers.
    pub blobs: Vec<BlobPlan>,
}

/// What happens to one blob.
#[derive(Clone, Debug, Serialize)]
pub struct BlobPlan {
    /// `config`, or `layer N` counted from 1.
    pub role: String,
    /// Its digest at the source.
    pub digest: Digest,
    /// Its size at the source in bytes, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `reuse`, `copy`, `compress gzip`, `compress zstd`, `decompress`, `recompress gzip`,
    /// `recompress zstd`, `convert` (a config), `foreign` (stays where it is).
    pub action: String,
}

impl Action {
    pub(super) fn describe(self) -> String {
        match self {
            Self::Keep => "copy".into(),
            Self::Compress(format) => format!("compress {}", format.name()),
            Self::Decompress => "decompress".into(),
            Self::Recompress(format) => format!("recompress {}", format.name()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "copy {} to {}", self.source, self.destination)?;
        if let Some(index) = &self.index {
            writeln!(
                f,
                "index {} of {} instances, written as {}",
                index.digest, index.instances, index.written_as
            )?;
        }
        for image in &self.images {
            let platform = image.platform.as_deref().map_or(String::new(), |p| format!(" ({p})"));
            writeln!(f, "image {}{platform}", image.digest)?;
            if image.already_there {
                writeln!(f, "  is there already: nothing to do")?;
                continue;
            }
            if image.media_type == image.written_as {
                writeln!(f, "  manifest {}", image.media_type)?;
            } else {
                writeln!(f, "  manifest {}, converted to {}", image.media_type, image.written_as)?;
            }
            if let Some(why) = &image.unchanged_because {
                writeln!(f, "  the manifest stays as it is: {why}")?;
            }
            if image.signatures > 0 {
                writeln!(f, "  signatures: {}", image.signatures)?;
            }
            for blob in &image.blobs {
                let size = blob.size.map_or("unknown size".to_owned(), bytes);
                writeln!(f, "  {:<9} {} {:>10}  {}", blob.role, blob.digest, size, blob.action)?;
            }
        }
        write!(f, "to copy: {}, reused: {}", bytes(self.bytes_to_copy), bytes(self.bytes_reused))
    }
}

/// Writes a number of bytes for people: `41.2 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(source: &str, accepted: &[&str], request: &CopyRequest) -> Result<Vec<String>> {
        let accepted: Vec<String> = accepted.iter().map(|t| (*t).to_owned()).collect();
        manifest_types(source, &accepted, request, None)
    }

    #[test]
    fn the_source_type_is_kept_where_the_destination_takes_it() {
        use media_type::*;
        let plain = CopyRequest::default();
        let docker = [OCI_MANIFEST, DOCKER_V2S2, OCI_INDEX, DOCKER_LIST, DOCKER_V2S1_SIGNED];
        assert_eq!(
            types(OCI_MANIFEST, &docker, &plain).unwrap(),
            [OCI_MANIFEST, DOCKER_V2S2, DOCKER_V2S1_SIGNED]
        );
        assert_eq!(types(DOCKER_V2S2, &[OCI_MANIFEST, OCI_INDEX], &plain).unwrap(), [OCI_MANIFEST]);
        assert_eq!(types(DOCKER_V2S2, &[], &plain).unwrap()[0], DOCKER_V2S2);
        let oci = CopyRequest { format: Some(ManifestFormat::Oci), ..CopyRequest::default() };
        assert_eq!(types(DOCKER_V2S2, &[], &oci).unwrap(), [OCI_MANIFEST]);
        assert_eq!(
            manifest_types(DOCKER_V2S2, &[], &oci, Some("Would invalidate signatures")).unwrap(),
            [DOCKER_V2S2]
        );
    }

    #[test]
    fn a_manifest_that_may_not_change_is_offered_as_it_is() {
        use media_type::*;
        let oci = CopyRequest { format: Some(ManifestFormat::Oci), ..CopyRequest::default() };
        let accepted = vec![OCI_MANIFEST.to_owned(), OCI_INDEX.to_owned()];
        let types = manifest_types(DOCKER_V2S2, &accepted, &oci, Some("why")).unwrap();
        assert_eq!(types, [DOCKER_V2S2]);
    }

    #[test]
    fn zstd_needs_a_manifest_that_can_say_so() {
        use media_type::*;
        let zstd = CopyRequest { compression: Some(Compression::Zstd), ..CopyRequest::default() };
        assert_eq!(types(DOCKER_V2S2, &[], &zstd).unwrap(), [OCI_MANIFEST]);
        let error = types(DOCKER_V2S2, &[DOCKER_V2S2], &zstd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("the destination only supports MIME types"));
        let both = CopyRequest { format: Some(ManifestFormat::V2s2), ..zstd };
        assert!(types(DOCKER_V2S2, &[], &both).unwrap_err().message().contains("together with"));
    }

    #[test]
    fn an_index_that_may_not_change_is_refused_rather_than_converted() {
        use media_type::*;
        let plain = CopyRequest::default();
        let accepted = vec![OCI_MANIFEST.to_owned(), OCI_INDEX.to_owned()];
        assert_eq!(index_types(DOCKER_LIST, &accepted, &plain, None).unwrap(), [OCI_INDEX]);
        let error = index_types(DOCKER_LIST, &accepted, &plain, Some("why")).unwrap_err();
        assert!(error.message().contains("cannot modify it: \"why\""), "{error}");
        let none = vec![DOCKER_V2S2.to_owned()];
        assert!(index_types(OCI_INDEX, &none, &plain, None).is_err());
    }

    #[test]
    fn a_named_format_is_the_only_one_an_index_is_tried_in() {
        use media_type::*;
        let docker = CopyRequest { format: Some(ManifestFormat::V2s2), ..CopyRequest::default() };
        let accepted = vec![OCI_MANIFEST.to_owned(), OCI_INDEX.to_owned()];
        assert_eq!(index_types(OCI_INDEX, &accepted, &docker, None).unwrap(), [DOCKER_LIST]);
        assert_eq!(index_types(OCI_INDEX, &[], &docker, None).unwrap(), [DOCKER_LIST]);
    }

    #[test]
    fn layers_change_only_where_destination_or_user_want_it() {
        let oci = [media_type::OCI_MANIFEST.to_owned()];
        let rules = |form, request: &CopyRequest| LayerRules::new(form, request, &oci);
        let plain = CopyRequest::default();
        let gzip = Compression::Gzip;
        let zstd = Compression::Zstd;
        let compress = rules(LayerForm::Compress, &plain);
        assert_eq!(compress.action(Compression::None), Action::Compress(gzip));
        assert_eq!(compress.action(zstd), Action::Keep);
        assert_eq!(compress.likely_action(None), None);
        let named = CopyRequest { compression: Some(zstd), ..CopyRequest::default() };
        assert_eq!(rules(LayerForm::Compress, &named).action(gzip), Action::Recompress(zstd));
        let preserve = rules(LayerForm::Preserve, &plain);
        assert_eq!(preserve.action(Compression::None), Action::Keep);
        assert_eq!(preserve.likely_action(None), Some(Action::Keep));
        assert_eq!(preserve.action(zstd), Action::Keep);
        let schema2 = [media_type::DOCKER_V2S2.to_owned()];
        let schema2 = LayerRules::new(LayerForm::Preserve, &plain, &schema2);
        assert_eq!(schema2.action(zstd), Action::Decompress, "schema 2 has no word for it");
        assert_eq!(schema2.action(gzip), Action::Keep);
        let types = [media_type::DOCKER_V2S2.to_owned()];
        let schema2 = LayerRules::new(LayerForm::Compress, &plain, &types);
        assert_eq!(schema2.action(zstd), Action::Recompress(gzip));
        let inflate = CopyRequest { layers: LayerRequest::Decompress, ..CopyRequest::default() };
        assert_eq!(rules(LayerForm::Preserve, &inflate).action(gzip), Action::Decompress);
        assert_eq!(rules(LayerForm::Compress, &inflate).action(gzip), Action::Keep);
        let force = CopyRequest { force_compression: true, ..named };
        assert!(!rules(LayerForm::Compress, &force).may_reuse(Some(gzip)));
        assert!(rules(LayerForm::Compress, &force).may_reuse(Some(zstd)));
    }

    #[test]
    fn byte_counts_are_short_and_never_four_digits() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(41_200_000), "41.2 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
    }
}
