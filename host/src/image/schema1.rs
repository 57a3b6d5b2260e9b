//! Docker schema 1: layers newest first, each with a config of its own as a string of JSON.
//!
//! # Source
//! Docker image manifest version 2, schema 1. It is read because old registries still hold it, and
//! written because some still want it.

use diolkos_sdk::model::media_type::{DOCKER_LAYER_GZIP, DOCKER_V2S1_SIGNED};
use diolkos_sdk::{
    Descriptor, Digest, Error, ErrorKind, RawManifest, Reference, Result, ResultExt as _,
};
use serde::Serialize;

use super::digest;
use super::json::{self, Object};
use super::manifest::{Layer, LayerWritten, preparing};
use super::media::{Dialect, refuse_ambiguous};
use super::v1::{self, Compatibility};

/// The parts of a schema 1 manifest.
#[derive(Clone, Debug)]
pub(super) struct Schema1 {
    pub(super) name: String,
    pub(super) tag: String,
    pub(super) architecture: String,
    /// Newest first, at least one.
    pub(super) entries: Vec<Entry>,
}

/// A layer and what is known of how it was made.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) blob: Digest,
    /// The config as it is in the manifest.
    pub(super) text: String,
    /// The part of it that matters here.
    pub(super) compatibility: Compatibility,
}

impl Schema1 {
    /// Reads a document, refusing chains of layers that do not hold together.
    ///
    /// Entries that follow an older one of the same ID are left out.
    pub(super) fn parse(document: &Object<'_>) -> Result<Self> {
        let blobs = document.objects("fsLayers")?.unwrap_or_default();
        let history = document.objects("history")?.unwrap_or_default();
        let version = document.integer("schemaVersion")?.unwrap_or(0);
        if version != 1 {
            return Err(corrupt(format!("unsupported schema version {version}")));
        }
        refuse_ambiguous(document, DOCKER_V2S1_SIGNED)?;
        if blobs.len() != history.len() {
            return Err(corrupt("length of history not equal to number of layers"));
        }
        if blobs.is_empty() {
            return Err(corrupt("no FSLayers in manifest"));
        }
        let entries = blobs.iter().zip(&history).enumerate().map(|(index, (blob, history))| {
            let text = history.string("v1Compatibility")?;
            let compatibility =
                Compatibility::parse(&text).map_err(|error| v1::bad_entry(index, error))?;
            let blob = blob.string("blobSum")?;
            let blob = blob
                .parse()
                .map_err(|error: Error| corrupt("invalid blobSum").with_source(error))?;
            Ok(Entry { blob, text, compatibility })
        });
        Ok(Self {
            name: document.string("name")?,
            tag: document.string("tag")?,
            architecture: document.string("architecture")?,
            entries: linked(entries.collect::<Result<_>>()?)?,
        })
    }

    /// Returns the layers, oldest first. Their sizes are not known, nor are their types.
    pub(super) fn layers(&self) -> Vec<Layer> {
        self.entries
            .iter()
            .rev()
            .map(|entry| Layer {
                blob: Descriptor::new("", entry.blob.clone(), None),
                empty: entry.compatibility.throwaway,
                compression: None,
                recompressible: true,
            })
            .collect()
    }

    pub(super) fn name_differs(&self, destination: &Reference) -> bool {
        self.name != destination.path() || self.tag != destination.tag().unwrap_or_default()
    }

    pub(super) fn rename(&mut self, destination: &Reference) {
        destination.path().clone_into(&mut self.name);
        destination.tag().unwrap_or_default().clone_into(&mut self.tag);
    }

    /// Puts other blobs in place of the layers; `written` is oldest first.
    pub(super) fn replace_layers(&mut self, written: &[LayerWritten]) -> Result<()> {
        for (entry, written) in self.entries.iter_mut().rev().zip(written) {
            if let Some(compression) = written.compression {
                // There are no types here; what schema 2 has no word for, readers do not expect.
                Dialect::Docker
                    .in_compression(DOCKER_LAYER_GZIP, compression)
                    .context(|| preparing(written))?;
            }
            entry.blob = written.digest.clone();
        }
        Ok(())
    }

    /// Writes the document with a signature, which registries want even if it proves nothing.
    pub(super) fn write(&self) -> Result<RawManifest> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            name: &'a str,
            tag: &'a str,
            architecture: &'a str,
            fs_layers: Vec<FsLayer<'a>>,
            history: Vec<History<'a>>,
            schema_version: i64,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct FsLayer<'a> {
            blob_sum: &'a Digest,
        }
        #[derive(Serialize)]
        struct History<'a> {
            #[serde(rename = "v1Compatibility")]
            text: &'a str,
        }
        let document = Document {
            name: &self.name,
            tag: &self.tag,
            architecture: &self.architecture,
            fs_layers: self.entries.iter().map(|entry| FsLayer { blob_sum: &entry.blob }).collect(),
            history: self.entries.iter().map(|entry| History { text: &entry.text }).collect(),
            schema_version: 1,
        };
        Ok(RawManifest::new(digest::sign(&json::to_vec(&document))?, DOCKER_V2S1_SIGNED))
    }
}

/// Checks that each entry names the next as its parent, and leaves repeated ones out.
fn linked(entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let is_id =
        |id: &str| id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if let Some(bad) = entries.iter().find(|entry| !is_id(&entry.compatibility.id)) {
        return Err(corrupt(format!("image ID {:?} is invalid", bad.compatibility.id)));
    }
    if entries.last().is_some_and(|oldest| !oldest.compatibility.parent.is_empty()) {
        return Err(corrupt("Invalid parent ID in the base layer of the image"));
    }
    let mut seen = std::collections::HashSet::new();
    let mut last = "";
    for entry in &entries {
        let id = entry.compatibility.id.as_str();
        if !seen.insert(id) && id != last {
            return Err(corrupt(format!("ID {id} appears multiple times in manifest")));
        }
        last = id;
    }
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries.into_iter().rev() {
        if let Some(older) = kept.last() {
            let (id, parent) = (&entry.compatibility.id, &entry.compatibility.parent);
            if *id == older.compatibility.id {
                continue;
            }
            if *parent != older.compatibility.id {
                return Err(corrupt(format!(
                    "Invalid parent ID. Expected {}, got {parent:?}",
                    older.compatibility.id
                )));
            }
        }
        kept.push(entry);
    }
    kept.reverse();
    Ok(kept)
}

fn corrupt(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
