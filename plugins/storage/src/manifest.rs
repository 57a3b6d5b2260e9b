//! What of manifests and configs the store needs to know.

use std::collections::HashMap;

use diolkos_sdk::model::media_type;
use diolkos_sdk::{Descriptor, Digest, Error, ErrorKind, Result};
use jiff::civil::DateTime;
use serde::Deserialize;

use crate::any_case::AnyCase;
use crate::store::records::or_default;

/// The types of manifests that images of a store have.
pub(crate) const TYPES: [&str; 2] = [media_type::OCI_MANIFEST, media_type::DOCKER_V2S2];

/// How annotations begin that speak of a layer's compressed form.
const OF_COMPRESSION: [&str; 3] = [
    "io.github.containers.zstd-chunked.",
    "containerd.io/snapshot/stargz/",
    "io.containers.estargz.",
];

/// A manifest of OCI or Docker's schema 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub schema_version: u32,
    pub config: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Option<Vec<Instance>>,
    #[serde(default)]
    media_type: String,
}

/// An entry of an index.
#[derive(Debug, Deserialize)]
pub(crate) struct Instance {
    pub digest: Digest,
    #[serde(default)]
    platform: HashMap<String, serde_json::Value>,
}

impl Instance {
    /// Tells whether the instance is for an operating system and architecture.
    pub fn is_for(&self, os: &str, architecture: &str) -> bool {
        let is = |key: &str, wanted: &str| {
            self.platform.get(key).and_then(|value| value.as_str()).is_some_and(|it| it == wanted)
        };
        is("os", os) && is("architecture", architecture)
    }
}

impl Manifest {
    /// Parses it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the manifest makes no sense").with_source(error)
        })
    }

    /// Fails for what is no image: programs that share the store could not list its images any more.
    pub fn check_is_image(&self) -> Result<()> {
        let media_type = self.config.as_ref().map_or("", |config| config.media_type.as_str());
        if matches!(media_type, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
            return Ok(());
        }
        let message = format!(
            "unsupported image-specific operation on artifact with type {media_type:?}: a store \
             keeps container images alone"
        );
        Err(Error::unsupported(message))
    }

    /// Returns the instances of an index; `None` for the manifest of an image.
    pub fn instances(&self) -> Option<&[Instance]> {
        self.manifests.as_deref()
    }

    /// Returns what layers of this manifest that are not compressed are called.
    pub fn plain_layer_type(&self) -> &'static str {
        let oci = self.schema_version == 2
            && (self.media_type == media_type::OCI_MANIFEST
                || self.config.as_ref().is_some_and(|it| it.media_type == media_type::OCI_CONFIG));
        if oci { media_type::OCI_LAYER } else { media_type::DOCKER_LAYER }
    }

    /// Returns a layer as the store has it: what was said of its compressed form is not true of it.
    pub fn layer_as_kept(&self, index: usize, digest: Digest, size: Option<u64>) -> Descriptor {
        let mut kept = Descriptor::new(self.plain_layer_type(), digest, size);
        if let Some(layer) = self.layers.get(index) {
            kept.urls.clone_from(&layer.urls);
            kept.annotations.clone_from(&layer.annotations);
            kept.annotations.retain(|key, _| !OF_COMPRESSION.iter().any(|it| key.starts_with(it)));
        }
        kept
    }
}

/// An image's config, as far as the programs that share the store read it: one value of a type that
/// they do not expect, and they cannot list a single image any more. Its keys are read as
/// [`AnyCase`], and therefore stand here in lower case.
///
/// # Source
/// The OCI image specification's config.md; for what Docker adds, `Schema2Image` in
/// `image/manifest/docker_schema2.go` of the library.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct Config {
    created: Option<String>,
    rootfs: Option<AnyCase<Rootfs>>,
    history: Option<Vec<Option<AnyCase<Step>>>>,
    #[serde(rename = "config")]
    _defaults: Option<AnyCase<Defaults>>,
    #[serde(rename = "container_config")]
    _of_container: Option<AnyCase<Defaults>>,
    #[serde(rename = "author")]
    _author: Option<String>,
    #[serde(rename = "architecture")]
    _architecture: Option<String>,
    #[serde(rename = "variant")]
    _variant: Option<String>,
    #[serde(rename = "os")]
    _os: Option<String>,
    #[serde(rename = "os.version")]
    _os_version: Option<String>,
    #[serde(rename = "os.features")]
    _os_features: Texts,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "parent")]
    _parent: Option<String>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(rename = "container")]
    _container: Option<String>,
    #[serde(rename = "docker_version")]
    _docker_version: Option<String>,
    #[serde(rename = "size")]
    _size: Option<i64>,
}

