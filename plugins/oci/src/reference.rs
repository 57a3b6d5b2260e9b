//! References `oci:PATH[:NAME]` and `oci:PATH:@INDEX`, split at the first colon.

use diolkos_formats::layout::{Choice, Layout, name};
use diolkos_formats::paths::ImagePath;
use diolkos_sdk::{Destination, Error, ErrorKind, ImageRef, Names, Result, Session, Source, Tags};

use crate::delete;
use crate::destination::OciDestination;
use crate::options::OciOptions;
use crate::source::OciSource;

/// An image in a layout, or the only one.
#[derive(Clone, Debug)]
pub struct OciRef {
    given: String,
    path: ImagePath,
    name: String,
    position: Option<usize>,
}

impl OciRef {
    /// Parses the text after `oci:`.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the name or position is malformed, or all but
    /// the last component of the path do not exist.
    pub fn parse(details: &str) -> Result<Self> {
        let (given, image) = name::split(details);
        let position = name::position(image)?;
        let path = ImagePath::parse(given)?;
        let name = if position.is_some() { "" } else { image };
        name::check(name)?;
        Ok(Self { given: given.to_owned(), path, name: name.to_owned(), position })
    }

    fn layout(&self, options: &OciOptions) -> Layout {
        Layout::new(self.path.path(), options.shared_blobs.as_deref())
    }

    fn choice(&self) -> Choice<'_> {
        match self.position {
            Some(position) => Choice::Position(position),
            None if self.name.is_empty() => Choice::Only,
            None => Choice::Name(&self.name),
        }
    }
}

impl ImageRef for OciRef {
    fn names(&self) -> Names {
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

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        let options = OciOptions::parse(&session.options)?;
        Ok(Box::new(OciSource::open(self.layout(&options), self.choice())?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        if let Some(position) = self.position {
            let message =
                format!("Destination reference must not contain a manifest index @{position}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let options = OciOptions::parse(&session.options)?;
        let layout = self.layout(&options);
        let host = session.host.clone();
        Ok(Box::new(OciDestination::create(layout, self.name.clone(), &options, host)?))
    }

    fn delete(&self, session: &Session) -> Result<()> {
        let options = OciOptions::parse(&session.options)?;
        delete::delete(&self.layout(&options), self.choice(), &session.host)
    }

    /// Lists the names in the layout, whatever this reference's own name.
    fn tags(&self, session: &Session) -> Result<Tags> {
        let options = OciOptions::parse(&session.options)?;
        let mut tags: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for entry in self.layout(&options).index()?.entries() {
            tags.extend(entry?.name.filter(|name| seen.insert(name.clone())));
        }
        Ok(Tags { repository: String::new(), tags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diolkos_sdk::Transport as _;
    use proptest::prelude::*;

    fn details(text: &str) -> String {
        OciRef::parse(text).unwrap().names().details
    }

    #[test]
    fn the_normal_form_always_has_a_colon() {
        assert_eq!(details("/tmp"), "/tmp:");
        assert_eq!(details("/tmp:"), "/tmp:");
        assert_eq!(details("/tmp/./x:v1"), "/tmp/./x:v1");
        assert_eq!(details("/tmp:localhost:5000/x:1"), "/tmp:localhost:5000/x:1");
        assert_eq!(details("/tmp:@03"), "/tmp:@3");
        assert_eq!(details(":x"), ":x");
    }

    #[test]
    fn wrong_references_are_refused_in_the_words_scripts_know() {
        let chain = |text| OciRef::parse(text).unwrap_err().chain().join(": ");
        assert_eq!(chain("/tmp:a..b"), "Invalid image a..b");
        assert_eq!(chain("/tmp:@-1"), "Invalid source index @-1: must not be negative");
        assert!(chain("/tmp:@x").starts_with("Invalid source index @x: not an integer: "));
        assert_eq!(
            chain("/diolkos-has-no-such/a/b:x"),
            "lstat /diolkos-has-no-such: no such file or directory"
        );
    }

    #[test]
    fn policy_names_are_the_directory_and_those_above_it() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        let names = OciRef::parse(&format!("{}/link/x:v1", root.display())).unwrap().names();
        let resolved = format!("{}/x", root.display());
        assert_eq!(names.policy_identity, resolved);
        assert_eq!(names.policy_namespaces[..2], [resolved, root.display().to_string()]);
        assert!(!names.policy_namespaces.contains(&"/".to_owned()));
        assert_eq!((names.location, names.docker_reference), (None, None));
    }

    #[test]
    fn scopes_are_refused_in_the_words_scripts_know() {
        let message = |scope| crate::Oci.check_policy_scope(scope).unwrap_err().to_string();
        assert!(crate::Oci.check_policy_scope("/a/b").is_ok());
        assert_eq!(message("a"), "Invalid scope a: must be an absolute path");
        assert_eq!(message("/"), r#"Invalid scope "/": Use the generic default scope """#);
        assert_eq!(
            message("/a/"),
            "Invalid scope /a/: Uses non-canonical path format, perhaps try with path /a"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_its_details_parse_again(text in "(\\PC|[./:@a-z0-9-]){0,60}") {
            if let Ok(reference) = OciRef::parse(&text) {
                let names = reference.names();
                prop_assert_eq!(OciRef::parse(&names.details).unwrap().names(), names);
            }
        }
    }
}
