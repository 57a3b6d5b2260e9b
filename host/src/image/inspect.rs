//! What `inspect` prints: of an image, and with `--config` of its config.
//!
//! Both print as JSON in the order of their fields, or by a Go template in which fields have Go's
//! names.

use std::collections::BTreeMap;

use diolkos_sdk::model::media_type::OCI_MANIFEST;
use diolkos_sdk::{Error, ErrorKind, Result};
use serde::Serialize;

use super::ImageManifest;
use super::config::{Execution, Flavour, History, ImageConfig, StringSet};
use super::convert::schema1_config;
use super::json;
use super::template::{self, Value};
use super::time::GoTime;
use super::v1::V1Image;

const INDENT: &str = "    ";

/// What `inspect` prints of an image, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspection {
    /// Docker reference without tag; absent where the transport has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Schema 1's own tag.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// Digest of the top-level manifest.
    pub digest: String,
    /// All tags of the repository; `None` (null) where the registry would not tell.
    pub repo_tags: Option<Vec<String>>,
    /// When the image was made.
    created: Option<GoTime>,
    /// Version of the Docker that made it.
    pub docker_version: String,
    /// Labels of the config.
    pub labels: Option<BTreeMap<String, String>>,
    /// CPU architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Digests of the layers, bottom first.
    pub layers: Vec<String>,
    /// The layers' descriptors.
    pub layers_data: Vec<LayerData>,
    /// Environment of the config.
    pub env: Option<Vec<String>>,
}

/// What `inspect` prints of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LayerData {
    /// Media type; empty for schema 1.
    #[serde(rename = "MIMEType")]
    pub mime_type: String,
    /// Digest as stored.
    pub digest: String,
    /// Size as stored; -1 where the manifest cannot say.
    pub size: i64,
    /// Annotations of the descriptor.
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Inspection {
    /// Gathers what the manifest and config of one image say.
    ///
    /// The caller sets name, digest and tags; they are empty (tags: an empty list) until then.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an artifact, [`ErrorKind::Corrupt`] for a config that is
    /// none.
    pub fn new(manifest: &ImageManifest, config: Option<&[u8]>) -> Result<Self> {
        manifest.require_container_image()?;
        let layers = manifest.layers();
        let size_unknown = if manifest.schema1().is_some() { -1 } else { 0 };
        let mut inspection = Self {
            name: String::new(),
            tag: String::new(),
            digest: String::new(),
            repo_tags: Some(Vec::new()),
            created: None,
            docker_version: String::new(),
            labels: None,
            architecture: String::new(),
            os: String::new(),
            layers: layers.iter().map(|layer| layer.blob.digest.to_string()).collect(),
            layers_data: layers
                .iter()
                .map(|layer| LayerData {
                    mime_type: layer.blob.media_type.clone(),
                    digest: layer.blob.digest.to_string(),
                    size: layer
                        .blob
                        .size
                        .map_or(size_unknown, |size| i64::try_from(size).unwrap_or(i64::MAX)),
                    annotations: Some(layer.blob.annotations.clone())
                        .filter(|annotations| !annotations.is_empty()),
                })
                .collect(),
            env: None,
        };
        if let Some(schema1) = manifest.schema1() {
            let newest = schema1.entries.first().ok_or_else(no_config)?;
            let image = V1Image::parse(&newest.text)?;
            inspection.tag.clone_from(&schema1.tag);
            inspection.created = Some(image.created.clone());
            inspection.docker_version.clone_from(&image.docker_version);
            inspection.labels = image.labels().cloned();
            inspection.env = image.env().cloned();
            inspection.architecture.clone_from(&image.architecture);
            inspection.os.clone_from(&image.os);
            return Ok(inspection);
        }
        let is_oci = manifest.media_type() == OCI_MANIFEST;
        let flavour = if is_oci { Flavour::Oci } else { Flavour::Docker };
        let config = ImageConfig::parse(config.ok_or_else(no_config)?, flavour)?;
        // Docker has no word for "not known": its zero time is shown.
        inspection.created =
            if is_oci { config.created } else { Some(config.created.unwrap_or_default()) };
        inspection.docker_version = config.docker_version;
        inspection.labels = config.config.labels;
        inspection.env = config.config.env;
        inspection.architecture = config.architecture;
        inspection.os = config.os;
        Ok(inspection)
    }

    /// Returns when the image was made, RFC 3339.
    pub fn created(&self) -> Option<String> {
        self.created.as_ref().map(ToString::to_string)
    }

    /// Returns the output as JSON, indented by four spaces, with a newline at its end.
    pub fn to_json(&self) -> String {
        json::to_string_indented(self, INDENT) + "\n"
    }

    /// Renders the output by `--format`, of which some values mean JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a template that does not parse or names a field that there
    /// is not.
    pub fn render(&self, format: &str) -> Result<String> {
        if template::is_json(format) {
            return Ok(self.to_json());
        }
        let layers_data = self.layers_data.iter().map(|layer| {
            Value::structure(
                "types.ImageInspectLayer",
                vec![
                    ("MIMEType", Value::text(layer.mime_type.as_str())),
                    ("Digest", Value::text(layer.digest.as_str())),
                    ("Size", Value::Int(layer.size)),
                    ("Annotations", Value::text_map(layer.annotations.as_ref())),
                ],
                layer,
            )
        });
        let data = Value::structure(
            "inspect.Output",
            vec![
                ("Name", Value::text(self.name.as_str())),
                ("Tag", Value::text(self.tag.as_str())),
                ("Digest", Value::text(self.digest.as_str())),
                ("RepoTags", Value::texts(self.repo_tags.as_deref())),
                ("Created", Value::Time(self.created.clone())),
                ("DockerVersion", Value::text(self.docker_version.as_str())),
                ("Labels", Value::text_map(self.labels.as_ref())),
                ("Architecture", Value::text(self.architecture.as_str())),
                ("Os", Value::text(self.os.as_str())),
                ("Layers", Value::texts(Some(&self.layers))),
                ("LayersData", Value::list(layers_data, "[]types.ImageInspectLayer")),
                ("Env", Value::texts(self.env.as_deref())),
            ],
            self,
        );
        template::render(format, data)
    }
}

