//! `manifest.json`: which images an archive holds.
//!
//! # Source
//! Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format".

use diolkos_sdk::model::media_type;
use diolkos_sdk::{Accepts, Digest, Error, ErrorKind, LayerForm, RawManifest, Reference, Result};
use serde::{Deserialize, Serialize};

use crate::tar::TarFile;

/// The name of the list.
pub const NAME: &str = "manifest.json";
/// The largest list that is read, in bytes.
const MAX_SIZE: u64 = 16 << 20;
/// How many references an error lists.
const SHOWN: usize = 8;

/// Which image of an archive is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The only one.
    Only,
    /// The one of that name.
    Reference(Reference),
    /// By its position in the list, counted from 0.
    Position(usize),
}

/// What the list says of one image. Members are written in the order and with the names that
/// Docker gives them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// The name of the config's file.
    pub config: String,
    /// The names that the image has.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// The names of the layers' files, the base first.
    #[serde(default)]
    pub layers: Option<Vec<String>>,
    /// What else is said of it, which means nothing here.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// Returns what an archive takes: one image without signatures, one blob after the other.
pub fn accepts(layer_form: LayerForm, needs_size: bool) -> Accepts {
    Accepts {
        manifest_types: vec![media_type::DOCKER_V2S2.into()],
        layer_form,
        signatures: Err("Storing signatures for docker tar files is not supported".into()),
        several_images: false,
        foreign_layers: false,
        parallel_blobs: false,
        needs_size,
    }
}

/// The blobs of an image that goes into an archive: what its schema 2 manifest names.
#[derive(Debug)]
pub struct Blobs {
    /// The config.
    pub config: Digest,
    /// The layers, the base first.
    pub layers: Vec<Digest>,
}

#[derive(Deserialize)]
struct Schema2 {
    config: Named,
    layers: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    digest: Digest,
}

impl Blobs {
    /// Reads an image's manifest.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestRejected`] for another type of manifest, [`ErrorKind::Unsupported`] for
    /// an instance of an index.
    pub fn of(manifest: &RawManifest, instance: Option<&Digest>) -> Result<Self> {
        if instance.is_some() {
            let message = "Manifest lists are not supported for docker tar files";
            return Err(Error::unsupported(message));
        }
        if manifest.media_type != media_type::DOCKER_V2S2 {
            let message = "Unsupported manifest type, need a Docker schema 2 manifest";
            return Err(Error::new(ErrorKind::ManifestRejected, message));
        }
        let parsed: Schema2 = serde_json::from_slice(&manifest.bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "parsing manifest").with_source(error)
        })?;
        let layers = parsed.layers.into_iter().map(|layer| layer.digest).collect();
        Ok(Self { config: parsed.config.digest, layers })
    }

    /// Makes the image's entry in the list; `member` tells the names of the files.
    ///
    /// # Errors
    /// Those of `member`.
    pub fn entry(
        &self,
        names: Vec<String>,
        member: impl Fn(&Digest) -> Result<String>,
    ) -> Result<Image> {
        Ok(Image {
            config: member(&self.config)?,
            repo_tags: Some(names),
            layers: Some(self.layers.iter().map(&member).collect::<Result<_>>()?),
            rest: serde_json::Map::new(),
        })
    }
}

/// Where a layer is, by its digest. Not in a directory of its own: `docker load` takes each
/// directory for an image.
pub fn layer_name(digest: &Digest) -> String {
    format!("{}.tar", digest.hex())
}

