//! Carrying out the copy of one image: blobs in parallel, then the manifest, then signatures.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diolkos_sdk::{
    Accepts, BlobCandidate, BlobIncoming, BlobRole, BlobSums, BlobWanted, Descriptor, Destination,
    Digest, Error, ErrorKind, Host, Names, RawManifest, Reference, Result, ResultExt, Signature,
    Source,
};

use super::blob::{self, BlobCopied, BlobCopy};
use super::plan::{Action, BlobPlan, ImagePlan, LayerRules, format_type, manifest_types};
use super::progress::{BlobOutcome, Counter, Event, Progress, SignatureStep};
use super::request::CopyRequest;
use super::retry::Retry;
use super::verify::Verifier;
use crate::cache::BlobCache;
use crate::compress::Compression;
use crate::image::{ImageManifest, Layer, LayerWritten, Manifest};

/// Blobs that are copied at the same time unless the user says otherwise; skopeo's number.
const PARALLEL: usize = 6;
/// The largest config that is read into memory to be converted, in bytes.
const MAX_CONFIG: u64 = 32 << 20;

/// Everything that is the same for all images of one copy.
pub(super) struct Copier<'a> {
    pub request: &'a CopyRequest,
    pub source: &'a dyn Source,
    pub source_side: &'a Side,
    pub destination: &'a dyn Destination,
    pub destination_side: &'a Side,
    pub accepts: Accepts,
    pub cache: &'a BlobCache,
    pub progress: &'a dyn Progress,
    pub host: Host,
    /// Makes `host` report cancellation, so that the other threads stop.
    pub abort: Arc<AtomicBool>,
    /// What became of blobs of this copy's earlier images.
    pub written: Mutex<HashMap<Digest, LayerWritten>>,
}

/// What the engine knows of one side.
pub(super) struct Side {
    pub transport: String,
    pub names: Names,
}

/// One image to copy, as its facts say.
pub(super) struct Image<'a> {
    pub manifest: ImageManifest,
    /// The layers to read: the manifest's, or those that the source keeps in their place.
    pub layers: Vec<Layer>,
    pub digest: Digest,
    /// Set for the instances of an index that is copied with them.
    pub instance: Option<&'a Digest>,
    pub platform: Option<String>,
    pub signatures: Vec<Signature>,
    pub cannot_modify: Option<String>,
    /// Manifest types to write, the preferred one first.
    pub types: Vec<String>,
    pub rules: Option<LayerRules>,
}

/// A manifest or index as it is at the destination.
pub(super) struct Written {
    pub manifest: RawManifest,
    pub media_type: String,
    pub digest: Digest,
    /// Whether a layer of it is zstd, which an OCI index notes beside the instance.
    pub has_zstd: bool,
    /// The destination had it all along: nothing was put, so nothing is to be committed.
    pub was_there: bool,
}

/// A blob of an image that may have to be copied.
struct Job<'a> {
    blob: &'a Descriptor,
    role: BlobRole,
    layer: Option<&'a Layer>,
    name: String,
}

