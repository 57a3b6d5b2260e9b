//! Configs in OCI's form, and what `inspect` wants of Docker's.
//!
//! Reading drops what OCI has no field for; writing gives the bytes that Go's OCI types give, so
//! that a config converted here has the digest that it has elsewhere.
//!
//! # Source
//! OCI image-spec 1.1, "Image Configuration"; Docker image specification 1.2.

use std::collections::BTreeMap;

use diolkos_sdk::{Error, ErrorKind, Result, ResultExt as _};
use serde::{Serialize, Serializer};

use super::json::{self, Object};
use super::time::GoTime;

/// A set of strings that is written as an object with empty objects in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StringSet(pub(crate) Vec<String>);

impl StringSet {
    pub(super) fn read(object: &Object<'_>, key: &str) -> Result<Option<Self>> {
        let Some(members) = object.object(key)? else { return Ok(None) };
        let mut names = Vec::new();
        for (name, value) in members.entries() {
            if !value.get().starts_with('{') && value.get() != "null" {
                return Err(corrupt(format!("field `{key}` should be an object of empty objects")));
            }
            names.push(name.to_owned());
        }
        names.sort_unstable();
        names.dedup();
        Ok(Some(Self(names)))
    }
}

impl Serialize for StringSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let empty = BTreeMap::<String, String>::new();
        serializer.collect_map(self.0.iter().map(|name| (name, &empty)))
    }
}

/// Go's `omitempty` for slices and maps that know nil from empty.
#[expect(clippy::ref_option, reason = "serde hands over references")]
pub(super) fn is_none_or_empty<T: Emptiable>(value: &Option<T>) -> bool {
    value.as_ref().is_none_or(Emptiable::is_empty)
}

/// What can be empty.
pub(super) trait Emptiable {
    fn is_empty(&self) -> bool;
}

impl<T> Emptiable for Vec<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Emptiable for BTreeMap<K, V> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Emptiable for StringSet {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

/// Whose config is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// OCI's, strictly.
    Oci,
    /// Docker's, whose commands may be single strings.
    Docker,
}

/// What a container is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Execution {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user: String,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) exposed_ports: Option<StringSet>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) volumes: Option<StringSet>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) working_dir: String,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) stop_signal: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) args_escaped: bool,
}

impl Execution {
    fn read(object: &Object<'_>, flavour: Flavour) -> Result<Self> {
        let words = match flavour {
            Flavour::Oci => Object::strings,
            Flavour::Docker => words,
        };
        Ok(Self {
            user: object.string("User")?,
            exposed_ports: StringSet::read(object, "ExposedPorts")?,
            env: object.strings("Env")?,
            entrypoint: words(object, "Entrypoint")?,
            cmd: words(object, "Cmd")?,
            volumes: StringSet::read(object, "Volumes")?,
            working_dir: object.string("WorkingDir")?,
            labels: object.string_map("Labels")?,
            stop_signal: object.string("StopSignal")?,
            args_escaped: object.boolean("ArgsEscaped")?,
        })
    }

    /// Tells whether nothing is set; an empty list counts as something, as in Go.
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// The layers of an image, uncompressed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Option<Vec<String>>,
}

/// How a layer came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<GoTime>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) comment: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) empty_layer: bool,
}

impl History {
    fn read(object: &Object<'_>) -> Result<Self> {
        Ok(Self {
            created: time(object, "created")?,
            created_by: object.string("created_by")?,
            author: object.string("author")?,
            comment: object.string("comment")?,
            empty_layer: object.boolean("empty_layer")?,
        })
    }
}

/// A config with the fields that OCI has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ImageConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<GoTime>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub(crate) os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "is_none_or_empty")]
    pub(crate) os_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
    #[serde(skip_serializing_if = "Execution::is_zero")]
    pub(crate) config: Execution,
    pub(crate) rootfs: RootFs,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub(crate) history: Option<Vec<History>>,
    /// Docker's own field, which only `inspect` shows.
    #[serde(skip)]
    pub(crate) docker_version: String,
}

impl ImageConfig {
    /// Reads a config blob.
    ///
    /// # Errors
    /// `Corrupt` when it is no config.
    pub(crate) fn parse(bytes: &[u8], flavour: Flavour) -> Result<Self> {
        Object::parse(bytes)
            .and_then(|object| Self::read(&object, flavour))
            .context(|| "reading the image's config")
    }

