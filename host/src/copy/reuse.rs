//! What the destination has already, can share, or need not have.

use diolkos_sdk::{BlobCandidate, BlobWanted, Descriptor, Result, ResultExt};

use super::facts::{Image, is_converted, needs_diff_ids};
use super::plan::Action;
use super::progress::{BlobOutcome, Event};
use super::transfer::{Copier, Job};
use crate::compress::Compression;
use crate::image::LayerWritten;

impl Copier<'_> {
    /// Asks whether the reference names this image already and nothing would be changed.
    pub(super) fn is_already_there(&self, image: &Image<'_>) -> Result<bool> {
        let keeps_layers = image.rules.as_ref().is_none_or(|rules| {
            image.layers.iter().all(|layer| {
                !layer.recompressible
                    || rules.likely_action(layer.compression) == Some(Action::Keep)
            })
        });
        if image.instance.is_some()
            || !image.signatures.is_empty()
            || is_converted(image)
            || !keeps_layers
        {
            return Ok(false);
        }
        let current = self.named_now().context(|| "destination: looking at what is there")?;
        Ok(current.as_ref() == Some(&image.digest))
    }

    /// Returns a foreign layer that stays where it is.
    pub(super) fn foreign(&self, job: &Job<'_>) -> Option<LayerWritten> {
        let stays = job.layer.is_some()
            && self.accepts.foreign_layers
            && !job.blob.urls.is_empty()
            && job.blob.size.is_some();
        if !stays {
            return None;
        }
        self.progress.event(&Event::BlobDone {
            digest: job.blob.digest.clone(),
            role: job.role,
            outcome: BlobOutcome::Foreign,
        });
        let layer = job.layer?;
        Some(LayerWritten { urls_kept: true, ..LayerWritten::unchanged(layer, job.blob.size?) })
    }

    /// Asks the destination for the blob or an equal one, and says so if it has it.
    pub(super) fn reuse(
        &self,
        job: &Job<'_>,
        image: &Image<'_>,
        probably_new: bool,
    ) -> Result<Option<LayerWritten>> {
        let found = self.ask(job, image, self.candidates(job, image), probably_new)?;
        if let Some(found) = &found {
            let side = self.destination_side;
            if let Some(location) = &side.names.location {
                self.cache.record_location(
                    &side.transport,
                    &location.scope,
                    &found.digest,
                    &location.place,
                );
            }
            self.progress.event(&Event::BlobDone {
                digest: job.blob.digest.clone(),
                role: job.role,
                outcome: BlobOutcome::Reused,
            });
        }
        Ok(found)
    }

    pub(super) fn ask(
        &self,
        job: &Job<'_>,
        image: &Image<'_>,
        candidates: Vec<BlobCandidate>,
        probably_new: bool,
    ) -> Result<Option<LayerWritten>> {
        let found = match job.layer {
            Some(layer) => layer.compression.or_else(|| self.cache.compression(&job.blob.digest)),
            None => None,
        };
        if job.layer.is_some() && image.rules.is_some_and(|rules| !rules.may_reuse(found)) {
            return Ok(None);
        }
        let diff_id = self.cache.uncompressed(&job.blob.digest);
        if needs_diff_ids(image) && job.layer.is_some() && diff_id.is_none() {
            return Ok(None);
        }
        let wanted =
            BlobWanted { blob: job.blob.clone(), role: job.role, candidates, probably_new };
        let reused = self
            .retry()
            .run(&job.name, || self.destination.reuse(&wanted))
            .map_err(|error| error.context(format!("destination: trying to reuse {}", job.name)))?;
        let Some(reused) = reused else { return Ok(None) };
        let is_same = reused.digest == job.blob.digest;
        let Some(size) = reused.size.or(if is_same { job.blob.size } else { None }) else {
            // A manifest must state the size, so a blob of unknown size has to be read after all.
            return Ok(None);
        };
        let compression = if is_same { found } else { self.cache.compression(&reused.digest) };
        Ok(Some(LayerWritten {
            digest: reused.digest,
            size,
            compression,
            diff_id,
            urls_kept: false,
            annotations_kept: is_same,
        }))
    }

    /// Lists where the blob is known to be within the destination's storage, and equal ones.
    pub(super) fn candidates(&self, job: &Job<'_>, image: &Image<'_>) -> Vec<BlobCandidate> {
        let side = self.destination_side;
        let Some(here) = &side.names.location else { return Vec::new() };
        let mut candidates = Vec::new();
        let source = &self.source_side;
        if source.transport == side.transport
            && let Some(there) = &source.names.location
            && there.scope == here.scope
        {
            candidates
                .push(BlobCandidate { blob: job.blob.clone(), location: Some(there.clone()) });
        }
        let substitute = job.layer.is_some() && image.rules.is_some();
        for known in
            self.cache.candidates(&side.transport, &here.scope, &job.blob.digest, substitute)
        {
            let is_same = known.digest == job.blob.digest;
            if !is_same
                && !image.rules.is_some_and(|rules| {
                    rules.may_reuse(known.compression) && fits(known.compression, &image.types)
                })
            {
                continue;
            }
            let blob = if is_same {
                job.blob.clone()
            } else {
                Descriptor::new(job.blob.media_type.clone(), known.digest, None)
            };
            let location = known
                .location
                .map(|place| diolkos_sdk::Location { scope: here.scope.clone(), place });
            let candidate = BlobCandidate { blob, location };
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

/// Tells whether one of the manifest types can name a layer in this compression.
fn fits(compression: Option<Compression>, types: &[String]) -> bool {
    match compression {
        Some(Compression::Zstd) => {
            types.iter().any(|to| to == diolkos_sdk::model::media_type::OCI_MANIFEST)
        }
        Some(_) => true,
        None => false,
    }
}
