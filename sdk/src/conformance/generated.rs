//! What the tests made by [`conformance!`](macro@crate::conformance) call.

use std::path::Path;

use super::{Described, Subject, Verdict, run_case};
use crate::{Options, Result, Transport};

type References = Box<dyn Fn(&Path, u32) -> String + Send + Sync>;
type Images = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// What the macro's arguments say of the subject.
pub struct Recipe {
    label: String,
    described: Described,
    references: Option<References>,
    images: Option<Images>,
}

impl Recipe {
    /// Reads the plugin's manifest.
    ///
    /// # Panics
    /// The manifest cannot be read or has no such transport.
    pub fn new(manifest: &str, transport: &str, way: &str) -> Self {
        let text = std::fs::read_to_string(manifest)
            .unwrap_or_else(|error| panic!("cannot read `{manifest}`: {error}"));
        let described = Described::read(&text, transport)
            .unwrap_or_else(|error| panic!("`{manifest}`: {error:?}"));
        Self { label: format!("{transport} {way}"), described, references: None, images: None }
    }

    /// Takes the function that names scratch images.
    pub fn reference(&mut self, name: impl Fn(&Path, u32) -> String + Send + Sync + 'static) {
        self.references = Some(Box::new(name));
    }

    /// Takes options in place of the manifest's.
    pub fn options<N: Into<String>, V: Into<String>>(
        &mut self,
        options: impl IntoIterator<Item = (N, V)>,
    ) {
        self.described.options = options.into_iter().collect::<Options>();
    }

    /// Takes the function that puts an image to a reference.
    pub fn images(&mut self, put: impl Fn(&str) -> Result<()> + Send + Sync + 'static) {
        self.images = Some(Box::new(put));
    }

    /// Makes the subject.
    ///
    /// # Panics
    /// Neither the macro nor the manifest says how references are written.
    pub fn subject(self, transport: Box<dyn Transport>) -> Subject {
        let Self { label, described, references, images } = self;
        let mut subject = match (references, &described.reference) {
            (Some(references), _) => {
                Subject::new(label, transport, references, described.capabilities)
                    .with_options(described.options)
            }
            (None, Some(template)) => Subject::from_template(
                label,
                transport,
                template,
                described.options.clone(),
                described.capabilities,
            )
            .unwrap_or_else(|error| panic!("{error}")),
            (None, None) => panic!(
                "{label}: say how references are written, by `reference = …` or in \
                 `[transport.check]` of plugin.toml"
            ),
        };
        if let Some(put) = images {
            subject = subject.with_images(put);
        }
        subject
    }
}

/// Picks a plugin's transport by name.
///
/// # Panics
/// The plugin has no such transport.
pub fn find(transports: Vec<(String, Box<dyn Transport>)>, name: &str) -> Box<dyn Transport> {
    transports
        .into_iter()
        .find_map(|(own, transport)| (own == name).then_some(transport))
        .unwrap_or_else(|| panic!("the plugin has no transport `{name}`"))
}

/// Runs one case on each subject and panics with all that failed.
///
/// # Panics
/// The case fails for a subject, or there is no case of that name.
pub fn check(subjects: &[Subject], name: &str) {
    let mut failures = Vec::new();
    for subject in subjects {
        match run_case(subject, name) {
            Some(Verdict::Passed) => {}
            // Shown with --nocapture: such a case is no pass to rely on.
            Some(Verdict::DoesNotApply(need)) => {
                eprintln!("{}: {name} does not apply: it needs {need}", subject.label());
            }
            Some(Verdict::Failed(failure)) => {
                failures.push(format!("\n  {}: {failure}", subject.label()));
            }
            None => panic!("there is no case `{name}`"),
        }
    }
    assert!(failures.is_empty(), "{name}:{}", failures.concat());
}
