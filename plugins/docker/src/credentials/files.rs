//! Which files credentials are looked for in, and which one is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Host, Result};

use super::auth_file::Format;
use super::quote;
use crate::config::places::Places;

/// The files that count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AuthFiles {
    /// Those of the user, Docker's included; the first of them is written.
    Usual,
    /// One alone, in the format of auth.json.
    Only(PathBuf),
    /// One alone that Docker reads too, and so has no namespaces and Docker's own names.
    Docker(PathBuf),
}

impl AuthFiles {
    /// Returns the files for working with images: the one that `--authfile` or
    /// `$REGISTRY_AUTH_FILE` names, or the usual ones.
    pub fn for_images(auth_file: Option<&str>, places: &Places) -> Self {
        let named = given(auth_file).or_else(|| places.auth_file.clone());
        named.map_or(Self::Usual, Self::Only)
    }

    /// Returns the files for logging in and out.
    ///
    /// With `$DOCKER_CONFIG` set, that is Docker's own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when two files are named.
    pub fn for_logins(
        auth_file: Option<&str>,
        compat_auth_file: Option<&str>,
        places: &Places,
        host: &Host,
    ) -> Result<Self> {
        let dockers = places.in_home(".docker/config.json");
        match (given(auth_file), given(compat_auth_file)) {
            (Some(_), Some(_)) => Err(Error::new(
                ErrorKind::InvalidInput,
                "options for paths to the credential file and to the Docker-compatible credential \
                 file can not be set simultaneously",
            )),
            (Some(path), None) => {
                if Some(&path) == dockers.as_ref() {
                    host.warn(
                        "saving credentials to ~/.docker/config.json, but not using \
                         Docker-compatible file format",
                    );
                }
                Ok(Self::Only(path))
            }
            (None, Some(path)) => Ok(Self::Docker(path)),
            (None, None) => Ok(match (&places.auth_file, &places.docker_config) {
                (Some(path), _) => {
                    if Some(path) == dockers.as_ref() {
                        host.warn(
                            "$REGISTRY_AUTH_FILE points to ~/.docker/config.json, but the file \
                             format is not fully compatible; use the Docker-compatible file path \
                             option instead",
                        );
                    }
                    Self::Only(path.clone())
                }
                (None, Some(dir)) => Self::Docker(dir.join("config.json")),
                (None, None) => Self::Usual,
            }),
        }
    }

    /// Returns the files that are read, first the one that counts most.
    ///
    /// A runtime directory that is not there is a warning: many images need no credentials.
    pub fn to_read(&self, places: &Places, host: &Host) -> Vec<(PathBuf, Format)> {
        if let Self::Only(path) | Self::Docker(path) = self {
            return vec![(path.clone(), Format::Sections)];
        }
        let mut files = Vec::new();
        match self.to_write(places) {
            Ok(path) => files.push((path, Format::Sections)),
            Err(error) => {
                let why = error.chain().join(": ");
                host.warn(format!(
                    "{why}: Trying to pull image in the event that it is a public image."
                ));
            }
        }
        let usual = [
            places.user_containers().map(|dir| (dir.join("auth.json"), Format::Sections)),
            dockers_config(places).map(|path| (path, Format::Sections)),
            places.in_home(".dockercfg").map(|path| (path, Format::Legacy)),
        ];
        files.extend(usual.into_iter().flatten());
        files
    }

    /// Returns the file that logins are kept in.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when `$XDG_RUNTIME_DIR` names a directory that is not there.
    pub fn to_write(&self, places: &Places) -> Result<PathBuf> {
        if let Self::Only(path) | Self::Docker(path) = self {
            return Ok(path.clone());
        }
        let Some(dir) = &places.runtime_dir else {
            return Ok(places.run.join(format!("containers/{}/auth.json", places.uid)));
        };
        match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "{} directory set by $XDG_RUNTIME_DIR does not exist. Either create the \
                     directory or unset $XDG_RUNTIME_DIR.",
                    quote(dir)
                ),
            )
            .with_source(Error::new(
                ErrorKind::InvalidInput,
                format!("faccessat {}: no such file or directory", dir.display()),
            ))),
            _ => Ok(dir.join("containers/auth.json")),
        }
    }
}

/// Refuses a file that was named and is not there: nobody is logged in by it.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub(crate) fn check_exists(named: Option<&str>) -> Result<()> {
    match given(named) {
        Some(path) => fs::metadata(&path).map(drop).map_err(|error| {
            let kind = Error::io("", error).kind();
            Error::new(kind, "credential file is not accessible").with_source(Error::new(
                kind,
                format!("faccessat {}: no such file or directory", path.display()),
            ))
        }),
        None => Ok(()),
    }
}

