//! References to images in layouts: `PATH[:NAME]` and `PATH:@INDEX`, split at the first colon.
//!
//! # Source
//! containers-transports(5), `oci:path[:reference]` and `oci-archive:path[:reference]`.

use std::path::Path;

use diolkos_sdk::{Error, ErrorKind, Names, Result};

use super::{Choice, Index, name};
use crate::paths::{ImagePath, ScopeProblem, check_scope};

/// An image in a layout, or the only one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutRef {
    given: String,
    path: ImagePath,
    name: String,
    position: Option<usize>,
}

impl LayoutRef {
    /// Parses the text behind the transport's name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the name or position is malformed, or all but the last
    /// component of the path do not exist.
    pub fn parse(details: &str) -> Result<Self> {
        let (given, image) = name::split(details);
        let position = name::position(image)?;
        let path = ImagePath::parse(given)?;
        let name = if position.is_some() { "" } else { image };
        name::check(name)?;
        Ok(Self { given: given.to_owned(), path, name: name.to_owned(), position })
    }

    /// Returns the path of the layout, or of the archive that holds it.
    pub fn path(&self) -> &Path {
        self.path.path()
    }

    /// Returns which image is meant.
    pub fn choice(&self) -> Choice<'_> {
        match self.position {
            Some(position) => Choice::Position(position),
            None if self.name.is_empty() => Choice::Only,
            None => Choice::Name(&self.name),
        }
    }

    /// Returns the name that a new image gets, perhaps an empty one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a position, which only an image has that is there.
    pub fn new_name(&self) -> Result<&str> {
        match self.position {
            Some(position) => Err(invalid(format!(
                "Destination reference must not contain a manifest index @{position}"
            ))),
            None => Ok(&self.name),
        }
    }

    /// Returns the reference's names.
    pub fn names(&self) -> Names {
        let details = match self.position {
            Some(position) => format!("{}:@{position}", self.given),
            None => format!("{}:{}", self.given, self.name),
        };
        // The name is no part of the identity: with and without it may mean the same image.
        let mut policy_namespaces = self.path.parents();
        if self.path.resolved() != "/" {
            policy_namespaces.insert(0, self.path.resolved().to_owned());
        }
        Names {
            details,
            docker_reference: None,
            policy_identity: self.path.resolved().to_owned(),
            policy_namespaces,
            location: None,
        }
    }
}

/// Returns the names of all images, each once, in the order of the index.
pub fn tags(index: &Index) -> Result<Vec<String>> {
    let mut tags: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for entry in index.entries() {
        tags.extend(entry?.name.filter(|name| seen.insert(name.clone())));
    }
    Ok(tags)
}

/// Checks a scope of policy.json: an absolute path in its shortest form.
pub fn check_policy_scope(scope: &str) -> Result<()> {
    check_scope(scope).map_err(|problem| {
        invalid(match problem {
            ScopeProblem::NotAbsolute => format!("Invalid scope {scope}: must be an absolute path"),
            ScopeProblem::Root => {
                r#"Invalid scope "/": Use the generic default scope """#.to_owned()
            }
            ScopeProblem::NotCanonical(clean) => format!(
                "Invalid scope {scope}: Uses non-canonical path format, perhaps try with path {clean}"
            ),
        })
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
