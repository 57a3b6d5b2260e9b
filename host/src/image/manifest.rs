//! The manifest of one image.
//!
//! Conversions are in `convert`, schema 1 in `schema1`; both add to [`ImageManifest`].

use std::collections::BTreeMap;

use diolkos_sdk::model::media_type::{
    DOCKER_CONFIG, DOCKER_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER_GZIP, DOCKER_LAYER,
    DOCKER_LAYER_GZIP, DOCKER_LIST, DOCKER_V2S1, DOCKER_V2S1_SIGNED, DOCKER_V2S2, OCI_CONFIG,
    OCI_INDEX, OCI_MANIFEST,
};
use diolkos_sdk::{
    Descriptor, Digest, Error, ErrorKind, RawManifest, Reference, Result, ResultExt as _,
};

use super::Index;
use super::json::{self, Object};
use super::media::{
    DOCKER_LAYER_ZSTD, Dialect, compression_of, guess_media_type, known_manifest_type,
    refuse_ambiguous,
};
use super::schema1::Schema1;
use super::wire::{self, DockerManifest, Fields, OciManifest};
use crate::compress::Compression;

/// What a source's top-level document is.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few, and none in a collection")]
pub enum Manifest {
    /// One image, or an artifact in the form of one.
    Image(ImageManifest),
    /// Images for several platforms.
    Index(Index),
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// The media type is the stored one if that is a type of manifest; else it is recognised from
    /// the bytes, and failing that taken for schema 1, as registries of old did not say.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`]: not JSON, not of its type, or
    /// readable as two types at once.
    pub fn parse(raw: &RawManifest) -> Result<Self> {
        let media_type = normalised_type(raw);
        let raw = RawManifest::new(raw.bytes.clone(), media_type);
        match media_type {
            OCI_INDEX | DOCKER_LIST => Index::parse(raw, media_type).map(Self::Index),
            _ => ImageManifest::parse(raw, media_type).map(Self::Image),
        }
    }

    /// Returns the media type after normalisation.
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::Image(image) => image.media_type(),
            Self::Index(index) => index.media_type(),
        }
    }

    /// Returns the document as it was stored, with its normalised type.
    pub fn raw(&self) -> &RawManifest {
        match self {
            Self::Image(image) => image.raw(),
            Self::Index(index) => index.raw(),
        }
    }
}

/// Returns the type that a document is read as.
fn normalised_type(raw: &RawManifest) -> &'static str {
    let stored = raw.media_type.split(';').next().unwrap_or_default().trim();
    known_manifest_type(stored)
        .or_else(|| guess_media_type(&raw.bytes))
        .unwrap_or(DOCKER_V2S1_SIGNED)
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What the manifest says. Schema 1 knows neither size nor type.
    pub blob: Descriptor,
    /// Whether schema 1 says that the layer holds nothing.
    pub empty: bool,
    /// The compression that the media type tells, if it does.
    pub compression: Option<Compression>,
    /// Whether the layer may be written in another compression: it is a container layer of a type
    /// that we know, in a container image, and not encrypted.
    pub recompressible: bool,
}

/// What became of a layer: the blob that the destination has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerWritten {
    /// Digest of the blob at the destination.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Its compression where it is known; `None` leaves the media type as it was.
    pub compression: Option<Compression>,
    /// Digest of the uncompressed layer; only conversions from schema 1 need it.
    pub diff_id: Option<Digest>,
    /// Whether the layer stays at the URLs of its descriptor (a foreign layer that was not copied).
    pub urls_kept: bool,
    /// Whether the descriptor's annotations still hold: false after recompression.
    pub annotations_kept: bool,
}

impl LayerWritten {
    /// Describes a layer that was taken over as it is.
    ///
    /// `size` is what the transfer counted, for sources that do not know it before.
    pub fn unchanged(layer: &Layer, size: u64) -> Self {
        Self {
            digest: layer.blob.digest.clone(),
            size,
            compression: None,
            diff_id: None,
            urls_kept: false,
            annotations_kept: true,
        }
    }
}

