//! What is under test: a transport, and how the kit writes references to images of its own.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, ErrorKind, Options, Result, Transport};

/// What a transport can do, as its plugin.toml says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Images can be read.
    pub source: bool,
    /// Images can be written.
    pub destination: bool,
    /// Images can be deleted.
    pub delete: bool,
    /// Tags can be listed.
    pub tags: bool,
    /// Signatures can be kept, at least when configured.
    pub signatures: bool,
    /// An index and its instances can be kept together.
    pub several_images: bool,
    /// The manifest is made anew from what is stored, so its bytes differ from those written.
    pub rebuilds_manifests: bool,
    /// Only layers that are tar archives can be kept, and only configs of images.
    pub images_only: bool,
}

impl Capabilities {
    /// Reads the words of a plugin.toml's `capabilities`; unknown ones are ignored.
    pub fn from_words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Self {
        let mut result = Self::default();
        for word in words {
            match word.as_ref() {
                "source" => result.source = true,
                "destination" => result.destination = true,
                "delete" => result.delete = true,
                "tags" => result.tags = true,
                "signatures" => result.signatures = true,
                "several-images" => result.several_images = true,
                "rebuilds-manifests" => result.rebuilds_manifests = true,
                "images-only" => result.images_only = true,
                _ => {}
            }
        }
        result
    }
}

/// Something a case needs of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Reading.
    Source,
    /// Writing.
    Destination,
    /// Deleting.
    Delete,
    /// Listing tags.
    Tags,
    /// Keeping an index with its instances.
    SeveralImages,
    /// Keeping a manifest byte for byte.
    SameManifest,
    /// Keeping blobs whatever is in them.
    AnyContent,
    /// An image that can be read: written by the kit, or put there by [`Subject::with_images`].
    Images,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Delete => "delete",
            Self::Tags => "tags",
            Self::SeveralImages => "several-images",
            Self::SameManifest => "manifests that are not rebuilt",
            Self::AnyContent => "blobs that need not be layers",
            Self::Images => "an image to read",
        })
    }
}

type References = dyn Fn(&Path, u32) -> String + Send + Sync;
type Images = dyn Fn(&str) -> Result<()> + Send + Sync;

/// A transport under test.
pub struct Subject {
    label: String,
    transport: Box<dyn Transport>,
    references: Box<References>,
    images: Option<Box<Images>>,
    options: Options,
    capabilities: Capabilities,
}

impl Subject {
    /// Joins a transport and the function that names its scratch images.
    ///
    /// The function gets a directory of the case's own, which exists and is empty, and a number;
    /// it returns what follows `name:` for an image of that number which nothing else uses. The
    /// directory's last component is made of lower-case letters and digits and is unique, so that
    /// storages elsewhere can use it as a name.
    pub fn new(
        label: impl Into<String>,
        transport: Box<dyn Transport>,
        references: impl Fn(&Path, u32) -> String + Send + Sync + 'static,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            label: label.into(),
            transport,
            references: Box::new(references),
            images: None,
            options: Options::default(),
            capabilities,
        }
    }

    /// Joins a transport and the `[transport.check]` of its plugin.toml.
    ///
    /// In the template, `{dir}` stands for the scratch directory, `{id}` for its last component
    /// and `{n}` for the number.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the template has no `{n}`, or neither `{dir}` nor `{id}`:
    /// cases would then write over each other's images, or over real ones.
    pub fn from_template(
        label: impl Into<String>,
        transport: Box<dyn Transport>,
        template: &str,
        options: Options,
        capabilities: Capabilities,
    ) -> Result<Self> {
        if !template.contains("{n}") || !(template.contains("{dir}") || template.contains("{id}")) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the template `{template}` needs `{{n}}`, and `{{dir}}` or `{{id}}`"),
            ));
        }
        let template = template.to_owned();
        let references = move |dir: &Path, n: u32| {
            let id = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            template
                .replace("{dir}", &dir.to_string_lossy())
                .replace("{id}", &id)
                .replace("{n}", &n.to_string())
        };
        Ok(Self::new(label, transport, references, capabilities).with_options(options))
    }

    /// Sets the options that every session gets.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets how an image comes to a reference, for transports that cannot write.
    #[must_use]
    pub fn with_images(mut self, put: impl Fn(&str) -> Result<()> + Send + Sync + 'static) -> Self {
        self.images = Some(Box::new(put));
        self
    }

    /// Returns the name for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns what the transport can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Returns the transport.
    pub fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn details(&self, dir: &Path, n: u32) -> String {
        (self.references)(dir, n)
    }

    pub(super) fn images(&self) -> Option<&Images> {
        self.images.as_deref()
    }

    /// Tells whether the subject has what a case needs.
    pub fn has(&self, need: Need) -> bool {
        let can = self.capabilities;
        match need {
            Need::Source => can.source,
            Need::Destination => can.destination,
            Need::Delete => can.delete,
            Need::Tags => can.tags,
            Need::SeveralImages => can.several_images,
            Need::SameManifest => !can.rebuilds_manifests,
            Need::AnyContent => !can.images_only,
            Need::Images => can.source && (can.destination || self.images.is_some()),
        }
    }
}

/// What the kit takes from a plugin.toml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The transport's capabilities.
    pub capabilities: Capabilities,
    /// The template of scratch references, if the manifest has one.
    pub reference: Option<String>,
    /// The options of checks.
    pub options: Options,
}

impl Described {
    /// Reads what the manifest says about one transport.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the text is no manifest or has no such transport.
    pub fn read(manifest: &str, transport: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Manifest {
            #[serde(default)]
            transport: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            name: String,
            #[serde(default)]
            capabilities: Vec<String>,
            #[serde(default)]
            check: Check,
        }
        #[derive(Default, Deserialize)]
        struct Check {
            reference: Option<String>,
            #[serde(default)]
            options: std::collections::BTreeMap<String, String>,
        }
        let parsed: Manifest = toml::from_str(manifest).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "cannot read the plugin's manifest")
                .with_source(error)
        })?;
        let entry = parsed.transport.into_iter().find(|entry| entry.name == transport).ok_or_else(
            || {
                Error::new(
                    ErrorKind::InvalidInput,
                    format!("the plugin's manifest has no transport `{transport}`"),
                )
            },
        )?;
        Ok(Self {
            capabilities: Capabilities::from_words(entry.capabilities),
            reference: entry.check.reference,
            options: entry.check.options.into_iter().collect(),
        })
    }
}
