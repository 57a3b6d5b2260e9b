//! Conversions between OCI, schema 2 and schema 1.
//!
//! Schema 2 is the middle: from schema 1 to OCI and back it goes by way of it. A manifest is
//! converted as it was first, and what became of its layers is put in afterwards, in the words of
//! the new type. The one exception are zstd layers on their way out of OCI: schema 2 has no word
//! for them, so their new compression must be known before.

use std::collections::BTreeMap;

use diolkos_sdk::model::media_type::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_V2S1, DOCKER_V2S1_SIGNED, DOCKER_V2S2, OCI_CONFIG,
    OCI_FOREIGN_LAYER_ZSTD, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use diolkos_sdk::{
    Algorithm, Descriptor, Digest, Error, ErrorKind, RawManifest, Reference, Result,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::config::{Flavour, ImageConfig, is_false};
use super::digest::of_blob;
use super::json::{self, Object};
use super::manifest::{Converted, ImageManifest, LayerWritten, edited, no_config, write_docker};
use super::media::{Dialect, known_manifest_type, to_docker, to_oci};
use super::schema1::{Entry, Schema1};
use super::time::GoTime;
use super::v1::{self, Command, Compatibility, V1Image};
use super::wire::OciManifest;
use crate::compress::Compression;

/// An empty tar (1024 zero bytes), compressed: what schema 1 has for layers that change nothing.
const EMPTY_LAYER: [u8; 32] = [
    31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0, 255, 255,
    46, 175, 181, 239, 0, 4, 0, 0,
];

/// An image on its way: config and layers in the words of schema 2, and what became of the layers.
struct Parts {
    config: Vec<u8>,
    layers: Vec<Descriptor>,
    written: Vec<LayerWritten>,
}

impl ImageManifest {
    /// Tells whether [`Self::convert`] to `to` needs each layer's diff ID.
    pub fn needs_diff_ids(&self, to: &str) -> bool {
        self.schema1().is_some() && matches!(to, DOCKER_V2S2 | OCI_MANIFEST)
    }

    /// Tells whether the manifest can be converted to the media type `to` at all.
    ///
    /// A zstd layer in OCI counts as convertible, as it can still be recompressed.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], with the reason.
    pub fn can_convert_to(&self, to: &str) -> Result<()> {
        let to = target(to)?;
        if self.is_of_type(to) {
            return Ok(());
        }
        self.require_container_image()?;
        for layer in self.layers() {
            match (self.media_type(), to) {
                (OCI_MANIFEST, _) if !is_oci_zstd(&layer.blob.media_type) => {
                    to_docker(&layer.blob.media_type)?;
                }
                (DOCKER_V2S2, OCI_MANIFEST) => {
                    to_oci(&layer.blob.media_type)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells whether `to` is this manifest's type; both types of schema 1 are one.
    fn is_of_type(&self, to: &str) -> bool {
        self.media_type() == to || (self.schema1().is_some() && is_schema1(to))
    }

    /// Writes the manifest in the type `to`; in its own type, this is [`Self::with_layers`].
    ///
    /// `config` is the verified config blob; `None` for schema 1. `layers` and `name` are as for
    /// [`Self::with_layers`]; from schema 1, layers that are not empty need a diff ID.
    ///
    /// # Errors
    /// As [`Self::with_layers`] and [`Self::can_convert_to`]; [`ErrorKind::Corrupt`] when the
    /// config is not one.
    pub fn convert(
        &self,
        to: &str,
        config: Option<&[u8]>,
        layers: &[LayerWritten],
        name: Option<&Reference>,
    ) -> Result<Converted> {
        let to = target(to)?;
        if self.is_of_type(to) {
            let manifest = self.with_layers(layers, name)?;
            let config = self.config().cloned().zip(config.map(<[u8]>::to_vec));
            return Ok(Converted { manifest, config, blobs: Vec::new() });
        }
        self.require_container_image()?;
        let changed = self.are_changed(layers)?;
        let parts = self.parts(config, layers, changed)?;
        match to {
            OCI_MANIFEST => write_oci(parts, changed),
            DOCKER_V2S2 => self.write_schema2(parts, changed),
            _ => write_schema1(parts, changed, name),
        }
    }

    /// Puts the image in the words of schema 2.
    fn parts(
        &self,
        config: Option<&[u8]>,
        written: &[LayerWritten],
        changed: bool,
    ) -> Result<Parts> {
        if let Some(schema1) = self.schema1() {
            return parts_of_schema1(schema1, written);
        }
        let config = config.ok_or_else(no_config)?.to_vec();
        let mut written = written.to_vec();
        let mut layers = Vec::with_capacity(self.layers().len());
        for (layer, written) in self.layers().iter().zip(&mut written) {
            let blob = &layer.blob;
            let mut converted = Descriptor::new("", blob.digest.clone(), blob.size);
            converted.urls.clone_from(&blob.urls);
            converted.media_type = match self.media_type() {
                OCI_MANIFEST => {
                    let mut media_type = blob.media_type.as_str();
                    if changed
                        && is_oci_zstd(media_type)
                        && let Some(compression) = written.compression.take()
                    {
                        media_type = Dialect::Oci.in_compression(media_type, compression)?;
                    }
                    to_docker(media_type)?.to_owned()
                }
                _ => blob.media_type.clone(),
            };
            layers.push(converted);
        }
        Ok(Parts { config, layers, written })
    }

    /// Writes schema 2. From OCI, the config's bytes stay.
    fn write_schema2(&self, parts: Parts, changed: bool) -> Result<Converted> {
        let mut descriptor = match self.config() {
            Some(own) => {
                let mut same = Descriptor::new("", own.digest.clone(), own.size);
                same.urls.clone_from(&own.urls);
                same
            }
            None => described("", &parts.config),
        };
        DOCKER_CONFIG.clone_into(&mut descriptor.media_type);
        let layers = put_in(Dialect::Docker, parts.layers, &parts.written, changed)?;
        Ok(Converted {
            manifest: write_docker(&descriptor, &layers),
            config: Some((descriptor, parts.config)),
            blobs: Vec::new(),
        })
    }
}

/// Returns the type to convert to as a constant.
fn target(to: &str) -> Result<&'static str> {
    known_manifest_type(to)
        .filter(|to| matches!(*to, OCI_MANIFEST | DOCKER_V2S2) || is_schema1(to))
        .ok_or_else(|| Error::unsupported(format!("Unsupported conversion type: {to}")))
}

fn is_schema1(media_type: &str) -> bool {
    matches!(media_type, DOCKER_V2S1 | DOCKER_V2S1_SIGNED)
}

fn is_oci_zstd(media_type: &str) -> bool {
    matches!(media_type, OCI_LAYER_ZSTD | OCI_FOREIGN_LAYER_ZSTD)
}

/// Describes bytes that are no manifest.
fn described(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, of_blob(Algorithm::Sha256, bytes), bytes.len() as u64)
}

fn put_in(
    dialect: Dialect,
    layers: Vec<Descriptor>,
    written: &[LayerWritten],
    changed: bool,
) -> Result<Vec<Descriptor>> {
    if changed { edited(dialect, layers, written) } else { Ok(layers) }
}

/// Writes OCI: a config of its own, and layers of its own types.
fn write_oci(parts: Parts, changed: bool) -> Result<Converted> {
    let config = ImageConfig::parse(&parts.config, Flavour::Oci)?.to_vec();
    let descriptor = described(OCI_CONFIG, &config);
    let mut layers = parts.layers;
    for layer in &mut layers {
        to_oci(&layer.media_type)?.clone_into(&mut layer.media_type);
    }
    let layers = put_in(Dialect::Oci, layers, &parts.written, changed)?;
    let manifest = OciManifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        artifact_type: "",
        config: (&descriptor).into(),
        layers: layers.iter().map(Into::into).collect(),
        subject: None,
        annotations: &BTreeMap::new(),
    };
    Ok(Converted {
        manifest: RawManifest::new(json::to_vec(&manifest), OCI_MANIFEST),
        config: Some((descriptor, config)),
        blobs: Vec::new(),
    })
}

/// Makes a config out of a history, and leaves empty layers out.
fn parts_of_schema1(schema1: &Schema1, written: &[LayerWritten]) -> Result<Parts> {
    let mut parts = Parts { config: Vec::new(), layers: Vec::new(), written: Vec::new() };
    let mut diff_ids = Vec::new();
    for (entry, written) in schema1.entries.iter().rev().zip(written) {
        if entry.compatibility.throwaway {
            continue;
        }
        let diff_id = written.diff_id.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                format!("layer {} has no diff ID to put into the config", entry.blob),
            )
        })?;
        diff_ids.push(diff_id.to_string());
        parts.layers.push(Descriptor::new(DOCKER_LAYER_GZIP, entry.blob.clone(), written.size));
        parts.written.push(written.clone());
    }
    parts.config = schema1_config(schema1, &diff_ids)?;
    Ok(parts)
}