/// A list of texts.
type Texts = Option<Vec<Option<String>>>;
/// Texts that have nothing to say but that they are there.
type Set = Option<HashMap<String, Option<AnyCase<Empty>>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
struct Empty {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct Rootfs {
    #[serde(rename = "type")]
    _kind: Option<String>,
    diff_ids: Option<Vec<String>>,
}

/// What a container of the image begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct Defaults {
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(rename = "exposedports")]
    _exposed_ports: Set,
    #[serde(rename = "env")]
    _env: Texts,
    #[serde(rename = "entrypoint")]
    _entrypoint: Texts,
    #[serde(rename = "cmd")]
    _cmd: Texts,
    #[serde(rename = "volumes")]
    _volumes: Set,
    #[serde(rename = "workingdir")]
    _working_dir: Option<String>,
    #[serde(rename = "labels")]
    _labels: Option<HashMap<String, Option<String>>>,
    #[serde(rename = "stopsignal")]
    _stop_signal: Option<String>,
    #[serde(rename = "argsescaped")]
    _args_escaped: Option<bool>,
    #[serde(rename = "hostname")]
    _hostname: Option<String>,
    #[serde(rename = "domainname")]
    _domainname: Option<String>,
    #[serde(rename = "image")]
    _image: Option<String>,
    #[serde(rename = "macaddress")]
    _mac_address: Option<String>,
    #[serde(rename = "attachstdin")]
    _attach_stdin: Option<bool>,
    #[serde(rename = "attachstdout")]
    _attach_stdout: Option<bool>,
    #[serde(rename = "attachstderr")]
    _attach_stderr: Option<bool>,
    #[serde(rename = "tty")]
    _tty: Option<bool>,
    #[serde(rename = "openstdin")]
    _open_stdin: Option<bool>,
    #[serde(rename = "stdinonce")]
    _stdin_once: Option<bool>,
    #[serde(rename = "networkdisabled")]
    _network_disabled: Option<bool>,
    #[serde(rename = "onbuild")]
    _on_build: Texts,
    #[serde(rename = "shell")]
    _shell: Texts,
    #[serde(rename = "stoptimeout")]
    _stop_timeout: Option<i64>,
    #[serde(rename = "healthcheck")]
    _healthcheck: Option<AnyCase<Healthcheck>>,
}

/// How it is seen that a container is well; times are in nanoseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct Healthcheck {
    #[serde(rename = "test")]
    _test: Texts,
    #[serde(rename = "interval")]
    _interval: Option<i64>,
    #[serde(rename = "timeout")]
    _timeout: Option<i64>,
    #[serde(rename = "startperiod")]
    _start_period: Option<i64>,
    #[serde(rename = "retries")]
    _retries: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct Step {
    created: Option<String>,
    #[serde(rename = "created_by")]
    _created_by: Option<String>,
    #[serde(rename = "author")]
    _author: Option<String>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(rename = "empty_layer")]
    _empty_layer: Option<bool>,
}

impl Config {
    /// Parses it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what is no config of an image.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |source: String| {
            let message = "writing to containers-storage without a valid image config: parsing \
                           image configuration";
            Error::new(ErrorKind::Unsupported, message).with_source(source)
        };
        let AnyCase(config) = serde_json::from_slice::<AnyCase<Self>>(bytes)
            .map_err(|error| wrong(error.to_string()))?;
        let steps = config.history.iter().flatten().flatten();
        let steps = steps.filter_map(|step| step.0.created.as_deref());
        for text in steps.chain(config.created.as_deref()) {
            if time(text).is_none() {
                return Err(wrong(format!("`{text}` is no time")));
            }
        }
        Ok(config)
    }

    /// Returns when the image was created, as records have it, if the config says.
    pub fn created(&self) -> Option<String> {
        let never = "0001-01-01T00:00:00Z";
        self.created.as_deref().and_then(time).filter(|text| text != never)
    }

    /// Checks a layer's diff ID against what the config says, if it says any.
    pub fn check_diff_id(&self, index: usize, blob: &Digest, diff_id: &Digest) -> Result<()> {
        let said = self.rootfs.as_ref().and_then(|it| it.0.diff_ids.as_deref()).unwrap_or_default();
        if said.iter().all(String::is_empty) {
            return Ok(());
        }
        match said.get(index) {
            Some(expected) if *expected == diff_id.to_string() => Ok(()),
            Some(expected) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "layer {index} (blob {blob}, diff ID {diff_id}) does not match config's \
                     DiffID {expected:?}"
                ),
            )),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "image config has only {} DiffID values, but a layer with index {index} exists",
                    said.len()
                ),
            )),
        }
    }
}

