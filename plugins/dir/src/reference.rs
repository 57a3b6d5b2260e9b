//! References `dir:PATH`: all of the text is a path, colons included.

use diolkos_formats::paths::ImagePath;
use diolkos_sdk::{Destination, Error, ImageRef, Names, Result, Session, Source};

use crate::destination::DirDestination;
use crate::options::DirOptions;
use crate::source::DirSource;

/// A directory with an image, or for one.
#[derive(Clone, Debug)]
pub struct DirRef {
    details: String,
    path: ImagePath,
}

impl DirRef {
    /// Parses the text after `dir:`.
    ///
    /// # Errors
    /// [`InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) when the path cannot be resolved: all
    /// but its last component must exist.
    pub fn parse(details: &str) -> Result<Self> {
        Ok(Self { details: details.to_owned(), path: ImagePath::parse(details)? })
    }
}

impl ImageRef for DirRef {
    fn names(&self) -> Names {
        Names {
            details: self.details.clone(),
            docker_reference: None,
            policy_identity: self.path.resolved().to_owned(),
            policy_namespaces: self.path.parents(),
            location: None,
        }
    }

    fn open(&self, _: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(DirSource::open(self.path.clone())?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        let options = DirOptions::parse(&session.options)?;
        Ok(Box::new(DirDestination::create(self.path.clone(), options, session.host.clone())?))
    }

    fn delete(&self, _: &Session) -> Result<()> {
        Err(Error::unsupported("Deleting images not implemented for dir: images")
            .with_hint(format!("remove the directory `{}` itself", self.details)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diolkos_sdk::Transport as _;
    use proptest::prelude::*;

    #[test]
    fn a_reference_is_a_path_and_its_policy_names_are_resolved() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        let details = format!("{}/link/a:b", root.display());
        let names = DirRef::parse(&details).unwrap().names();
        assert_eq!(names.details, details);
        assert_eq!(names.docker_reference, None);
        assert_eq!(names.location, None);
        assert_eq!(names.policy_identity, format!("{}/a:b", root.display()));
        assert_eq!(names.policy_namespaces[0], root.to_str().unwrap());
        assert!(!names.policy_namespaces.contains(&"/".to_owned()));
    }

    #[test]
    fn scopes_are_refused_in_the_words_scripts_know() {
        let message = |scope| crate::Dir.check_policy_scope(scope).unwrap_err().to_string();
        assert!(crate::Dir.check_policy_scope("/a/b").is_ok());
        assert_eq!(message("a"), "Invalid scope a: Must be an absolute path");
        assert_eq!(message("/"), r#"Invalid scope "/": Use the generic default scope """#);
        assert_eq!(
            message("/a//b"),
            "Invalid scope /a//b: Uses non-canonical format, perhaps try /a/b"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_its_details_parse_again(text in "(\\PC|[./:]){0,60}") {
            if let Ok(reference) = DirRef::parse(&text) {
                let names = reference.names();
                prop_assert_eq!(DirRef::parse(&names.details).unwrap().names(), names);
            }
        }
    }
}
