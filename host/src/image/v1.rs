//! Docker's configs of old, as schema 1 keeps them: one in each entry of its history.
//!
//! Versions of Docker before 1.8.3 left fields out that later ones expect, so their configs are
//! written anew with all fields ([`V1Image`]) when they become one of schema 2.

use std::collections::BTreeMap;

use diolkos_sdk::{Error, ErrorKind, Result};
use serde::Serialize;

use super::config::{StringSet, is_false, is_none_or_empty, time, words};
use super::json::Object;
use super::time::GoTime;

/// What schema 1 keeps of a layer: as much as reading and linking needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Compatibility {
    pub(super) id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) parent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) comment: String,
    pub(super) created: GoTime,
    pub(super) container_config: Command,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) author: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) throwaway: bool,
}

/// The command that made a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Command {
    #[serde(rename = "Cmd")]
    pub(super) cmd: Option<Vec<String>>,
}

impl Compatibility {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let object = Object::parse_text(text)?;
        let command = object.object("container_config")?.unwrap_or_default();
        Ok(Self {
            id: object.string("id")?,
            parent: object.string("parent")?,
            comment: object.string("comment")?,
            created: time(&object, "created")?.unwrap_or_default(),
            container_config: Command { cmd: command.strings("Cmd")? },
            author: object.string("author")?,
            throwaway: object.boolean("throwaway")?,
        })
    }
}

/// A container's configuration with all fields of its time, in the order Docker wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerConfig {
    hostname: String,
    domainname: String,
    user: String,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    exposed_ports: Option<StringSet>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "is_false")]
    args_escaped: bool,
    image: String,
    volumes: Option<StringSet>,
    working_dir: String,
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_false")]
    network_disabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac_address: String,
    on_build: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    shell: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    #[serde(skip_serializing_if = "is_none_or_empty")]
    test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<i64>,
}

impl ContainerConfig {
    fn read(object: &Object<'_>) -> Result<Self> {
        Ok(Self {
            hostname: object.string("Hostname")?,
            domainname: object.string("Domainname")?,
            user: object.string("User")?,
            attach_stdin: object.boolean("AttachStdin")?,
            attach_stdout: object.boolean("AttachStdout")?,
            attach_stderr: object.boolean("AttachStderr")?,
            exposed_ports: StringSet::read(object, "ExposedPorts")?,
            tty: object.boolean("Tty")?,
            open_stdin: object.boolean("OpenStdin")?,
            stdin_once: object.boolean("StdinOnce")?,
            env: object.strings("Env")?,
            cmd: words(object, "Cmd")?,
            healthcheck: object
                .object("Healthcheck")?
                .map(|check| Healthcheck::read(&check))
                .transpose()?,
            args_escaped: object.boolean("ArgsEscaped")?,
            image: object.string("Image")?,
            volumes: StringSet::read(object, "Volumes")?,
            working_dir: object.string("WorkingDir")?,
            entrypoint: words(object, "Entrypoint")?,
            network_disabled: object.boolean("NetworkDisabled")?,
            mac_address: object.string("MacAddress")?,
            on_build: object.strings("OnBuild")?,
            labels: object.string_map("Labels")?,
            stop_signal: object.string("StopSignal")?,
            stop_timeout: object.integer("StopTimeout")?,
            shell: words(object, "Shell")?.filter(|words| !words.is_empty()),
        })
    }
}

impl Healthcheck {
    fn read(object: &Object<'_>) -> Result<Self> {
        let number =
            |key| object.integer(key).map(|value: Option<i64>| value.filter(|value| *value != 0));
        Ok(Self {
            test: object.strings("Test")?,
            start_period: number("StartPeriod")?,
            start_interval: number("StartInterval")?,
            interval: number("Interval")?,
            timeout: number("Timeout")?,
            retries: number("Retries")?,
        })
    }
}

/// A config of schema 1 with all fields, in the order Docker wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct V1Image {
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    pub(super) created: GoTime,
    #[serde(skip_serializing_if = "String::is_empty")]
    container: String,
    container_config: ContainerConfig,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) docker_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    author: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ContainerConfig>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) os: String,
    #[serde(rename = "Size", skip_serializing_if = "Option::is_none")]
    size: Option<i64>,
}

impl V1Image {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let object = Object::parse_text(text)?;
        let container_config = object.object("container_config")?.unwrap_or_default();
        Ok(Self {
            id: object.string("id")?,
            parent: object.string("parent")?,
            comment: object.string("comment")?,
            created: time(&object, "created")?.unwrap_or_default(),
            container: object.string("container")?,
            container_config: ContainerConfig::read(&container_config)?,
            docker_version: object.string("docker_version")?,
            author: object.string("author")?,
            config: object
                .object("config")?
                .map(|config| ContainerConfig::read(&config))
                .transpose()?,
            architecture: object.string("architecture")?,
            variant: object.string("variant")?,
            os: object.string("os")?,
            size: object.integer("Size")?.filter(|size| *size != 0),
        })
    }

    pub(super) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.config.as_ref()?.labels.as_ref()
    }

    pub(super) fn env(&self) -> Option<&Vec<String>> {
        self.config.as_ref()?.env.as_ref()
    }

    /// Tells whether the Docker that wrote this left out fields that schema 2 has.
    pub(super) fn is_from_before_1_8_3(&self) -> bool {
        !self.docker_version.is_empty() && version_numbers(&self.docker_version) < [1, 8, 3]
    }
}

/// Returns the first numbers of a version; what is no number is 0.
fn version_numbers(version: &str) -> [u64; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// Returns the error of a history entry that is no config.
pub(super) fn bad_entry(index: usize, error: Error) -> Error {
    Error::new(ErrorKind::Corrupt, format!("parsing v2s1 history entry {index}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;

    #[test]
    fn an_old_config_gets_all_the_fields_that_were_left_out() {
        let image = V1Image::parse(
            r#"{"id":"a","docker_version":"1.6.0","created":"2015-01-01T00:00:00Z",
                "config":{"Cmd":"sh","Shell":[],"Healthcheck":{"Retries":3}},"Size":5,"unknown":1}"#,
        )
        .unwrap();
        assert!(image.is_from_before_1_8_3());
        let written = String::from_utf8(json::to_vec(&image)).unwrap();
        let config = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":CMD,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null}"#;
        let with_health = config
            .replace("CMD", r#"["sh"]"#)
            .replace(r#"],"Image""#, r#"],"Healthcheck":{"Retries":3},"Image""#);
        assert_eq!(
            written,
            format!(
                r#"{{"id":"a","created":"2015-01-01T00:00:00Z","container_config":{},"docker_version":"1.6.0","config":{with_health},"Size":5}}"#,
                config.replace("CMD", "null"),
            )
        );
    }

    #[test]
    fn versions_compare_by_number() {
        let old = |version: &str| {
            V1Image::parse(&format!(r#"{{"docker_version":"{version}"}}"#))
                .unwrap()
                .is_from_before_1_8_3()
        };
        assert!(old("1.8.2") && old("1.6") && old("0.9.10") && old("swarm"));
        assert!(!old("") && !old("1.8.3") && !old("1.10.0") && !old("20.10.7"));
    }
}