/// Where a config is, by its digest.
pub fn config_name(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

/// All images of an archive.
#[derive(Debug)]
pub struct Images(Vec<Image>);

impl Images {
    /// Reads the list.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where there is none, or it makes no sense.
    pub fn read(tar: &TarFile) -> Result<Self> {
        let bytes = tar.read(NAME, MAX_SIZE)?.ok_or_else(|| {
            let hint = if tar.find("index.json").is_ok_and(|found| found.is_some()) {
                "it looks like an OCI archive: `oci-archive:` reads it"
            } else {
                "`docker save` writes such archives since Docker 1.10"
            };
            tar.broken("loading tar component \"manifest.json\": file does not exist")
                .with_hint(hint)
        })?;
        Self::parse(&bytes)
    }

    /// Returns what the list says, image by image.
    pub fn into_entries(self) -> Vec<Image> {
        self.0
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice::<Option<_>>(bytes)
            .map(|images| Self(images.unwrap_or_default()))
            .map_err(|error| {
                Error::new(ErrorKind::Corrupt, "decoding tar manifest.json").with_source(error)
            })
    }

    /// Finds the image that is meant.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none of that name, and [`ErrorKind::InvalidInput`]
    /// when there is not just one image where nothing is named, or none at that position.
    pub fn find(mut self, choice: &Choice) -> Result<Image> {
        let count = self.0.len();
        let position = match choice {
            Choice::Only if count == 1 => 0,
            Choice::Only => {
                let message = format!("Unexpected tar manifest.json: expected 1 item, got {count}");
                return Err(self.with_choices(Error::new(ErrorKind::InvalidInput, message)));
            }
            Choice::Position(position) if *position < count => *position,
            Choice::Position(position) => {
                let message = format!(
                    "Invalid source index @{position}, only {count} manifest items available"
                );
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            Choice::Reference(wanted) => self.position(wanted)?.ok_or_else(|| {
                let message = format!("Tag {:?} not found", wanted.to_string());
                self.with_choices(Error::new(ErrorKind::NotFound, message))
            })?,
        };
        Ok(self.0.swap_remove(position))
    }

    fn position(&self, wanted: &Reference) -> Result<Option<usize>> {
        for (position, image) in self.0.iter().enumerate() {
            for tag in image.repo_tags.iter().flatten() {
                if parse_tag(tag, position)? == *wanted {
                    return Ok(Some(position));
                }
            }
        }
        Ok(None)
    }

    /// Returns the references of all images, in the archive's order.
    pub fn references(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for (position, image) in self.0.iter().enumerate() {
            for tag in image.repo_tags.iter().flatten() {
                all.push(parse_tag(tag, position)?.to_string());
            }
        }
        Ok(all)
    }

    fn with_choices(&self, error: Error) -> Error {
        let mut names: Vec<_> =
            self.0.iter().flat_map(|image| image.repo_tags.iter().flatten().cloned()).collect();
        if names.is_empty() {
            return error.with_hint("its images have no names: choose one by @INDEX");
        }
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" or {more} more"),
        };
        names.truncate(SHOWN);
        error.with_hint(format!("choose one of `{}`{more}", names.join("`, `")))
    }
}

fn parse_tag(tag: &str, position: usize) -> Result<Reference> {
    tag.parse().map_err(|error: Error| {
        let message = format!("Invalid tag {tag:?} in manifest.json item @{position}");
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn images() -> Images {
        Images::parse(
            br#"[{"Config":"a.json","RepoTags":["app:1","r.example/app:2"],"Layers":["x"]},
                 {"Config":"b.json","RepoTags":null,"Layers":null,"Parent":"p"}]"#,
        )
        .unwrap()
    }

    #[test]
    fn images_are_found_by_reference_and_position() {
        let find = |choice| images().find(&choice).map(|image| image.config);
        let reference = |text: &str| Choice::Reference(text.parse().unwrap());
        assert_eq!(find(reference("docker.io/library/app:1")).unwrap(), "a.json");
        assert_eq!(find(reference("r.example/app:2")).unwrap(), "a.json");
        assert_eq!(find(Choice::Position(1)).unwrap(), "b.json");
        let error = find(reference("app:3")).unwrap_err();
        assert_eq!(error.message(), "Tag \"docker.io/library/app:3\" not found");
        assert!(error.hint().unwrap().contains("`app:1`"));
        assert!(find(Choice::Position(2)).unwrap_err().message().contains("only 2 manifest items"));
        assert!(find(Choice::Only).unwrap_err().message().ends_with("expected 1 item, got 2"));
        assert_eq!(images().references().unwrap(), ["docker.io/library/app:1", "r.example/app:2"]);
        assert_eq!(Images::parse(b"{}").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn lists_of_any_form_are_refused_or_read_without_panic(
            text in r#"(\[|\]|\{|\}|"Config"|"RepoTags"|"Layers"|:|,|"a:1"|null|1){0,30}"#
        ) {
            if let Ok(images) = Images::parse(text.as_bytes()) {
                let _ = images.references();
                let _ = images.find(&Choice::Only);
            }
        }
    }
}