impl<'a> Copier<'a> {
    pub(super) fn retry(&self) -> Retry<'_> {
        Retry {
            times: self.request.retry_times,
            delay: self.request.retry_delay,
            host: &self.host,
            progress: self.progress,
        }
    }

    /// Reads a manifest, trying again where that may help, and verifies an instance's digest.
    pub(super) fn read_manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        read_manifest(self.source, instance, &self.retry())
    }

    /// Gathers the facts about one image and decides what is done with it.
    pub(super) fn image(
        &self,
        raw: &RawManifest,
        digest: Digest,
        instance: Option<&'a Digest>,
        platform: Option<String>,
    ) -> Result<Image<'a>> {
        let Manifest::Image(manifest) =
            Manifest::parse(raw).context(|| format!("source: parsing manifest {digest}"))?
        else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "Unexpectedly received a manifest list instead of a manifest for a single image",
            ));
        };
        let signatures = self.signatures(instance, false)?;
        let cannot_modify = self.cannot_modify(!signatures.is_empty());
        let layers = self.layers(&manifest, instance)?;
        if let Some(why) = &cannot_modify
            && layers.iter().zip(manifest.layers()).any(|(a, b)| a.blob.digest != b.blob.digest)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Copying this image would require changing layer representation, which we \
                     cannot do: {why:?}"
                ),
            ));
        }
        if let (Some(why), Some(name)) = (&cannot_modify, self.docker_name())
            && manifest.embedded_name_differs(&name)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Copying a schema1 image with an embedded Docker reference to {} (Docker \
                     reference {name}) would change the manifest, which we cannot do: {why:?}",
                    self.destination_side.names.details
                ),
            ));
        }
        let types = if manifest.is_container_image() {
            manifest_types(
                manifest.media_type(),
                &self.accepts.manifest_types,
                self.request,
                cannot_modify.as_deref(),
            )?
        } else if let (Some(format), None) = (self.request.format, &cannot_modify) {
            // Refused below unless it has that type already.
            vec![format_type(format).to_owned()]
        } else {
            // What an artifact's config and layers mean is its own affair: it moves as it is.
            vec![manifest.media_type().to_owned()]
        };
        if !types.iter().any(|to| to == manifest.media_type())
            && let Some(to) = types.first()
        {
            manifest.can_convert_to(to)?;
        }
        let rules = (cannot_modify.is_none() && manifest.is_container_image())
            .then(|| LayerRules::new(self.accepts.layer_form, self.request));
        Ok(Image {
            manifest,
            layers,
            digest,
            instance,
            platform,
            signatures,
            cannot_modify,
            types,
            rules,
        })
    }

    /// Returns the layers to read, which a source may keep in another form than its manifest says.
    fn layers(&self, manifest: &ImageManifest, instance: Option<&Digest>) -> Result<Vec<Layer>> {
        let mut layers = manifest.layers().to_vec();
        let Some(kept) =
            self.source.layers(instance).context(|| "source: listing the layers it keeps")?
        else {
            return Ok(layers);
        };
        let expected = layers.iter().filter(|layer| !layer.empty).count();
        if kept.len() != expected {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("source: it keeps {} layers, its manifest names {expected}", kept.len()),
            ));
        }
        for (layer, kept) in layers.iter_mut().filter(|layer| !layer.empty).zip(kept) {
            if layer.blob.digest != kept.digest {
                // Its own type says nothing about the form it is kept in.
                layer.compression = None;
            }
            layer.blob = kept;
        }
        Ok(layers)
    }

    /// Reads the signatures that go along, and makes sure the destination takes them.
    pub(super) fn signatures(
        &self,
        instance: Option<&Digest>,
        of_index: bool,
    ) -> Result<Vec<Signature>> {
        if self.request.remove_signatures {
            return Ok(Vec::new());
        }
        let announce = |step| self.progress.event(&Event::Signatures { step, of_index });
        announce(SignatureStep::Read);
        let signatures = self
            .retry()
            .run("signatures", || self.source.signatures(instance))
            .context(|| "source: reading signatures")?;
        if !signatures.is_empty() {
            announce(SignatureStep::Check);
        }
        if let (false, Err(why)) = (signatures.is_empty(), &self.accepts.signatures) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Can not copy signatures to {}: {why}",
                    self.destination_side.names.details
                ),
            )
            .with_hint("use --remove-signatures to copy the image without them"));
        }
        Ok(signatures)
    }

    /// Says why manifests must stay as they are, if they must.
    pub(super) fn cannot_modify(&self, is_signed: bool) -> Option<String> {
        if self.request.preserve_digests {
            return Some("Instructed to preserve digests".into());
        }
        if self.destination_digest().is_some() {
            return Some("Destination specifies a digest".into());
        }
        is_signed.then(|| "Would invalidate signatures".into())
    }

    /// The destination's docker reference, which schema 1 manifests carry inside.
    fn docker_name(&self) -> Option<Reference> {
        self.destination_side.names.docker_reference.as_deref()?.parse().ok()
    }

    /// The digest in the destination's reference, if it has one.
    pub(super) fn destination_digest(&self) -> Option<Digest> {
        reference_digest(&self.destination_side.names)
    }

    /// Copies one image: blobs, config, manifest, signatures.
    pub(super) fn copy(&self, image: &Image<'_>) -> Result<Written> {
        self.host.check_cancelled()?;
        let layers = self.copy_blobs(image)?;
        self.host.check_cancelled()?;
        let Some(layers) = layers else {
            // The destination names this very image already.
            return Ok(Written {
                manifest: image.manifest.raw().clone(),
                media_type: image.manifest.media_type().to_owned(),
                digest: image.digest.clone(),
                has_zstd: false,
                was_there: true,
            });
        };
        let written = self.write_manifest(image, &layers)?;
        let instance = image.instance.map(|_| &written.digest);
        self.put_signatures(&image.signatures, instance, false)?;
        Ok(written)
    }

    /// Writes signatures, if there are any.
    pub(super) fn put_signatures(
        &self,
        signatures: &[Signature],
        instance: Option<&Digest>,
        of_index: bool,
    ) -> Result<()> {
        if signatures.is_empty() {
            return Ok(());
        }
        self.progress.event(&Event::Signatures { step: SignatureStep::Store, of_index });
        self.destination
            .put_signatures(signatures, instance)
            .context(|| "destination: writing signatures")
    }

    /// Describes what [`Self::copy`] would do, asking the destination what it has but changing
    /// nothing there.
    pub(super) fn plan(&self, image: &Image<'_>) -> Result<ImagePlan> {
        let jobs = jobs(image);
        let mut blobs = Vec::new();
        for job in &jobs {
            let action = if self.foreign(job).is_some() {
                "foreign".to_owned()
            } else if self.ask(job, image, Vec::new(), false)?.is_some() {
                "reuse".to_owned()
            } else {
                let likely = match (job.layer, &image.rules) {
                    (Some(layer), Some(rules)) if layer.recompressible => {
                        rules.likely_action(layer.compression)
                    }
                    _ => Some(Action::Keep),
                };
                likely.map_or_else(|| "copy or compress".to_owned(), Action::describe)
            };
            blobs.push(BlobPlan {
                role: match job.role {
                    BlobRole::Config => "config".into(),
                    BlobRole::Layer(index) => format!("layer {}", index + 1),
                },
                digest: job.blob.digest.clone(),
                size: job.blob.size,
                action,
            });
        }
        if is_converted(image)
            && let Some(config) = image.manifest.config()
        {
            blobs.push(BlobPlan {
                role: "config".into(),
                digest: config.digest.clone(),
                size: config.size,
                action: "convert".into(),
            });
        }
        let is_whole = blobs.iter().all(|blob| matches!(&*blob.action, "reuse" | "foreign"));
        let already_there = is_whole
            && image.instance.is_none()
            && !is_converted(image)
            && self.destination.current()? == Some(image.digest.clone());
        Ok(ImagePlan {
            digest: image.digest.clone(),
            platform: image.platform.clone(),
            media_type: image.manifest.media_type().to_owned(),
            written_as: image.types[0].clone(),
            alternatives: image.types[1..].to_vec(),
            unchanged_because: image.cannot_modify.clone(),
            already_there,
            signatures: image.signatures.len(),
            blobs,
        })
    }

    /// Brings all blobs to the destination and returns what became of the layers, in order.
    ///
    /// `None`: the destination's reference names this very image, so nothing was or is to be done.
    fn copy_blobs(&self, image: &Image<'_>) -> Result<Option<Vec<LayerWritten>>> {
        let jobs = jobs(image);
        let results: Vec<Mutex<Option<LayerWritten>>> =
            jobs.iter().map(|_| Mutex::new(None)).collect();
        let mut todo: Vec<usize> = Vec::new();
        let mut first_asked: Option<bool> = None;
        let mut met = HashSet::new();
        for (index, job) in jobs.iter().enumerate() {
            let known = match self.foreign(job) {
                Some(stays) => Some(stays),
                None => self.written_before(job, image),
            };
            if let Some(known) = known {
                *lock(&results[index]) = Some(known);
                continue;
            }
            if !met.insert((&job.blob.digest, job.layer.is_some())) {
                continue;
            }
            // The base layer is asked for alone: what it shows saves requests for the others.
            if first_asked.is_none() {
                let found = self.reuse(job, image, false)?;
                first_asked = Some(found.is_some());
                if let Some(found) = found {
                    let is_same = found.digest == job.blob.digest;
                    // The same layer may come again in this image.
                    lock(&self.written).insert(job.blob.digest.clone(), found.clone());
                    *lock(&results[index]) = Some(found);
                    if is_same && self.is_already_there(image)? {
                        return Ok(None);
                    }
                    continue;
                }
            }
            todo.push(index);
        }
        if self.accepts.parallel_blobs {
            todo.sort_by_key(|index| std::cmp::Reverse(jobs[*index].blob.size.unwrap_or(u64::MAX)));
        }
        let probably_new = first_asked == Some(false);
        let asked = todo.iter().copied().min();
        self.in_parallel(&todo, |index| {
            let job = &jobs[index];
            // The first one has been asked for above.
            let reused = if Some(index) == asked && probably_new {
                None
            } else {
                self.reuse(job, image, probably_new)?
            };
            let done = match reused {
                Some(done) => done,
                None => self.copy_blob(job, image)?,
            };
            lock(&self.written).insert(job.blob.digest.clone(), done.clone());
            *lock(&results[index]) = Some(done);
            Ok(())
        })?;
        let mut layers = Vec::new();
        for (job, result) in jobs.iter().zip(&results) {
            if job.layer.is_none() {
                continue;
            }
            let done = lock(result).take();
            let done = done.or_else(|| lock(&self.written).get(&job.blob.digest).cloned());
            layers.push(done.ok_or_else(|| {
                Error::new(ErrorKind::Internal, format!("{} was not copied", job.name))
            })?);
        }
        Ok(Some(Self::with_skipped_layers(image, layers)))
    }

    /// Returns what became of a blob that was brought before; a changed one stands for layers of
    /// images that may be changed, and for nothing else.
    fn written_before(&self, job: &Job<'_>, image: &Image<'_>) -> Option<LayerWritten> {
        let may_differ = job.layer.is_some() && image.rules.is_some();
        let written = lock(&self.written).get(&job.blob.digest).cloned();
        written.filter(|written| may_differ || written.digest == job.blob.digest)
    }

    /// Puts entries for layers that are not copied (the empty ones of schema 1) back in their
    /// places.
    fn with_skipped_layers(image: &Image<'_>, copied: Vec<LayerWritten>) -> Vec<LayerWritten> {
        let mut copied = copied.into_iter();
        image
            .layers
            .iter()
            .filter_map(|layer| {
                if is_skipped(image, layer) {
                    Some(LayerWritten::unchanged(layer, layer.blob.size.unwrap_or(0)))
                } else {
                    copied.next()
                }
            })
            .collect()
    }

    /// Asks whether the reference names this image already and nothing would be changed.
    fn is_already_there(&self, image: &Image<'_>) -> Result<bool> {
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
        let current = self
            .retry()
            .run("manifest", || self.destination.current())
            .context(|| "destination: looking at what is there")?;
        Ok(current.as_ref() == Some(&image.digest))
    }

    /// Returns a foreign layer that stays where it is.
    fn foreign(&self, job: &Job<'_>) -> Option<LayerWritten> {
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
    fn reuse(
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

    fn ask(
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
    fn candidates(&self, job: &Job<'_>, image: &Image<'_>) -> Vec<BlobCandidate> {
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

    fn copy_blob(&self, job: &Job<'_>, image: &Image<'_>) -> Result<LayerWritten> {
        let counter = Counter::default();
        self.progress.event(&Event::BlobStart {
            digest: job.blob.digest.clone(),
            size: job.blob.size,
            role: job.role,
            counter: counter.clone(),
        });
        let locations = self
            .candidates(job, image)
            .into_iter()
            .filter(|candidate| candidate.blob.digest == job.blob.digest)
            .filter_map(|candidate| candidate.location)
            .collect();
        let copied = BlobCopy {
            source: self.source,
            destination: self.destination,
            blob: job.blob,
            role: job.role,
            name: job.name.clone(),
            rules: job.layer.filter(|layer| layer.recompressible).and(image.rules),
            by_type: job.layer.and_then(|layer| layer.compression),
            needs_diff_id: job.layer.is_some() && needs_diff_ids(image),
            locations,
            retry: self.retry(),
            counter,
            abort: &self.abort,
        }
        .run()?;
        self.remember(job.blob, &copied);
        self.progress.event(&Event::BlobDone {
            digest: job.blob.digest.clone(),
            role: job.role,
            outcome: if copied.reused {
                BlobOutcome::Reused
            } else {
                BlobOutcome::Copied { written: copied.size }
            },
        });
        Ok(LayerWritten {
            digest: copied.digest,
            size: copied.size,
            compression: match copied.action {
                Action::Keep => copied.found.or(job.layer.and_then(|layer| layer.compression)),
                Action::Compress(format) | Action::Recompress(format) => Some(format),
                Action::Decompress => Some(Compression::None),
            },
            diff_id: copied.diff_id,
            urls_kept: false,
            annotations_kept: copied.action == Action::Keep,
        })
    }

    /// Notes in the cache what was learnt about a blob.
    fn remember(&self, blob: &Descriptor, copied: &BlobCopied) {
        let cache = self.cache;
        if let Some(found) = copied.found {
            cache.record_compression(&blob.digest, found);
            match copied.action {
                Action::Keep if found == Compression::None => {
                    cache.record_pair(&blob.digest, &blob.digest);
                }
                Action::Keep => {}
                Action::Compress(format) => {
                    cache.record_compression(&copied.digest, format);
                    cache.record_pair(&copied.digest, &blob.digest);
                    cache.record_pair(&blob.digest, &blob.digest);
                }
                Action::Decompress => {
                    cache.record_compression(&copied.digest, Compression::None);
                    cache.record_pair(&blob.digest, &copied.digest);
                }
                Action::Recompress(format) => cache.record_compression(&copied.digest, format),
            }
        }
        if let Some(diff_id) = &copied.diff_id {
            cache.record_pair(&blob.digest, diff_id);
            cache.record_pair(&copied.digest, diff_id);
        }
        for (side, digest) in
            [(self.source_side, &blob.digest), (self.destination_side, &copied.digest)]
        {
            if let Some(location) = &side.names.location {
                cache.record_location(&side.transport, &location.scope, digest, &location.place);
            }
        }
    }

    /// Runs `work` for each index, on as many threads as blobs may be copied at the same time.
    /// After the first failure no other is begun, and the running ones are stopped.
    fn in_parallel(&self, todo: &[usize], work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let most = self.request.parallel_copies.filter(|count| *count > 0).unwrap_or(PARALLEL);
        let threads = if self.accepts.parallel_blobs { most.min(todo.len()) } else { 1 };
        if threads <= 1 {
            return todo.iter().try_for_each(|index| work(*index));
        }
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(index) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.abort.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(error) = work(*index) {
                            let mut first = lock(&failure);
                            // The others were stopped because of this one, maybe before it ended.
                            if first.as_ref().is_none_or(|it| it.kind() == ErrorKind::Cancelled) {
                                *first = Some(error);
                            }
                            drop(first);
                            self.abort.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes the manifest in the first type that the destination takes.
    fn write_manifest(&self, image: &Image<'_>, layers: &[LayerWritten]) -> Result<Written> {
        let mut refusals: Vec<(String, Error)> = Vec::new();
        let mut config = None;
        for media_type in &image.types {
            match self.try_manifest(image, media_type, layers, &mut config) {
                Ok(written) => return Ok(written),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ManifestRejected | ErrorKind::Unsupported
                    ) =>
                {
                    refusals.push((media_type.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        let Some((_, last)) = refusals.pop() else {
            return Err(Error::new(ErrorKind::Internal, "no type of manifest was tried"));
        };
        if let Some(why) = &image.cannot_modify {
            return Err(last.context(format!(
                "writing manifest failed and we cannot try conversions: {why:?}"
            )));
        }
        if refusals.is_empty() {
            return Err(last);
        }
        let mut tried: Vec<String> = refusals
            .iter()
            .map(|(media_type, error)| format!("{media_type}({})", error.chain().join(": ")))
            .collect();
        tried.extend(
            image.types.last().map(|last_type| format!("{last_type}({})", last.chain().join(": "))),
        );
        Err(Error::new(
            last.kind(),
            format!(
                "Uploading manifest failed, attempted the following formats: {}",
                tried.join(", ")
            ),
        ))
    }

    fn try_manifest(
        &self,
        image: &Image<'_>,
        media_type: &str,
        layers: &[LayerWritten],
        config: &mut Option<Vec<u8>>,
    ) -> Result<Written> {
        let manifest = &image.manifest;
        let raw = if media_type == manifest.media_type() {
            if image.cannot_modify.is_some() && layers_differ(manifest, layers) {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the layers were changed although the manifest may not be",
                ));
            }
            if is_converted(image)
                && let Some(descriptor) = manifest.config()
            {
                // An earlier type was refused, and with it the original config was never copied.
                let job = Job {
                    blob: descriptor,
                    role: BlobRole::Config,
                    layer: None,
                    name: blob::name(BlobRole::Config, 0, descriptor),
                };
                if self.reuse(&job, image, false)?.is_none() {
                    self.copy_blob(&job, image)?;
                }
            }
            manifest.with_layers(layers, self.docker_name().as_ref())?
        } else {
            if config.is_none()
                && let Some(descriptor) = manifest.config()
            {
                *config = Some(self.read_config(descriptor)?);
            }
            let converted = manifest
                .convert(media_type, config.as_deref(), layers, self.docker_name().as_ref())
                .context(|| format!("converting the manifest to {media_type}"))?;
            for (descriptor, bytes) in &converted.blobs {
                self.put_bytes(descriptor, BlobRole::Layer(0), bytes)?;
            }
            if let Some((descriptor, bytes)) = &converted.config {
                self.put_bytes(descriptor, BlobRole::Config, bytes)?;
            }
            converted.manifest
        };
        let digest = if raw.bytes == manifest.raw().bytes {
            image.digest.clone()
        } else {
            crate::image::digest_of(&raw.bytes)?
        };
        self.progress.event(&Event::Manifest {
            digest: digest.clone(),
            top_level: image.instance.is_none(),
        });
        self.retry()
            .run("manifest", || {
                self.destination.put_manifest(&raw, image.instance.map(|_| &digest))
            })
            .context(|| "destination: writing manifest")?;
        let has_zstd = layers.iter().any(|layer| layer.compression == Some(Compression::Zstd));
        Ok(Written {
            manifest: raw,
            media_type: media_type.to_owned(),
            digest,
            has_zstd,
            was_there: false,
        })
    }

    /// Reads a config into memory, verified.
    fn read_config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.retry().run("config", || read_small(self.source, descriptor)).map_err(|error| {
            error.context(format!("source: reading config blob {}", descriptor.digest))
        })
    }

    /// Writes bytes of our own making.
    fn put_bytes(&self, descriptor: &Descriptor, role: BlobRole, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        let incoming = BlobIncoming {
            digest: Some(descriptor.digest.clone()),
            size: Some(size),
            media_type: descriptor.media_type.clone(),
            role,
            locations: Vec::new(),
        };
        let counter = Counter::default();
        counter.set(size);
        self.progress.event(&Event::BlobStart {
            digest: descriptor.digest.clone(),
            size: Some(size),
            role,
            counter,
        });
        let written = self
            .retry()
            .run("config", || {
                if let Some(mut writer) = self.destination.put_blob(&incoming)? {
                    writer.write(bytes)?;
                    writer.finish(&BlobSums {
                        digest: descriptor.digest.clone(),
                        size,
                        diff_id: None,
                    })?;
                }
                Ok(())
            })
            .map_err(|error| {
                error.context(format!("destination: writing blob {}", descriptor.digest))
            });
        self.progress.event(&Event::BlobDone {
            digest: descriptor.digest.clone(),
            role,
            outcome: BlobOutcome::Copied { written: size },
        });
        written
    }
}

/// Reads a manifest, trying again where that may help, and verifies an instance's digest.
pub(super) fn read_manifest(
    source: &dyn Source,
    instance: Option<&Digest>,
    retry: &Retry<'_>,
) -> Result<RawManifest> {
    let raw =
        retry.run("manifest", || source.manifest(instance)).map_err(|error| match instance {
            None => error.context("source: reading manifest"),
            Some(digest) => {
                error.context(format!("source: reading manifest for instance {digest}"))
            }
        })?;
    if raw.bytes.len() as u64 > RawManifest::MAX_SIZE {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "source: the manifest has {} bytes; more than {} are never read",
                raw.bytes.len(),
                RawManifest::MAX_SIZE
            ),
        ));
    }
    if let Some(expected) = instance
        && !crate::image::digest_matches(&raw.bytes, expected)?
    {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "source: Manifest does not match provided manifest digest {expected}: it has {}",
                crate::image::digest_of(&raw.bytes)?
            ),
        ));
    }
    Ok(raw)
}