/// A manifest in another type, and what has to be stored beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The manifest.
    pub manifest: RawManifest,
    /// The config that it names, with its bytes; schema 1 has none.
    pub config: Option<(Descriptor, Vec<u8>)>,
    /// Further blobs that it names: the empty layer of schema 1.
    pub blobs: Vec<(Descriptor, Vec<u8>)>,
}

/// The manifest of one image: what there is to copy.
#[derive(Clone, Debug)]
pub struct ImageManifest {
    raw: RawManifest,
    media_type: &'static str,
    config: Option<Descriptor>,
    layers: Vec<Layer>,
    oci: OciFields,
    schema1: Option<Schema1>,
}

/// What only OCI manifests have.
#[derive(Clone, Debug, Default)]
struct OciFields {
    schema_version: i64,
    /// The type that the document names itself; it need not.
    own_media_type: String,
    artifact_type: String,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// Reads a document of a type that is one of a single image.
    fn parse(raw: RawManifest, media_type: &'static str) -> Result<Self> {
        let document = Object::parse(&raw.bytes)?;
        match media_type {
            OCI_MANIFEST => Self::parse_oci(&document, raw.clone()),
            DOCKER_V2S2 => Self::parse_docker(&document, raw.clone()),
            _ => {
                let schema1 = Schema1::parse(&document)?;
                let layers = schema1.layers();
                Ok(Self {
                    media_type,
                    config: None,
                    layers,
                    oci: OciFields::default(),
                    schema1: Some(schema1),
                    raw: raw.clone(),
                })
            }
        }
    }

    fn parse_oci(document: &Object<'_>, raw: RawManifest) -> Result<Self> {
        let config = read_config(document, Fields::Oci)?;
        let descriptors = wire::read_descriptors(document, "layers", Fields::Oci)?;
        let oci = OciFields {
            schema_version: document.integer("schemaVersion")?.unwrap_or(0),
            own_media_type: document.string("mediaType")?,
            artifact_type: document.string("artifactType")?,
            subject: document
                .object("subject")?
                .map(|subject| wire::read_descriptor(&subject, Fields::Oci))
                .transpose()?,
            annotations: document.string_map("annotations")?.unwrap_or_default(),
        };
        refuse_ambiguous(document, OCI_MANIFEST)?;
        let is_image = config.as_ref().is_some_and(|config| config.media_type == OCI_CONFIG);
        let layers = descriptors
            .unwrap_or_default()
            .into_iter()
            .map(|blob| Layer::new(blob, is_image.then_some(Dialect::Oci)))
            .collect();
        Ok(Self { raw, media_type: OCI_MANIFEST, config, layers, oci, schema1: None })
    }

    fn parse_docker(document: &Object<'_>, raw: RawManifest) -> Result<Self> {
        let config = read_config(document, Fields::Docker)?;
        let layers = wire::read_descriptors(document, "layers", Fields::Docker)?;
        let own_media_type = document.string("mediaType")?;
        refuse_ambiguous(document, DOCKER_V2S2)?;
        refuse_unknown_docker_type(&own_media_type)?;
        let layers = layers.unwrap_or_default();
        for layer in &layers {
            refuse_unknown_docker_type(&layer.media_type)?;
        }
        Ok(Self {
            raw,
            media_type: DOCKER_V2S2,
            config,
            layers: layers
                .into_iter()
                .map(|blob| Layer::new(blob, Some(Dialect::Docker)))
                .collect(),
            oci: OciFields::default(),
            schema1: None,
        })
    }

