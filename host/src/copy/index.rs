//! Choosing and copying the images of an index.

use diolkos_sdk::{
    Descriptor, Digest, Error, ErrorKind, RawManifest, Result, ResultExt, source_manifest,
};

use super::plan::{ImagePlan, IndexPlan, index_types};
use super::progress::Event;
use super::request::Selection;
use super::transfer::{Copier, Written};
use crate::image::{ImageManifest, Index, InstanceWritten, Manifest, digest_of};

/// How deep indexes may name indexes. Deeper ones are refused rather than followed.
const MAX_DEPTH: usize = 4;

/// What the user's selection comes to.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Chosen {
    /// One image, by its manifest.
    Image(ImageManifest, Digest, Option<String>),
    /// The index, with or without its images.
    Index(Index),
}

impl Copier<'_> {
    /// Copies what the top-level manifest and the user's selection ask for.
    pub(super) fn copy_top(&self, top: &RawManifest) -> Result<Written> {
        let parsed = self.parse(top)?;
        match self.choose(top, parsed)? {
            Chosen::Image(manifest, digest, platform) => {
                self.check_destination_digest(&digest, top)?;
                self.progress.event(&Event::Image {
                    digest: digest.clone(),
                    platform: platform.clone(),
                    number: 1,
                    total: 1,
                });
                let image = self.image(manifest, digest, None, platform)?;
                let written = self.copy(&image)?;
                if !written.was_there && written.manifest.bytes != top.bytes {
                    source_manifest::tell(self.destination, &top.bytes)
                        .context(|| "destination: keeping the source's manifest")?;
                }
                Ok(written)
            }
            Chosen::Index(index) => {
                let digest = digest_of(&top.bytes)?;
                self.check_destination_digest(&digest, top)?;
                let signatures = self.signatures(None, true)?;
                let cannot_modify = self.cannot_modify(!signatures.is_empty());
                let written = self.copy_index(&index, None, cannot_modify.as_deref(), 0)?;
                self.put_signatures(&signatures, None, true)?;
                Ok(written)
            }
        }
    }

    /// Describes what [`Self::copy_top`] would do.
    pub(super) fn plan_top(
        &self,
        top: &RawManifest,
    ) -> Result<(Option<IndexPlan>, Vec<ImagePlan>)> {
        let parsed = self.parse(top)?;
        match self.choose(top, parsed)? {
            Chosen::Image(manifest, digest, platform) => {
                self.check_destination_digest(&digest, top)?;
                let image = self.image(manifest, digest, None, platform)?;
                Ok((None, vec![self.plan(&image)?]))
            }
            Chosen::Index(index) => {
                let digest = digest_of(&top.bytes)?;
                self.check_destination_digest(&digest, top)?;
                let signatures = self.signatures(None, true)?;
                let cannot_modify = self.cannot_modify(!signatures.is_empty());
                let types = index_types(
                    index.media_type(),
                    &self.accepts.manifest_types,
                    self.request,
                    cannot_modify.as_deref(),
                )?;
                let mut images = Vec::new();
                if self.request.selection == Selection::All {
                    self.plan_instances(&index, 0, &mut images)?;
                }
                let plan = IndexPlan {
                    digest,
                    media_type: index.media_type().to_owned(),
                    written_as: types[0].clone(),
                    instances: index.instances().len(),
                };
                Ok((Some(plan), images))
            }
        }
    }

    fn plan_instances(
        &self,
        index: &Index,
        depth: usize,
        images: &mut Vec<ImagePlan>,
    ) -> Result<()> {
        for instance in index.instances() {
            let raw = self.read_manifest(Some(&instance.digest))?;
            match self.parse(&raw)? {
                Manifest::Index(nested) => {
                    check_depth(depth)?;
                    self.plan_instances(&nested, depth + 1, images)?;
                }
                Manifest::Image(manifest) => {
                    let image = self.image(
                        manifest,
                        instance.digest.clone(),
                        Some(&instance.digest),
                        platform(instance),
                    )?;
                    images.push(self.plan(&image)?);
                }
            }
        }
        Ok(())
    }

    fn parse(&self, raw: &RawManifest) -> Result<Manifest> {
        Manifest::parse(raw).context(|| {
            format!("source: determining manifest MIME type for {}", self.source_side.names.details)
        })
    }

    fn choose(&self, top: &RawManifest, parsed: Manifest) -> Result<Chosen> {
        let index = match parsed {
            Manifest::Image(manifest) => {
                return Ok(Chosen::Image(manifest, digest_of(&top.bytes)?, None));
            }
            Manifest::Index(index) => index,
        };
        if self.request.selection != Selection::System {
            if !self.accepts.several_images {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "copying multiple images: destination transport {:?} does not support \
                         copying multiple images as a group",
                        self.destination_side.transport
                    ),
                )
                .with_hint("leave out --all and --multi-arch to copy the image of one platform"));
            }
            return Ok(Chosen::Index(index));
        }
        self.choose_image(index)
    }

    /// Chooses the image for the platform, through indexes within the index.
    fn choose_image(&self, mut index: Index) -> Result<Chosen> {
        for _ in 0..=MAX_DEPTH {
            let chosen = index.choose(&self.request.platform).context(|| {
                format!(
                    "choosing an image from manifest list {}:{}",
                    self.source_side.transport, self.source_side.names.details
                )
            })?;
            let platform = platform(chosen);
            let digest = chosen.digest.clone();
            self.progress.event(&Event::Selected {
                platform: platform.clone().unwrap_or_else(|| "unknown".into()),
                available: index.instances().len(),
            });
            let raw = self.read_manifest(Some(&digest))?;
            match self.parse(&raw)? {
                Manifest::Image(manifest) => {
                    return Ok(Chosen::Image(manifest, digest, platform));
                }
                Manifest::Index(deeper) => index = deeper,
            }
        }
        Err(too_deep())
    }

    /// A destination that names a digest takes only the image with that digest.
    fn check_destination_digest(&self, digest: &Digest, top: &RawManifest) -> Result<()> {
        let Some(expected) = self.destination_digest() else { return Ok(()) };
        if expected == *digest || crate::image::digest_matches(&top.bytes, &expected)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            "Digest of source image's manifest would not match destination reference",
        )
        .with_hint(format!("the source's digest is {digest}")))
    }

    /// Copies an index and, if asked for, its images. `instance` is set for an index within one.
    fn copy_index(
        &self,
        index: &Index,
        instance: Option<&Digest>,
        cannot_modify: Option<&str>,
        depth: usize,
    ) -> Result<Written> {
        check_depth(depth)?;
        let types = index_types(
            index.media_type(),
            &self.accepts.manifest_types,
            self.request,
            cannot_modify,
        )?;
        let mut written = Vec::new();
        let all = self.request.selection == Selection::All;
        let instances = index.instances().len();
        self.progress.event(&Event::Index { instances, selected: if all { instances } else { 0 } });
        if all {
            let total = index.instances().len();
            for (position, descriptor) in index.instances().iter().enumerate() {
                let copied =
                    self.copy_instance(descriptor, position + 1, total, depth).context(|| {
                        format!("copying image {}/{total} from manifest list", position + 1)
                    })?;
                written.push(copied);
            }
        }
        self.write_index(index, instance, &types, &written, cannot_modify)
    }

    fn copy_instance(
        &self,
        descriptor: &Descriptor,
        number: usize,
        total: usize,
        depth: usize,
    ) -> Result<InstanceWritten> {
        let digest = &descriptor.digest;
        let raw = self.read_manifest(Some(digest))?;
        let platform = platform(descriptor);
        let written = match self.parse(&raw)? {
            Manifest::Index(nested) => {
                let cannot_modify = self.cannot_modify(false);
                self.copy_index(&nested, Some(digest), cannot_modify.as_deref(), depth + 1)?
            }
            Manifest::Image(manifest) => {
                self.progress.event(&Event::Image {
                    digest: digest.clone(),
                    platform: platform.clone(),
                    number,
                    total,
                });
                let image = self.image(manifest, digest.clone(), Some(digest), platform)?;
                self.copy(&image)?
            }
        };
        Ok(InstanceWritten {
            digest: written.digest,
            size: written.manifest.bytes.len() as u64,
            media_type: written.media_type,
            zstd: written.has_zstd,
        })
    }

    fn write_index(
        &self,
        index: &Index,
        instance: Option<&Digest>,
        types: &[String],
        instances: &[InstanceWritten],
        cannot_modify: Option<&str>,
    ) -> Result<Written> {
        let mut refusals = Vec::new();
        for media_type in types {
            let raw = if media_type == index.media_type() && instances.is_empty() {
                Ok(index.raw().clone())
            } else if media_type == index.media_type() {
                index.with_instances(instances)
            } else {
                index.convert(media_type, instances)
            }
            .context(|| {
                format!("converting manifest list to list with MIME type {media_type:?}")
            })?;
            if let Some(why) = cannot_modify
                && raw.bytes != index.raw().bytes
            {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("Manifest list was edited, but we cannot modify it: {why:?}"),
                ));
            }
            let digest = digest_of(&raw.bytes)?;
            self.progress
                .event(&Event::Manifest { digest: digest.clone(), top_level: instance.is_none() });
            match self.put_index(&raw, instance.map(|_| &digest)) {
                Ok(()) => {
                    return Ok(Written {
                        manifest: raw,
                        media_type: media_type.clone(),
                        digest,
                        has_zstd: false,
                        was_there: false,
                    });
                }
                Err(error) if error.kind() == ErrorKind::ManifestRejected => {
                    refusals.push((media_type, error));
                }
                Err(error) => return Err(error),
            }
        }
        let tried: Vec<String> = refusals
            .iter()
            .map(|(media_type, error)| format!("{media_type}({})", error.chain().join(": ")))
            .collect();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "Uploading manifest list failed, attempted the following formats: {}",
                tried.join(", ")
            ),
        ))
    }

    fn put_index(&self, raw: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        self.retry()
            .run("index", || self.destination.put_manifest(raw, instance))
            .context(|| "destination: writing manifest list")
    }
}

fn check_depth(depth: usize) -> Result<()> {
    if depth > MAX_DEPTH { Err(too_deep()) } else { Ok(()) }
}

fn too_deep() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("indexes name indexes more than {MAX_DEPTH} levels deep"),
    )
}

fn platform(descriptor: &Descriptor) -> Option<String> {
    descriptor.platform.as_ref().map(ToString::to_string)
}