fn given(path: Option<&str>) -> Option<PathBuf> {
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn dockers_config(places: &Places) -> Option<PathBuf> {
    match &places.docker_config {
        Some(dir) => Some(dir.join("config.json")),
        None => places.in_home(Path::new(".docker/config.json")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use diolkos_sdk::{HostServices, LogLevel};

    use super::*;

    #[derive(Clone, Default)]
    struct Warnings(Arc<Mutex<Vec<String>>>);

    impl HostServices for Warnings {
        fn is_cancelled(&self) -> bool {
            false
        }
        fn log(&self, level: LogLevel, message: &str) {
            assert_eq!(level, LogLevel::Warning);
            self.0.lock().unwrap().push(message.to_owned());
        }
    }

    fn paths(files: &AuthFiles, places: &Places) -> Vec<String> {
        let host = Host::silent();
        let files = files.to_read(places, &host).into_iter();
        files.map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn the_usual_files_are_searched_in_the_order_of_the_manual() {
        let mut places = Places::below(Path::new("/w"));
        assert_eq!(
            paths(&AuthFiles::Usual, &places),
            [
                "/w/run/containers/1000/auth.json",
                "/w/home/.config/containers/auth.json",
                "/w/home/.docker/config.json",
                "/w/home/.dockercfg"
            ]
        );
        places.runtime_dir = Some("/".into());
        places.config_home = Some("/c".into());
        places.docker_config = Some("/d".into());
        assert_eq!(
            paths(&AuthFiles::Usual, &places),
            [
                "/containers/auth.json",
                "/c/containers/auth.json",
                "/d/config.json",
                "/w/home/.dockercfg"
            ]
        );
        places.home = None;
        assert_eq!(paths(&AuthFiles::Usual, &places).len(), 3);
    }

    #[test]
    fn a_file_that_is_named_counts_alone_and_the_option_before_the_variable() {
        let mut places = Places::below(Path::new("/w"));
        assert_eq!(AuthFiles::for_images(None, &places), AuthFiles::Usual);
        places.auth_file = Some("/env".into());
        assert_eq!(AuthFiles::for_images(Some(""), &places), AuthFiles::Only("/env".into()));
        let named = AuthFiles::for_images(Some("/flag"), &places);
        assert_eq!(paths(&named, &places), ["/flag"]);
    }

    #[test]
    fn a_login_goes_to_dockers_file_where_docker_config_is_set() {
        let host = Host::silent();
        let mut places = Places::below(Path::new("/w"));
        places.docker_config = Some("/d".into());
        let of = |auth, compat, places: &Places| AuthFiles::for_logins(auth, compat, places, &host);
        assert_eq!(of(None, None, &places).unwrap(), AuthFiles::Docker("/d/config.json".into()));
        // Images are looked for in all files even then.
        assert_eq!(AuthFiles::for_images(None, &places), AuthFiles::Usual);
        assert_eq!(of(Some("/a"), None, &places).unwrap(), AuthFiles::Only("/a".into()));
        assert_eq!(of(None, Some("/c"), &places).unwrap(), AuthFiles::Docker("/c".into()));
        assert!(of(Some("/a"), Some("/c"), &places).unwrap_err().message().contains("can not be"));
        places.auth_file = Some("/env".into());
        assert_eq!(of(None, None, &places).unwrap(), AuthFiles::Only("/env".into()));
    }

    #[test]
    fn writing_the_format_of_auth_json_to_dockers_file_is_warned_of() {
        let mut places = Places::below(Path::new("/w"));
        let warnings = Warnings::default();
        let host = Host::new(warnings.clone());
        let dockers = "/w/home/.docker/config.json";
        AuthFiles::for_logins(Some(dockers), None, &places, &host).unwrap();
        places.auth_file = Some(dockers.into());
        AuthFiles::for_logins(None, None, &places, &host).unwrap();
        let warnings = warnings.0.lock().unwrap();
        assert!(warnings[0].starts_with("saving credentials to ~/.docker/config.json"));
        assert!(warnings[1].starts_with("$REGISTRY_AUTH_FILE points to ~/.docker/config.json"));
    }

    #[test]
    fn a_missing_runtime_directory_is_a_warning_for_readers_and_an_error_for_writers() {
        let mut places = Places::below(Path::new("/w"));
        places.runtime_dir = Some("/diolkos-has-no-such".into());
        let warnings = Warnings::default();
        let host = Host::new(warnings.clone());
        assert_eq!(AuthFiles::Usual.to_read(&places, &host).len(), 3);
        let warnings = warnings.0.lock().unwrap();
        assert!(warnings[0].ends_with("in the event that it is a public image."), "{warnings:?}");
        let error = AuthFiles::Usual.to_write(&places).unwrap_err();
        assert!(error.message().contains("set by $XDG_RUNTIME_DIR does not exist"), "{error}");
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error() {
        check_exists(None).unwrap();
        check_exists(Some("")).unwrap();
        check_exists(Some("/")).unwrap();
        let error = check_exists(Some("/diolkos-has-no-such")).unwrap_err();
        assert_eq!(
            error.chain().join(": "),
            "credential file is not accessible: faccessat /diolkos-has-no-such: no such file or \
             directory"
        );
    }
}
