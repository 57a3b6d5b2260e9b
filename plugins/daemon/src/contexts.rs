//! Docker's contexts: daemons that have names.
//!
//! # Source
//! Docker's documentation, "Docker contexts" and "Docker CLI configuration file"; a context is in
//! `contexts/meta/` and `contexts/tls/` of Docker's directory, each in a folder called by the
//! SHA-256 of its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diolkos_formats::bytes::sha256;
use diolkos_formats::files;
use diolkos_sdk::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::endpoint::{Needs, Tls};

/// The context that always exists, and means what the environment says.
const DEFAULT: &str = "default";
/// The largest file that is read here, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a context says its daemon is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub host: String,
    /// `None`: without TLS.
    pub tls: Option<Tls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Docker>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    #[serde(default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    current_context: Option<String>,
}

/// Returns the context that `config.json` in Docker's directory says is in use; `None` for the
/// default one.
///
/// # Errors
/// The file cannot be read, or is no JSON. Docker's own client goes on then.
pub(crate) fn current(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("config.json");
    let Some(bytes) = files::read_if_any(&path, MAX_FILE)? else { return Ok(None) };
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let config: Config = parse(&path, &bytes)?;
    Ok(config.current_context.filter(|name| !is_default(name)))
}

/// Tells whether a name means no context of its own.
pub(crate) fn is_default(name: &str) -> bool {
    name.is_empty() || name == DEFAULT
}

/// Reads a context of Docker's directory.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when there is none of that name, or it names no daemon.
pub(crate) fn read(dir: &Path, name: &str) -> Result<Context> {
    let id = sha256(name.as_bytes());
    let path = dir.join("contexts/meta").join(id.hex()).join("meta.json");
    let bytes = files::read_if_any(&path, MAX_FILE)?.ok_or_else(|| {
        let message = format!("the Docker context {name:?} does not exist");
        Error::new(ErrorKind::InvalidInput, message).with_hint(format!(
            "`docker context ls` shows which there are; it was looked for in `{}`",
            dir.display()
        ))
    })?;
    let meta: Meta = parse(&path, &bytes)?;
    let docker =
        meta.endpoints.docker.filter(|docker| !docker.host.is_empty()).ok_or_else(|| {
            let message = format!("the Docker context {name:?} names no daemon");
            Error::new(ErrorKind::InvalidInput, message)
        })?;
    let files = dir.join("contexts/tls").join(id.hex()).join("docker");
    let has_files = is_there(&files)?;
    let tls = (has_files || docker.skip_tls_verify).then(|| Tls {
        verify: !docker.skip_tls_verify,
        dir: has_files.then_some(files),
        needs: Needs::Nothing,
        exclusive: true,
    });
    Ok(Context { host: docker.host, tls })
}

fn is_there(dir: &PathBuf) -> Result<bool> {
    match fs::metadata(dir) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(files::failed("stat", dir, error)),
    }
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("parsing `{}`", path.display());
        Error::new(ErrorKind::InvalidInput, message).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(dir: &Path, name: &str, meta: &str) -> String {
        let id = sha256(name.as_bytes()).hex().to_owned();
        let folder = dir.join("contexts/meta").join(&id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("meta.json"), meta).unwrap();
        id
    }

    #[test]
    fn a_context_says_where_its_daemon_is_and_how_it_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let meta = r#"{"Name":"n","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://h:1","SkipTLSVerify":false}}}"#;
        let id = write(dir, "remote", meta);
        let context = read(dir, "remote").unwrap();
        assert_eq!(context, Context { host: "tcp://h:1".into(), tls: None });
        let files = dir.join("contexts/tls").join(id).join("docker");
        fs::create_dir_all(&files).unwrap();
        let tls = read(dir, "remote").unwrap().tls.unwrap();
        assert_eq!((tls.verify, tls.dir), (true, Some(files)));
        write(dir, "lax", r#"{"Endpoints":{"docker":{"Host":"tcp://h:1","SkipTLSVerify":true}}}"#);
        let tls = read(dir, "lax").unwrap().tls.unwrap();
        assert_eq!((tls.verify, tls.dir), (false, None));
        let error = read(dir, "other").unwrap_err();
        assert!(error.message().contains("\"other\" does not exist"), "{error}");
        write(dir, "empty", "{}");
        assert!(read(dir, "empty").unwrap_err().message().contains("names no daemon"));
    }

    #[test]
    fn the_default_context_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(current(dir).unwrap(), None);
        for (text, expected) in [
            ("", None),
            (r#"{"auths":{}}"#, None),
            (r#"{"currentContext":"default"}"#, None),
            (r#"{"currentContext":"remote"}"#, Some("remote")),
        ] {
            fs::write(dir.join("config.json"), text).unwrap();
            assert_eq!(current(dir).unwrap().as_deref(), expected, "{text}");
        }
        fs::write(dir.join("config.json"), "{").unwrap();
        assert_eq!(current(dir).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    proptest! {
        #[test]
        fn files_of_any_form_are_refused_or_read_without_panic(
            text in r#"(\{|\}|"Endpoints"|"docker"|"Host"|"SkipTLSVerify"|:|,|"a"|true|1){0,20}"#
        ) {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "any", &text);
            let _ = read(dir.path(), "any");
        }
    }
}