/// Makes the config of schema 2 out of the newest one in a history and what all of them tell.
pub(super) fn schema1_config(schema1: &Schema1, diff_ids: &[String]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct RootFs<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        diff_ids: &'a [String],
    }
    #[derive(Serialize)]
    struct History<'a> {
        created: &'a GoTime,
        #[serde(skip_serializing_if = "str::is_empty")]
        author: &'a str,
        #[serde(skip_serializing_if = "String::is_empty")]
        created_by: String,
        #[serde(skip_serializing_if = "str::is_empty")]
        comment: &'a str,
        #[serde(skip_serializing_if = "is_false")]
        empty_layer: bool,
    }
    let newest = &schema1.entries.first().ok_or_else(no_config)?.text;
    let image = V1Image::parse(newest).map_err(|error| v1::bad_entry(0, error))?;
    let rewritten = image
        .is_from_before_1_8_3()
        .then(|| String::from_utf8(json::to_vec(&image)).expect("the serialiser writes UTF-8"));
    let document = Object::parse_text(rewritten.as_deref().unwrap_or(newest))?;
    let rootfs = raw(&RootFs { r#type: "layers", diff_ids });
    let history: Vec<_> = schema1
        .entries
        .iter()
        .rev()
        .map(|entry| {
            let entry = &entry.compatibility;
            History {
                created: &entry.created,
                author: &entry.author,
                created_by: entry.container_config.cmd.as_deref().unwrap_or_default().join(" "),
                comment: &entry.comment,
                empty_layer: entry.throwaway,
            }
        })
        .collect();
    let history = raw(&history);
    let mut fields: BTreeMap<&str, &RawValue> = document.entries().collect();
    for gone in ["id", "parent", "parent_id", "layer_id", "throwaway", "Size"] {
        fields.remove(gone);
    }
    fields.insert("rootfs", &rootfs);
    fields.insert("history", &history);
    Ok(json::to_vec(&fields))
}

/// Makes a value into text that is put among others.
fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("our types have string keys")
}

