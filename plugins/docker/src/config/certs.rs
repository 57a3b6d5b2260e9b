//! containers-certs.d(5): which directory has the certificates of a registry.
//!
//! Only the search; what is in the directory is for [`crate::tls`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, Result};

use super::places::Places;
use super::text::is_missing;

/// Where certificates of a registry are, and what was passed over on the way there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertDir {
    /// `None` if the registry has none of its own.
    pub path: Option<PathBuf>,
    /// For the log.
    pub notes: Vec<String>,
}

impl CertDir {
    /// Looks for the directory of a registry, `host[:port]` as the user names it: the port is part
    /// of the directory's name just where it is part of the image's.
    ///
    /// `explicit` is taken as it is. Else the first directory that exists is the only one, first
    /// the user's. A directory that we may not look into is passed over: it is for somebody else.
    ///
    /// # Errors
    /// As the operating system says, but for what is missing or forbidden.
    pub fn find(places: &Places, explicit: Option<&Path>, registry: &str) -> Result<Self> {
        if let Some(path) = explicit {
            return Ok(Self { path: Some(path.to_owned()), notes: Vec::new() });
        }
        let mut notes = Vec::new();
        // Always below ~/.config: other programs do not ask $XDG_CONFIG_HOME for these.
        let user = places.in_home(".config/containers");
        let parents = [user, Some(places.system_containers()), Some(places.etc.join("docker"))];
        for parent in parents.into_iter().flatten() {
            let path = parent.join("certs.d").join(registry);
            match fs::metadata(&path) {
                Ok(_) => return Ok(Self { path: Some(path), notes }),
                Err(error) if is_missing(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    notes.push(format!("may not look for certificates in `{}`", path.display()));
                }
                Err(error) => {
                    let message = format!("looking for certificates in `{}`", path.display());
                    return Err(Error::io(message, error));
                }
            }
        }
        Ok(Self { path: None, notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        (dir, places)
    }

    #[test]
    fn the_first_directory_that_exists_is_the_only_one() {
        let (dir, places) = world();
        let find = || CertDir::find(&places, None, "a.b:5000").unwrap().path;
        assert_eq!(find(), None);
        let in_order = ["etc/docker", "etc/containers", "home/.config/containers"];
        for parent in in_order {
            let path = dir.path().join(parent).join("certs.d/a.b:5000");
            fs::create_dir_all(&path).unwrap();
            assert_eq!(find(), Some(path));
        }
    }

    #[test]
    fn the_port_must_be_that_of_the_name() {
        let (dir, places) = world();
        fs::create_dir_all(dir.path().join("etc/containers/certs.d/a.b:443")).unwrap();
        assert_eq!(CertDir::find(&places, None, "a.b").unwrap().path, None);
        assert!(CertDir::find(&places, None, "a.b:443").unwrap().path.is_some());
    }

    #[test]
    fn a_directory_that_was_named_is_taken_as_it_is() {
        let (dir, places) = world();
        fs::create_dir_all(dir.path().join("etc/containers/certs.d/a.b")).unwrap();
        let named = Path::new("/nowhere/certs");
        let found = CertDir::find(&places, Some(named), "a.b").unwrap();
        assert_eq!(found.path.as_deref(), Some(named));
    }

    #[test]
    fn where_we_may_not_look_is_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        if rustix::process::geteuid().is_root() {
            return; // Root may look everywhere.
        }
        let (dir, places) = world();
        let closed = dir.path().join("home/.config/containers/certs.d");
        let open = dir.path().join("etc/docker/certs.d/a.b");
        fs::create_dir_all(&closed).unwrap();
        fs::create_dir_all(&open).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let found = CertDir::find(&places, None, "a.b").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(found.path, Some(open));
        assert_eq!(found.notes.len(), 1);
    }

    #[test]
    fn a_failure_of_another_kind_is_not_hidden() {
        let (dir, places) = world();
        let path = dir.path().join("etc/containers/certs.d");
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::symlink("a.b", path.join("a.b")).unwrap();
        let error = CertDir::find(&places, None, "a.b").unwrap_err();
        assert!(error.message().contains("certs.d/a.b"), "{error}");
    }
}