    fn read(object: &Object<'_>, flavour: Flavour) -> Result<Self> {
        let rootfs = object.object("rootfs")?.unwrap_or_default();
        let history = object
            .objects("history")?
            .map(|entries| entries.iter().map(History::read).collect::<Result<_>>())
            .transpose()?;
        Ok(Self {
            created: time(object, "created")?,
            author: object.string("author")?,
            architecture: object.string("architecture")?,
            os: object.string("os")?,
            os_version: object.string("os.version")?,
            os_features: object.strings("os.features")?,
            variant: object.string("variant")?,
            config: Execution::read(&object.object("config")?.unwrap_or_default(), flavour)?,
            rootfs: RootFs { kind: rootfs.string("type")?, diff_ids: rootfs.strings("diff_ids")? },
            history,
            docker_version: object.string("docker_version")?,
        })
    }

    /// Writes the config as a blob.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        json::to_vec(self)
    }
}

/// Reads a time, `None` when absent.
pub(super) fn time(object: &Object<'_>, key: &str) -> Result<Option<GoTime>> {
    match object.get(key) {
        None => Ok(None),
        Some(_) => Ok(Some(GoTime::parse(&object.string(key)?)?)),
    }
}

/// Reads a list of strings that may also be a single one.
pub(super) fn words(object: &Object<'_>, key: &str) -> Result<Option<Vec<String>>> {
    match object.get(key) {
        Some(value) if value.get().starts_with('"') => Ok(Some(vec![object.string(key)?])),
        _ => object.strings(key),
    }
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn converted(text: &str) -> String {
        String::from_utf8(ImageConfig::parse(text.as_bytes(), Flavour::Oci).unwrap().to_vec())
            .unwrap()
    }

    #[test]
    fn a_docker_config_loses_what_oci_does_not_know() {
        let docker = r#"{"architecture":"amd64","config":{"Hostname":"h","User":"","Env":["A=<1>"],
            "Cmd":["/bin/sh"],"Image":"x","Volumes":{"/b":{},"/a":null},"WorkingDir":"","Entrypoint":null,
            "OnBuild":null,"Labels":{"b":"2","a":"1"}},"container":"c","created":"2020-01-02T03:04:05.600Z",
            "docker_version":"20","history":[{"created":"2020-01-02T03:04:05Z","created_by":"x & y",
            "empty_layer":true}],"id":"i","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:1"]},
            "variant":"v8","os.features":[]}"#;
        assert_eq!(
            converted(docker),
            r#"{"created":"2020-01-02T03:04:05.6Z","architecture":"amd64","os":"linux","variant":"v8","config":{"Env":["A=\u003c1\u003e"],"Cmd":["/bin/sh"],"Volumes":{"/a":{},"/b":{}},"Labels":{"a":"1","b":"2"}},"rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[{"created":"2020-01-02T03:04:05Z","created_by":"x \u0026 y","empty_layer":true}]}"#
        );
    }

    #[test]
    fn what_go_always_writes_is_written_although_empty() {
        assert_eq!(
            converted("{}"),
            r#"{"architecture":"","os":"","rootfs":{"type":"","diff_ids":null}}"#
        );
        assert_eq!(
            converted(r#"{"config":{"Env":[]},"rootfs":{"diff_ids":[]},"history":[]}"#),
            r#"{"architecture":"","os":"","config":{},"rootfs":{"type":"","diff_ids":[]}}"#
        );
    }

    #[test]
    fn a_config_with_fields_of_the_wrong_kind_is_corrupt() {
        for bad in [
            r#"{"config":{"Cmd":"/bin/sh"}}"#,
            r#"{"config":{"Volumes":{"/a":1}}}"#,
            r#"{"created":"yesterday"}"#,
            r#"{"history":{}}"#,
            r#"{"history":[1]}"#,
            r#"{"architecture":["amd64"]}"#,
            "[]",
            "",
            "{} {}",
        ] {
            let error = ImageConfig::parse(bad.as_bytes(), Flavour::Oci).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageConfig::parse(&bytes, Flavour::Docker);
        }
    }
}