/// Reads a small blob into memory and verifies it.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is not what its descriptor says, or is no small blob.
pub fn read_small(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let too_large =
        || Error::new(ErrorKind::Corrupt, format!("the config is larger than {MAX_CONFIG} bytes"));
    if descriptor.size.is_some_and(|size| size > MAX_CONFIG) {
        return Err(too_large());
    }
    let mut blob = source.blob(descriptor, 0)?;
    let size = super::blob::known_size(descriptor, &blob)?;
    let mut verifier = Verifier::new(&descriptor.digest, size);
    let mut bytes = Vec::new();
    let mut buffer = vec![0; super::pipe::BUFFER];
    loop {
        let count = blob.reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        verifier.update(&buffer[..count])?;
        bytes.extend_from_slice(&buffer[..count]);
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(too_large());
        }
    }
    verifier.finish()?;
    Ok(bytes)
}

/// The digest in a docker reference, if it has one.
pub(super) fn reference_digest(names: &Names) -> Option<Digest> {
    let reference: Reference = names.docker_reference.as_deref()?.parse().ok()?;
    reference.digest().cloned()
}

/// The blobs of an image that are copied one by one: layers, then the config unless it is
/// converted.
fn jobs<'a>(image: &'a Image<'_>) -> Vec<Job<'a>> {
    let layers = &image.layers;
    let mut jobs: Vec<Job<'a>> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        if is_skipped(image, layer) {
            continue;
        }
        let role = BlobRole::Layer(u32::try_from(index).unwrap_or(u32::MAX));
        jobs.push(Job {
            blob: &layer.blob,
            role,
            layer: Some(layer),
            name: blob::name(role, layers.len(), &layer.blob),
        });
    }
    if !is_converted(image)
        && let Some(config) = image.manifest.config()
    {
        jobs.push(Job {
            blob: config,
            role: BlobRole::Config,
            layer: None,
            name: blob::name(BlobRole::Config, layers.len(), config),
        });
    }
    jobs
}

/// Tells whether the manifest is written in another type than it has.
fn is_converted(image: &Image<'_>) -> bool {
    image.types.first().is_some_and(|first| first != image.manifest.media_type())
}

/// Tells whether a layer has no place in the converted image: the empty layers of schema 1.
fn is_skipped(image: &Image<'_>, layer: &Layer) -> bool {
    layer.empty && needs_diff_ids(image)
}

/// Schema 1 does not know the uncompressed layers' digests; every other type needs them.
fn needs_diff_ids(image: &Image<'_>) -> bool {
    image.types.first().is_some_and(|first| image.manifest.needs_diff_ids(first))
}

fn layers_differ(manifest: &ImageManifest, written: &[LayerWritten]) -> bool {
    manifest
        .layers()
        .iter()
        .zip(written)
        .any(|(layer, written)| layer.blob.digest != written.digest)
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