/// The config of an image in OCI's form: what `inspect --config` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigInspection(ImageConfig);

impl ConfigInspection {
    /// Reads the config of an image; schema 1's is made from its history, without diff IDs.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an artifact, [`ErrorKind::Corrupt`] for a config that is
    /// none.
    pub fn new(manifest: &ImageManifest, config: Option<&[u8]>) -> Result<Self> {
        manifest.require_container_image()?;
        if let Some(schema1) = manifest.schema1() {
            let layers = schema1.entries.iter().filter(|entry| !entry.compatibility.throwaway);
            let config = schema1_config(schema1, &vec![String::new(); layers.count()])?;
            return ImageConfig::parse(&config, Flavour::Oci).map(Self);
        }
        ImageConfig::parse(config.ok_or_else(no_config)?, Flavour::Oci).map(Self)
    }

    /// Returns the output as JSON, indented by four spaces, with a newline at its end.
    pub fn to_json(&self) -> String {
        json::to_string_indented(&self.0, INDENT) + "\n"
    }

    /// Renders the output by `--format`.
    ///
    /// # Errors
    /// As [`Inspection::render`].
    pub fn render(&self, format: &str) -> Result<String> {
        if template::is_json(format) {
            return Ok(self.to_json());
        }
        let config = &self.0;
        let rootfs = Value::structure(
            "v1.RootFS",
            vec![
                ("Type", Value::text(config.rootfs.kind.as_str())),
                ("DiffIDs", Value::texts(config.rootfs.diff_ids.as_deref())),
            ],
            &config.rootfs,
        );
        let history = match &config.history {
            None => Value::List(None, "[]v1.History"),
            Some(steps) => Value::list(steps.iter().map(step_value), "[]v1.History"),
        };
        let data = Value::structure(
            "v1.Image",
            vec![
                ("Created", Value::Time(config.created.clone())),
                ("Author", Value::text(config.author.as_str())),
                ("Architecture", Value::text(config.architecture.as_str())),
                ("OS", Value::text(config.os.as_str())),
                ("OSVersion", Value::text(config.os_version.as_str())),
                ("OSFeatures", Value::texts(config.os_features.as_deref())),
                ("Variant", Value::text(config.variant.as_str())),
                ("Config", execution_value(&config.config)),
                ("RootFS", rootfs),
                ("History", history),
            ],
            config,
        );
        template::render(format, data)
    }
}

fn step_value(step: &History) -> Value {
    Value::structure(
        "v1.History",
        vec![
            ("Created", Value::Time(step.created.clone())),
            ("CreatedBy", Value::text(step.created_by.as_str())),
            ("Author", Value::text(step.author.as_str())),
            ("Comment", Value::text(step.comment.as_str())),
            ("EmptyLayer", Value::Bool(step.empty_layer)),
        ],
        step,
    )
}

fn execution_value(config: &Execution) -> Value {
    Value::structure(
        "v1.ImageConfig",
        vec![
            ("User", Value::text(config.user.as_str())),
            ("ExposedPorts", set_value(config.exposed_ports.as_ref())),
            ("Env", Value::texts(config.env.as_deref())),
            ("Entrypoint", Value::texts(config.entrypoint.as_deref())),
            ("Cmd", Value::texts(config.cmd.as_deref())),
            ("Volumes", set_value(config.volumes.as_ref())),
            ("WorkingDir", Value::text(config.working_dir.as_str())),
            ("Labels", Value::text_map(config.labels.as_ref())),
            ("StopSignal", Value::text(config.stop_signal.as_str())),
            ("ArgsEscaped", Value::Bool(config.args_escaped)),
        ],
        config,
    )
}

fn set_value(set: Option<&StringSet>) -> Value {
    let nothing = || Value::structure("struct {}", Vec::new(), &BTreeMap::<String, String>::new());
    let map = set.map(|set| set.0.iter().map(|name| (name.clone(), nothing())).collect());
    Value::Map(map.map(std::sync::Arc::new), "map[string]struct {}")
}

fn no_config() -> Error {
    Error::new(ErrorKind::Corrupt, "the image has no config")
}