    /// Returns the media type: OCI, schema 2, or schema 1 signed or not.
    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Returns the config's descriptor; `None` for schema 1, which has no separate config.
    pub fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// Returns the layers, bottom first; those of schema 1 that hold nothing too.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Tells whether this is a container image rather than another artifact in OCI form.
    ///
    /// An artifact's config and layers mean nothing to us: they are copied as they are.
    pub fn is_container_image(&self) -> bool {
        self.media_type != OCI_MANIFEST
            || self.config.as_ref().is_some_and(|config| config.media_type == OCI_CONFIG)
    }

    /// Refuses what can only be done to a container image.
    pub(super) fn require_container_image(&self) -> Result<()> {
        if self.is_container_image() {
            return Ok(());
        }
        let config_type = self.config.as_ref().map_or("", |config| &config.media_type);
        let kind = match self.oci.artifact_type.as_str() {
            "" => config_type,
            kind => kind,
        };
        if kind == DOCKER_CONFIG {
            return Err(Error::unsupported(format!(
                "invalid mixed OCI image with Docker v2s2 config ({kind:?})"
            )));
        }
        Err(Error::unsupported(format!(
            "unsupported image-specific operation on artifact with type {kind:?}"
        )))
    }

    /// Returns the manifest that this one refers to, such as the image that an attestation is of.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.oci.subject.as_ref()
    }

    /// Returns what kind of artifact this is, where the manifest says so.
    pub fn artifact_type(&self) -> Option<&str> {
        Some(self.oci.artifact_type.as_str()).filter(|kind| !kind.is_empty())
    }

    /// Returns the manifest's own annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.oci.annotations
    }

    /// Returns the document as it was stored.
    pub fn raw(&self) -> &RawManifest {
        &self.raw
    }

    /// Returns what only schema 1 has.
    pub(super) fn schema1(&self) -> Option<&Schema1> {
        self.schema1.as_ref()
    }

    /// Tells whether schema 1's name and tag inside the document differ from where it goes.
    pub fn embedded_name_differs(&self, destination: &Reference) -> bool {
        self.schema1.as_ref().is_some_and(|schema1| schema1.name_differs(destination))
    }

    /// Writes the manifest with its layers as they are now, in the same type.
    ///
    /// `layers` has one entry for each of [`Self::layers`]. When no digest differs (and schema 1's
    /// embedded name does not), the result is the stored bytes. `name` is the destination's docker
    /// reference; only schema 1 looks at it, and without one keeps its own.
    ///
    /// # Errors
    /// - [`ErrorKind::ManifestRejected`]: the type has no word for a layer's new compression;
    ///   another type may have.
    /// - [`ErrorKind::Unsupported`]: a layer's type has no variants at all.
    pub fn with_layers(
        &self,
        layers: &[LayerWritten],
        name: Option<&Reference>,
    ) -> Result<RawManifest> {
        let changed = self.are_changed(layers)?;
        if let Some(schema1) = &self.schema1 {
            if !changed && !name.is_some_and(|name| schema1.name_differs(name)) {
                return Ok(self.raw.clone());
            }
            let mut schema1 = schema1.clone();
            if changed {
                schema1.replace_layers(layers)?;
            }
            if let Some(name) = name {
                schema1.rename(name);
            }
            return schema1.write();
        }
        if !changed {
            return Ok(self.raw.clone());
        }
        self.require_container_image()?;
        let dialect = if self.media_type == OCI_MANIFEST { Dialect::Oci } else { Dialect::Docker };
        let blobs = self.layers.iter().map(|layer| layer.blob.clone()).collect();
        let blobs = edited(dialect, blobs, layers)?;
        let config = self.config.as_ref().ok_or_else(no_config)?;
        Ok(match dialect {
            Dialect::Oci => self.write_oci(config, &blobs),
            Dialect::Docker => write_docker(config, &blobs),
        })
    }

    /// Tells whether any layer is another blob now.
    pub(super) fn are_changed(&self, layers: &[LayerWritten]) -> Result<bool> {
        if layers.len() != self.layers.len() {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("layer count changed from {} to {}", self.layers.len(), layers.len()),
            ));
        }
        let mut pairs = self.layers.iter().zip(layers);
        Ok(pairs.any(|(layer, written)| layer.blob.digest != written.digest))
    }

    /// Writes this OCI manifest with other layers; all else stays.
    fn write_oci(&self, config: &Descriptor, layers: &[Descriptor]) -> RawManifest {
        let manifest = OciManifest {
            schema_version: self.oci.schema_version,
            media_type: &self.oci.own_media_type,
            artifact_type: &self.oci.artifact_type,
            config: config.into(),
            layers: layers.iter().map(Into::into).collect(),
            subject: self.oci.subject.as_ref().map(Into::into),
            annotations: &self.oci.annotations,
        };
        RawManifest::new(json::to_vec(&manifest), OCI_MANIFEST)
    }
}