/// Reads a time as RFC 3339 and Go have it; `None` for what is none.
fn time(text: &str) -> Option<String> {
    // Each 0 stands for a digit.
    let fits = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                form => byte == form,
            })
    };
    let (begin, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
    let fraction = rest
        .strip_prefix('.')
        .map_or("", |rest| &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())]);
    let zone = if fraction.is_empty() { rest } else { &rest[fraction.len() + 1..] };
    let is_time = fits(begin, "0000-00-00T00:00:00")
        && ["Z", "+00:00", "-00:00"].iter().any(|form| fits(zone, form))
        // Nor leap seconds, nor zones more than a day away.
        && !begin.ends_with(":60")
        && zone.get(1..3).is_none_or(|hours| hours < "24")
        && zone.get(4..6).is_none_or(|minutes| minutes < "60")
        && begin.parse::<DateTime>().is_ok();
    // What is finer than a nanosecond is left away.
    is_time.then(|| match fraction[..fraction.len().min(9)].trim_end_matches('0') {
        "" => format!("{begin}{zone}"),
        fraction => format!("{begin}.{fraction}{zone}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_go_reads() {
        for (text, written) in [
            ("2024-05-06T07:08:09.500+02:00", "2024-05-06T07:08:09.5+02:00"),
            ("2024-05-06T07:08:09.000Z", "2024-05-06T07:08:09Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("2024-05-06T07:08:09.1234567809Z", "2024-05-06T07:08:09.12345678Z"),
        ] {
            assert_eq!(time(text).as_deref(), Some(written));
        }
        for text in [
            "-000001-01-01T00:00:00Z",
            "2024-05-06 07:08:09Z",
            "2024-05-06T07:08:09z",
            "2024-05-06T07:08:09.Z",
            "2024-05-06T25:08:09Z",
            "2024-02-30T07:08:09Z",
            "2024-12-31T23:59:60Z",
            "2024-05-06T07:08:09+24:00",
            "2024-05-06T07:08:09-25:00",
            "2024-05-06T07:08:09+01:60",
            "2024-05-06T07:08:09+2:00",
            "2024-05-06T07:08:09",
            "yesterday",
            "",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn a_config_that_others_could_not_read_is_none() {
        let sound = r#"{"Created":"2024-05-06T07:08:09Z","config":{"Env":null,"Labels":{"a":"b","A":"b"},"ExposedPorts":{"80/tcp":{},"81/tcp":null},"Volumes":{"/x":{"a":1}}},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x","empty_layer":true}],"os":"linux","odd":1,"odd":1e999,"Odd":"\udc80"}"#;
        assert_eq!(
            Config::parse(sound.as_bytes()).unwrap().created().unwrap(),
            "2024-05-06T07:08:09Z"
        );
        for text in [
            r#"{"config":{"Labels":{"a":1}}}"#,
            r#"{"config":{"labels":{"a":1}}}"#,
            r#"{"config":{"Label\u017f":{"a":1}}}"#,
            r#"{"CONFIG":{"Env":1}}"#,
            r#"{"config":{"Env":1,"Env":[]}}"#,
            r#"{"architecture":5}"#,
            r#"{"Architecture":5}"#,
            r#"{"os":"linux","OS":"linux"}"#,
            r#"{"Created":"yesterday"}"#,
            r#"{"history":[{"CREATED":"x"}]}"#,
            r#"{"created":"yesterday"}"#,
            r#"{"created":"-000001-01-01T00:00:00Z"}"#,
            r#"{"history":"x"}"#,
            r#"{"history":[{"created":"x"}]}"#,
            r#"{"config":{"Cmd":"x"}}"#,
            r#"{"config":{"ExposedPorts":{"80/tcp":1}}}"#,
            r#"{"config":{"Volumes":{"/x":[]}}}"#,
            r#"{"config":{"OnBuild":1}}"#,
            r#"{"config":{"Healthcheck":{"Interval":"30s"}}}"#,
            r#"{"container_config":{"Hostname":1}}"#,
            r#"{"Size":"x"}"#,
            r#"{"rootfs":{"diff_ids":[1]}}"#,
            "[]",
            "",
        ] {
            assert_eq!(
                Config::parse(text.as_bytes()).unwrap_err().kind(),
                ErrorKind::Unsupported,
                "{text}"
            );
        }
        assert_eq!(
            Config::parse(br#"{"created":"0001-01-01T00:00:00Z"}"#).unwrap().created(),
            None
        );
    }
}
