//! Indexes: the images of several platforms under one name.

use std::collections::BTreeMap;

use diolkos_sdk::model::media_type::{DOCKER_LIST, OCI_INDEX};
use diolkos_sdk::{Descriptor, Digest, Error, ErrorKind, PlatformChoice, RawManifest, Result};

use super::json::{self, Object};
use super::media::{known_manifest_type, refuse_ambiguous};
use super::platform::{self, Wanted};
use super::wire::{self, DockerDescriptor, DockerList, Fields, OciIndex};

/// Says of an instance that only those who know zstd can use it.
const ZSTD_ANNOTATION: &str = "io.github.containers.compression.zstd";

/// An OCI index or a Docker manifest list.
#[derive(Clone, Debug)]
pub struct Index {
    raw: RawManifest,
    media_type: &'static str,
    instances: Vec<Descriptor>,
    schema_version: i64,
    /// The type that the document names itself.
    own_media_type: String,
    artifact_type: String,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

/// What became of an instance: the manifest that the destination has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceWritten {
    /// Digest of the manifest as written.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Whether any of its layers is compressed with zstd: an OCI index says so.
    pub zstd: bool,
}

impl Index {
    /// Reads a document of a type that is one of an index.
    pub(super) fn parse(raw: RawManifest, media_type: &'static str) -> Result<Self> {
        let document = Object::parse(&raw.bytes)?;
        let fields = if media_type == OCI_INDEX { Fields::Oci } else { Fields::DockerList };
        let instances = wire::read_descriptors(&document, "manifests", fields)?.unwrap_or_default();
        refuse_ambiguous(&document, media_type)?;
        let own_media_type = match document.get("mediaType") {
            Some(_) => document.string("mediaType")?,
            None => media_type.to_owned(),
        };
        let oci = media_type == OCI_INDEX;
        let read_oci = |key| if oci { document.object(key) } else { Ok(None) };
        Ok(Self {
            media_type,
            instances,
            schema_version: document.integer("schemaVersion")?.unwrap_or(2),
            own_media_type,
            artifact_type: if oci { document.string("artifactType")? } else { String::new() },
            subject: read_oci("subject")?
                .map(|subject| wire::read_descriptor(&subject, Fields::Oci))
                .transpose()?,
            annotations: if oci {
                document.string_map("annotations")?.unwrap_or_default()
            } else {
                BTreeMap::new()
            },
            raw,
        })
    }

    /// Returns the media type.
    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Returns the document as it was stored.
    pub fn raw(&self) -> &RawManifest {
        &self.raw
    }

    /// Returns the instances in the order of the index.
    pub fn instances(&self) -> &[Descriptor] {
        &self.instances
    }

    /// Chooses the instance for a platform; what the user left open is this machine's.
    ///
    /// The first that fits best wins. In an OCI index an instance without platform is the last
    /// resort, and of two that fit equally the one that is compressed with zstd is taken.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none fits.
    pub fn choose(&self, platform: &PlatformChoice) -> Result<&Descriptor> {
        let wanted = Wanted::new(platform);
        let oci = self.media_type == OCI_INDEX;
        self.instances
            .iter()
            .filter_map(|instance| {
                let rank = match &instance.platform {
                    Some(platform) => wanted.rank(platform)?,
                    None => usize::MAX,
                };
                Some((rank, !(oci && is_marked_zstd(instance)), instance))
            })
            .min_by_key(|(rank, not_zstd, _)| (*rank, *not_zstd))
            .map(|(_, _, instance)| instance)
            .ok_or_else(|| {
                let kind = if oci { "image index" } else { "manifest list" };
                Error::new(
                    ErrorKind::NotFound,
                    format!("no image found in {kind} for {}", wanted.describe()),
                )
                .with_hint(self.platforms_hint())
            })
    }

    /// Names the platforms that there are.
    fn platforms_hint(&self) -> String {
        /// More would not be read.
        const SHOWN: usize = 20;
        let platforms: Vec<_> = self
            .instances
            .iter()
            .filter_map(|instance| instance.platform.as_ref())
            .map(ToString::to_string)
            .filter(|platform| platform != "unknown/unknown")
            .take(SHOWN)
            .collect();
        if platforms.is_empty() {
            return "the index names no platforms".to_owned();
        }
        format!("the image exists for {}", platforms.join(", "))
    }

    /// Writes the index with its instances as they are now, in the same type.
    ///
    /// `written` has one entry for each of [`Self::instances`]. When nothing differs, the result is
    /// the stored bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the numbers differ.
    pub fn with_instances(&self, written: &[InstanceWritten]) -> Result<RawManifest> {
        let instances = self.edited(written)?;
        if instances == self.instances {
            return Ok(self.raw.clone());
        }
        Ok(self.write(self.media_type, &instances, true))
    }

    /// Writes the index in the type `to`, an empty `written` meaning that no instance changed.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when `to` is no type of index; as [`Self::with_instances`].
    pub fn convert(&self, to: &str, written: &[InstanceWritten]) -> Result<RawManifest> {
        let Some(to @ (OCI_INDEX | DOCKER_LIST)) = known_manifest_type(to) else {
            let kind = if self.media_type == OCI_INDEX { "image index" } else { "manifest list" };
            return Err(Error::unsupported(format!(
                "Can not convert {kind} to MIME type {to:?}, which is not a list type"
            )));
        };
        let instances =
            if written.is_empty() { self.instances.clone() } else { self.edited(written)? };
        if to == self.media_type {
            if instances == self.instances {
                return Ok(self.raw.clone());
            }
            return Ok(self.write(to, &instances, true));
        }
        Ok(self.write(to, &instances, false))
    }

    /// Returns the instances with what became of them.
    fn edited(&self, written: &[InstanceWritten]) -> Result<Vec<Descriptor>> {
        if written.len() != self.instances.len() {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "an index of {} instances cannot be written with {}",
                    self.instances.len(),
                    written.len()
                ),
            ));
        }
        let edited = self.instances.iter().zip(written).map(|(instance, written)| {
            let mut edited = instance.clone();
            if edited.digest != written.digest {
                // Embedded content is that of the old digest.
                edited.data = None;
            }
            edited.digest = written.digest.clone();
            edited.size = Some(written.size);
            edited.media_type.clone_from(&written.media_type);
            if written.zstd && self.media_type == OCI_INDEX {
                edited.annotations.insert(ZSTD_ANNOTATION.to_owned(), "true".to_owned());
            }
            edited
        });
        Ok(edited.collect())
    }

    /// Writes a document; `own` keeps what the same type has beside instances.
    fn write(&self, to: &'static str, instances: &[Descriptor], own: bool) -> RawManifest {
        let host = platform::host();
        let bytes = if to == DOCKER_LIST {
            json::to_vec(&DockerList::new(
                instances
                    .iter()
                    .map(|instance| DockerDescriptor::instance(instance, &host))
                    .collect(),
            ))
        } else {
            json::to_vec(&OciIndex {
                schema_version: if own { self.schema_version } else { 2 },
                media_type: if own { &self.own_media_type } else { to },
                artifact_type: &self.artifact_type,
                manifests: instances.iter().map(Into::into).collect(),
                subject: self.subject.as_ref().map(Into::into),
                annotations: &self.annotations,
            })
        };
        RawManifest::new(bytes, to)
    }
}

fn is_marked_zstd(instance: &Descriptor) -> bool {
    instance.annotations.get(ZSTD_ANNOTATION).is_some_and(|value| value == "true")
}