/// Writes schema 1: an entry for each step of the config's history.
fn write_schema1(parts: Parts, changed: bool, name: Option<&Reference>) -> Result<Converted> {
    let config = ImageConfig::parse(&parts.config, Flavour::Docker)?;
    let history = config.history.unwrap_or_default();
    let Some(newest) = history.last() else {
        return Err(Error::unsupported(format!(
            "Cannot convert an image with 0 history entries to {DOCKER_V2S1_SIGNED}"
        )));
    };
    let newest_is_empty = newest.empty_layer;
    let empty = described(DOCKER_LAYER_GZIP, &EMPTY_LAYER);
    let distributed = parts.layers.len();
    let mut layers = parts.layers.into_iter().zip(parts.written);
    let mut entries: Vec<Entry> = Vec::with_capacity(history.len());
    let mut written = Vec::with_capacity(history.len());
    let mut parent = String::new();
    let mut id = String::new();
    for step in history {
        let blob = if step.empty_layer {
            written.push(LayerWritten {
                digest: empty.digest.clone(),
                size: EMPTY_LAYER.len() as u64,
                compression: Some(Compression::Gzip),
                diff_id: None,
                urls_kept: false,
                annotations_kept: false,
            });
            empty.digest.clone()
        } else {
            let (layer, now) = layers.next().ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "Invalid image configuration, needs more than the {distributed} \
                         distributed layers"
                    ),
                )
            })?;
            written.push(now);
            layer.digest
        };
        parent = id;
        id = v1_id(&blob, &[parent.as_bytes()]);
        let compatibility = Compatibility {
            id: id.clone(),
            parent: parent.clone(),
            comment: step.comment,
            created: step.created.unwrap_or_default(),
            container_config: Command { cmd: Some(vec![step.created_by]) },
            author: step.author,
            throwaway: step.empty_layer,
        };
        let text =
            String::from_utf8(json::to_vec(&compatibility)).expect("the serialiser writes UTF-8");
        entries.push(Entry { blob, text, compatibility });
    }
    // The newest entry holds the whole config; the others are only links to it.
    let top = entries.last_mut().expect("a history that is not empty gave entries");
    let id = v1_id(&top.blob, &[parent.as_bytes(), &parts.config]);
    top.text = top_config(&parts.config, &id, &parent, newest_is_empty)?;
    entries.reverse();
    let any_empty = entries.iter().any(|entry| entry.compatibility.throwaway);
    let mut schema1 = Schema1 {
        name: String::new(),
        tag: String::new(),
        architecture: config.architecture,
        entries,
    };
    if let Some(name) = name {
        schema1.rename(name);
    }
    if changed {
        schema1.replace_layers(&written)?;
    }
    Ok(Converted {
        manifest: schema1.write()?,
        config: None,
        blobs: if any_empty { vec![(empty, EMPTY_LAYER.to_vec())] } else { Vec::new() },
    })
}

/// Derives an ID as Docker did, from a blob and further words.
fn v1_id(blob: &Digest, words: &[&[u8]]) -> String {
    let mut input = blob.hex().as_bytes().to_vec();
    for word in words {
        input.push(b' ');
        input.extend_from_slice(word);
    }
    of_blob(Algorithm::Sha256, &input).hex().to_owned()
}

/// Makes a schema 1 entry of a config: what schema 1 says elsewhere goes, its links come.
fn top_config(config: &[u8], id: &str, parent: &str, throwaway: bool) -> Result<String> {
    let document = Object::parse(config)?;
    let mut fields: BTreeMap<&str, &RawValue> = document.entries().collect();
    fields.remove("rootfs");
    fields.remove("history");
    let (id, parent_text, yes) = (raw(&id), raw(&parent), raw(&true));
    fields.insert("id", &id);
    if !parent.is_empty() {
        fields.insert("parent", &parent_text);
    }
    if throwaway {
        fields.insert("throwaway", &yes);
    }
    Ok(String::from_utf8(json::to_vec(&fields)).expect("the serialiser writes UTF-8"))
}