impl Layer {
    /// Judges a layer by its type; without a dialect it is not a container layer.
    pub(super) fn new(blob: Descriptor, dialect: Option<Dialect>) -> Self {
        Self {
            empty: false,
            compression: compression_of(&blob.media_type),
            recompressible: dialect
                .is_some_and(|dialect| dialect.is_recompressible(&blob.media_type)),
            blob,
        }
    }
}

/// Writes a schema 2 manifest.
pub(super) fn write_docker(config: &Descriptor, layers: &[Descriptor]) -> RawManifest {
    RawManifest::new(json::to_vec(&DockerManifest::new(config, layers)), DOCKER_V2S2)
}

/// Puts what became of layers into their descriptors, whose types are of this dialect already.
///
/// Whatever else a descriptor held (embedded data, platform) belonged to the old blob.
pub(super) fn edited(
    dialect: Dialect,
    blobs: Vec<Descriptor>,
    written: &[LayerWritten],
) -> Result<Vec<Descriptor>> {
    let edited = blobs.into_iter().zip(written).map(|(blob, written)| {
        let same = blob.digest == written.digest;
        let media_type = match written.compression {
            Some(compression) if !same || dialect.is_recompressible(&blob.media_type) => dialect
                .in_compression(&blob.media_type, compression)
                .context(|| preparing(written))?
                .to_owned(),
            _ => blob.media_type,
        };
        let mut edited = Descriptor::new(media_type, written.digest.clone(), written.size);
        if written.urls_kept {
            edited.urls = blob.urls;
        }
        if written.annotations_kept {
            edited.annotations = blob.annotations;
        }
        Ok(edited)
    });
    edited.collect()
}

pub(super) fn preparing(written: &LayerWritten) -> String {
    format!("preparing updated manifest, layer {:?}", written.digest.as_str())
}

/// The error of a conversion that needs a config where there is none.
pub(super) fn no_config() -> Error {
    Error::new(ErrorKind::Corrupt, "the manifest has no config")
}

fn read_config(document: &Object<'_>, fields: Fields) -> Result<Option<Descriptor>> {
    let missing = || Error::new(ErrorKind::Corrupt, "the manifest names no config");
    let config = document.object("config")?.ok_or_else(missing)?;
    if config.string("digest")?.is_empty() {
        return Err(missing());
    }
    wire::read_descriptor(&config, fields).map(Some)
}

/// Refuses what is no type of Docker's in a schema 2 manifest.
fn refuse_unknown_docker_type(media_type: &str) -> Result<()> {
    match media_type {
        DOCKER_LIST
        | DOCKER_V2S1
        | DOCKER_V2S1_SIGNED
        | DOCKER_V2S2
        | DOCKER_CONFIG
        | DOCKER_FOREIGN_LAYER
        | DOCKER_FOREIGN_LAYER_GZIP
        | DOCKER_LAYER
        | DOCKER_LAYER_GZIP
        | DOCKER_LAYER_ZSTD => Ok(()),
        _ => Err(Error::unsupported(format!("unsupported docker v2s2 media type: {media_type:?}"))),
    }
}
