//! Image paths: as the user wrote them, for files and messages, and fully resolved, for policy.
//!
//! A policy names absolute paths without symbolic links, so that one place has one name. The path
//! must exist, except for its last component: the directory that is about to be made.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Result};

use crate::files::os_text;

/// A path from an image reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePath {
    path: PathBuf,
    resolved: String,
}

impl ImagePath {
    /// Resolves a path. An empty one is the current directory.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when its parent does not exist or it cannot be resolved.
    pub fn parse(text: &str) -> Result<Self> {
        let given = Path::new(text);
        let resolved = match fs::symlink_metadata(dot_if_empty(given)) {
            Ok(_) => match canonical(given) {
                // A pipe behind /dev/stdin is nowhere else.
                Err(_) if is_stream(given) => {
                    std::path::absolute(given).map_err(|error| unresolved(given, &error))?
                }
                resolved => resolved?,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let trimmed = text.trim_end_matches('/');
                let (parent, name) = match trimmed.rsplit_once('/') {
                    Some((parent, name)) => (format!("{parent}/"), name),
                    None => (String::new(), trimmed),
                };
                let parent = canonical(Path::new(&parent))?;
                if matches!(name, "." | "..") {
                    let message =
                        format!("Unexpectedly missing special filename component in {text}");
                    return Err(Error::new(ErrorKind::InvalidInput, message));
                }
                parent.join(name)
            }
            Err(error) => return Err(unresolved(given, &error)),
        };
        // `.` components and doubled slashes mean nothing; `..` behind a link does, and stays.
        let path = given.components().filter(|part| *part != Component::CurDir).collect();
        let resolved = resolved.into_os_string().into_string().map_err(|raw| {
            let message = format!("`{text}` resolves to `{}`, which is no text", raw.display());
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        Ok(Self { path, resolved })
    }

    /// Returns the path of a file in this directory, as the user would name it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the path itself.
    pub fn path(&self) -> &Path {
        dot_if_empty(&self.path)
    }

    /// Returns the absolute path without symbolic links, as policies name it.
    pub fn resolved(&self) -> &str {
        &self.resolved
    }

    /// Returns the directories above the resolved path, nearest first, without `/`.
    pub fn parents(&self) -> Vec<String> {
        let mut parents = Vec::new();
        let mut path = self.resolved.as_str();
        while let Some(end) = path.rfind('/').filter(|end| *end > 0) {
            path = &path[..end];
            parents.push(path.to_owned());
        }
        parents
    }
}

fn dot_if_empty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Tells whether a path is there and neither a file nor a directory.
fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn canonical(path: &Path) -> Result<PathBuf> {
    let path = dot_if_empty(path);
    fs::canonicalize(path).map_err(|error| unresolved(&first_missing(path), &error))
}

fn first_missing(path: &Path) -> PathBuf {
    let Ok(path) = std::path::absolute(path) else { return path.to_owned() };
    let mut above: Vec<_> = path.ancestors().collect();
    above.reverse();
    let missing = above.into_iter().find(|part| fs::symlink_metadata(part).is_err());
    missing.map_or_else(|| path.clone(), Path::to_owned)
}

fn unresolved(path: &Path, error: &io::Error) -> Error {
    let made = Error::new(ErrorKind::InvalidInput, format!("lstat {}", path.display()))
        .with_source(os_text(error));
    match error.kind() {
        io::ErrorKind::NotFound => made.with_hint(format!("create `{}` first", path.display())),
        _ => made,
    }
}

/// Why a path is no scope for policy.json. Each transport has its own words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeProblem {
    /// It does not begin with a slash.
    NotAbsolute,
    /// It is `/`, which would mean the same as the empty default scope.
    Root,
    /// It has empty, `.` or `..` components; this is the same path without.
    NotCanonical(String),
}

/// Checks that a scope of policy.json is a path that an image can have.
pub fn check_scope(scope: &str) -> Result<(), ScopeProblem> {
    if !scope.starts_with('/') {
        return Err(ScopeProblem::NotAbsolute);
    }
    if scope == "/" {
        return Err(ScopeProblem::Root);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in scope.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let clean = format!("/{}", parts.join("/"));
    if clean == scope { Ok(()) } else { Err(ScopeProblem::NotCanonical(clean)) }
}

/// Checks a scope of policy.json for a transport whose images are paths and nothing else.
///
/// # Errors
/// [`ErrorKind::InvalidInput`], in the words of `dir:` and `sif:`.
pub fn check_policy_scope(scope: &str) -> Result<()> {
    check_scope(scope).map_err(|problem| {
        let message = match problem {
            ScopeProblem::NotAbsolute => {
                format!("Invalid scope {scope}: Must be an absolute path")
            }
            ScopeProblem::Root => {
                r#"Invalid scope "/": Use the generic default scope """#.to_owned()
            }
            ScopeProblem::NotCanonical(clean) => {
                format!("Invalid scope {scope}: Uses non-canonical format, perhaps try {clean}")
            }
        };
        Error::new(ErrorKind::InvalidInput, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_are_resolved_for_policy_and_kept_for_files() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let given = format!("{}/link/.//new", root.display());
        let path = ImagePath::parse(&given).unwrap();
        assert_eq!(path.resolved(), format!("{}/real/new", root.display()));
        assert_eq!(path.join("f"), root.join("link/new/f"));
        let parents = path.parents();
        assert_eq!(parents[0], format!("{}/real", root.display()));
        assert_eq!(parents.last().unwrap().matches('/').count(), 1);
    }

    #[test]
    fn the_empty_path_is_the_current_directory() {
        let path = ImagePath::parse("").unwrap();
        assert_eq!(Path::new(path.resolved()), std::env::current_dir().unwrap());
        assert_eq!(path.join("f"), Path::new("f"));
        assert_eq!(path.path(), Path::new("."));
    }

    #[test]
    fn a_missing_parent_is_refused_by_its_name() {
        let error = ImagePath::parse("/diolkos-has-no-such/deeper/image").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            error.chain().join(": "),
            "lstat /diolkos-has-no-such: no such file or directory"
        );
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("gone", temp.path().join("dangling")).unwrap();
        let dangling = temp.path().join("dangling");
        assert!(ImagePath::parse(dangling.to_str().unwrap()).is_err());
    }

    #[test]
    fn scopes_are_absolute_canonical_and_not_the_root() {
        assert_eq!(check_scope("/a/b"), Ok(()));
        assert_eq!(check_scope("a"), Err(ScopeProblem::NotAbsolute));
        assert_eq!(check_scope("/"), Err(ScopeProblem::Root));
        for (scope, clean) in [("/a/", "/a"), ("/a/../b", "/b"), ("//a/./b", "/a/b"), ("/..", "/")]
        {
            assert_eq!(check_scope(scope), Err(ScopeProblem::NotCanonical(clean.into())));
        }
    }

    proptest! {
        #[test]
        fn parsing_a_path_never_panics(text in "(\\PC|[./\\x00]){0,60}") {
            if let Ok(path) = ImagePath::parse(&text) {
                prop_assert!(path.resolved().starts_with('/'));
            }
            let _ = check_scope(&text);
        }
    }
}
