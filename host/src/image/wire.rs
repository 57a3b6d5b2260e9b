//! Descriptors and documents as they are read from JSON, and written with Go's order of fields.

use std::collections::BTreeMap;

use diolkos_sdk::model::media_type::{DOCKER_LIST, DOCKER_V2S2};
use diolkos_sdk::{Descriptor, Digest, Error, ErrorKind, Platform, Result};
use serde::Serialize;

use super::json::Object;

/// How much of a descriptor a document's type knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// Everything.
    Oci,
    /// Type, size, digest, URLs.
    Docker,
    /// The same, and the platform.
    DockerList,
}

/// Reads a descriptor.
pub(super) fn read_descriptor(object: &Object<'_>, fields: Fields) -> Result<Descriptor> {
    let digest = object.string("digest")?;
    let digest: Digest = digest
        .parse()
        .map_err(|error| Error::new(ErrorKind::Corrupt, "invalid descriptor").with_source(error))?;
    let size = match object.integer("size")? {
        None => None,
        Some(size) => Some(u64::try_from(size).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("descriptor {digest} has a negative size"))
        })?),
    };
    let mut descriptor = Descriptor::new(object.string("mediaType")?, digest, size);
    descriptor.urls = object.strings("urls")?.unwrap_or_default();
    match fields {
        Fields::Oci => {
            descriptor.annotations = object.string_map("annotations")?.unwrap_or_default();
            descriptor.data = Some(object.string("data")?).filter(|data| !data.is_empty());
            descriptor.platform =
                object.object("platform")?.map(|platform| read_platform(&platform)).transpose()?;
            descriptor.artifact_type =
                Some(object.string("artifactType")?).filter(|kind| !kind.is_empty());
        }
        Fields::Docker => {}
        Fields::DockerList => {
            let platform = object.object("platform")?.unwrap_or_default();
            descriptor.platform = Some(read_platform(&platform)?);
        }
    }
    Ok(descriptor)
}

fn read_platform(object: &Object<'_>) -> Result<Platform> {
    Ok(Platform {
        architecture: object.string("architecture")?,
        os: object.string("os")?,
        os_version: object.string("os.version")?,
        os_features: object.strings("os.features")?.unwrap_or_default(),
        variant: object.string("variant")?,
        features: object.strings("features")?.unwrap_or_default(),
    })
}

/// Reads an array of descriptors; `None` when it is absent.
pub(super) fn read_descriptors(
    document: &Object<'_>,
    key: &str,
    fields: Fields,
) -> Result<Option<Vec<Descriptor>>> {
    let Some(objects) = document.objects(key)? else { return Ok(None) };
    objects.iter().map(|object| read_descriptor(object, fields)).collect::<Result<_>>().map(Some)
}

#[derive(Serialize)]
struct PlatformOut<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(rename = "os.version", skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    #[serde(rename = "os.features", skip_serializing_if = "<[String]>::is_empty")]
    os_features: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    features: &'a [String],
}

impl<'a> PlatformOut<'a> {
    fn new(platform: &'a Platform, fields: Fields) -> Self {
        Self {
            architecture: &platform.architecture,
            os: &platform.os,
            os_version: &platform.os_version,
            os_features: &platform.os_features,
            variant: &platform.variant,
            // OCI reserves the name and has no such field.
            features: if fields == Fields::Oci { &[] } else { &platform.features },
        }
    }
}

/// A descriptor in an OCI document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OciDescriptor<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    urls: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<PlatformOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
}

impl<'a> From<&'a Descriptor> for OciDescriptor<'a> {
    fn from(descriptor: &'a Descriptor) -> Self {
        Self {
            media_type: &descriptor.media_type,
            digest: &descriptor.digest,
            size: descriptor.size.unwrap_or(0),
            urls: &descriptor.urls,
            annotations: &descriptor.annotations,
            data: descriptor.data.as_deref(),
            platform: descriptor
                .platform
                .as_ref()
                .map(|platform| PlatformOut::new(platform, Fields::Oci)),
            artifact_type: descriptor.artifact_type.as_deref(),
        }
    }
}

/// A descriptor in a Docker document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerDescriptor<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a Digest,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    urls: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<PlatformOut<'a>>,
}

impl<'a> DockerDescriptor<'a> {
    /// Describes a config or layer.
    pub(super) fn blob(descriptor: &'a Descriptor) -> Self {
        Self {
            media_type: &descriptor.media_type,
            size: descriptor.size.unwrap_or(0),
            digest: &descriptor.digest,
            urls: &descriptor.urls,
            platform: None,
        }
    }

    /// Describes an instance of a list, which always has a platform.
    pub(super) fn instance(descriptor: &'a Descriptor, default: &'a Platform) -> Self {
        let platform = descriptor.platform.as_ref().unwrap_or(default);
        Self {
            platform: Some(PlatformOut::new(platform, Fields::DockerList)),
            ..Self::blob(descriptor)
        }
    }
}

/// An OCI manifest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OciManifest<'a> {
    pub(super) schema_version: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) media_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) artifact_type: &'a str,
    pub(super) config: OciDescriptor<'a>,
    pub(super) layers: Vec<OciDescriptor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<OciDescriptor<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
}

/// An OCI index.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OciIndex<'a> {
    pub(super) schema_version: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) media_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) artifact_type: &'a str,
    pub(super) manifests: Vec<OciDescriptor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<OciDescriptor<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
}

/// A Docker schema 2 manifest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerManifest<'a> {
    schema_version: i64,
    media_type: &'static str,
    config: DockerDescriptor<'a>,
    layers: Vec<DockerDescriptor<'a>>,
}

impl<'a> DockerManifest<'a> {
    pub(super) fn new(config: &'a Descriptor, layers: &'a [Descriptor]) -> Self {
        Self {
            schema_version: 2,
            media_type: DOCKER_V2S2,
            config: DockerDescriptor::blob(config),
            layers: layers.iter().map(DockerDescriptor::blob).collect(),
        }
    }
}

/// A Docker manifest list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerList<'a> {
    schema_version: i64,
    media_type: &'static str,
    manifests: Vec<DockerDescriptor<'a>>,
}

impl<'a> DockerList<'a> {
    pub(super) fn new(manifests: Vec<DockerDescriptor<'a>>) -> Self {
        Self { schema_version: 2, media_type: DOCKER_LIST, manifests }
    }
}
