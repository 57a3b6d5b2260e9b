//! References `oci:PATH[:NAME]` and `oci:PATH:@INDEX`.

use diolkos_formats::layout::Layout;
use diolkos_formats::layout::reference::{LayoutRef, tags};
use diolkos_sdk::{Destination, ImageRef, Names, Result, Session, Source, Tags};

use crate::delete;
use crate::destination::OciDestination;
use crate::options::OciOptions;
use crate::source::OciSource;

/// An image in a layout, or the only one.
#[derive(Clone, Debug)]
pub struct OciRef(LayoutRef);

impl OciRef {
    /// Parses the text after `oci:`.
    ///
    /// # Errors
    /// As [`LayoutRef::parse`].
    pub fn parse(details: &str) -> Result<Self> {
        LayoutRef::parse(details).map(Self)
    }

    fn layout(&self, options: &OciOptions) -> Layout {
        Layout::new(self.0.path(), options.shared_blobs.as_deref())
    }
}

impl ImageRef for OciRef {
    fn names(&self) -> Names {
        self.0.names()
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        let options = OciOptions::parse(&session.options)?;
        Ok(Box::new(OciSource::open(self.layout(&options), self.0.choice())?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        let name = self.0.new_name()?.to_owned();
        let options = OciOptions::parse(&session.options)?;
        let layout = self.layout(&options);
        Ok(Box::new(OciDestination::create(layout, name, &options, session.host.clone())?))
    }

    fn delete(&self, session: &Session) -> Result<()> {
        let options = OciOptions::parse(&session.options)?;
        delete::delete(&self.layout(&options), self.0.choice(), &session.host)
    }

    /// Lists the names in the layout, whatever this reference's own name.
    fn tags(&self, session: &Session) -> Result<Tags> {
        let options = OciOptions::parse(&session.options)?;
        let tags = tags(&self.layout(&options).index()?)?;
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
