//! Carrying out the copy of one image: blobs in parallel, then the manifest, then signatures.
//!
//! What is decided beforehand is in `facts` and `plan`; what the destination has, in `reuse`; the
//! manifest's own way, in `write`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diolkos_sdk::{
    Accepts, BlobRole, Descriptor, Destination, Digest, Error, ErrorKind, Host, Names, RawManifest,
    Result, Source,
};

use super::blob::{self, BlobCopied, BlobCopy};
use super::facts::{Image, is_converted, is_skipped, needs_diff_ids};
use super::plan::{Action, BlobPlan, ImagePlan};
use super::progress::{BlobOutcome, Counter, Event, Progress};
use super::request::CopyRequest;
use super::retry::Retry;
use crate::cache::BlobCache;
use crate::compress::Compression;
use crate::image::{Layer, LayerWritten};

/// Large blobs that are copied at the same time unless the user says otherwise; skopeo's number.
const PARALLEL: usize = 6;
/// Blobs of all sizes that are: those of small ones are mostly waiting for an answer.
const PARALLEL_SMALL: usize = 12;
/// Up to this size a blob is small, in bytes.
const SMALL: u64 = 2 << 20;

/// Everything that is the same for all images of one copy.
pub(super) struct Copier<'a> {
    pub request: &'a CopyRequest,
    pub source: &'a dyn Source,
    pub source_side: &'a Side,
    pub destination: &'a dyn Destination,
    pub destination_side: &'a Side,
    pub accepts: Accepts,
    /// Layers are handed over uncompressed, whatever the manifest says of them.
    pub unpacks: bool,
    /// What the destination's reference names, where that is known.
    pub current: Option<Current>,
    pub cache: &'a BlobCache,
    pub progress: &'a dyn Progress,
    pub host: Host,
    /// Where blobs may wait whose size a destination wants to know first.
    pub temp_dir: &'a Path,
    /// Makes `host` report cancellation, so that the other threads stop.
    pub abort: Arc<AtomicBool>,
    /// Configs that were read before their turn.
    pub configs: Mutex<HashMap<Digest, Vec<u8>>>,
    /// What became of blobs of this copy's earlier images.
    pub written: Mutex<HashMap<Digest, LayerWritten>>,
}

/// What a destination's reference names; `None` is nothing.
#[derive(Clone)]
pub(super) struct Current(pub Option<Digest>);

/// What the engine knows of one side.
pub(super) struct Side {
    pub transport: String,
    pub names: Names,
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
pub(super) struct Job<'a> {
    pub blob: &'a Descriptor,
    pub role: BlobRole,
    pub layer: Option<&'a Layer>,
    pub name: String,
}

impl Copier<'_> {
    pub(super) fn retry(&self) -> Retry<'_> {
        Retry {
            times: self.request.retry_times,
            delay: self.request.retry_delay,
            host: &self.host,
            progress: self.progress,
        }
    }

    /// Returns what the destination's reference names, asking only if that is not known.
    pub(super) fn named_now(&self) -> Result<Option<Digest>> {
        match &self.current {
            Some(Current(digest)) => Ok(digest.clone()),
            None => self.retry().run("manifest", || self.destination.current()),
        }
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

    /// Describes what [`Self::copy`] would do, asking the destination what it has but changing
    /// nothing there.
    pub(super) fn plan(&self, image: &Image<'_>) -> Result<ImagePlan> {
        self.tell_config(image)?;
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
            && self.named_now()? == Some(image.digest.clone());
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
        self.tell_config(image)?;
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
        let is_small = |index: usize| jobs[index].blob.size.is_some_and(|size| size <= SMALL);
        self.in_parallel(&todo, is_small, |index| {
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

    pub(super) fn copy_blob(&self, job: &Job<'_>, image: &Image<'_>) -> Result<LayerWritten> {
        let config = lock(&self.configs).remove(&job.blob.digest);
        if let Some(config) = config.filter(|_| job.role == BlobRole::Config) {
            self.put_bytes(job.blob, job.role, &config)?;
            return Ok(LayerWritten {
                digest: job.blob.digest.clone(),
                size: config.len() as u64,
                compression: None,
                diff_id: None,
                urls_kept: false,
                annotations_kept: true,
            });
        }
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
            unpacks: job.layer.is_some() && self.unpacks,
            locations,
            retry: self.retry(),
            counter,
            spool: self.accepts.needs_size.then_some(self.temp_dir),
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
    fn in_parallel(
        &self,
        todo: &[usize],
        is_small: impl Fn(usize) -> bool,
        work: impl Fn(usize) -> Result<()> + Sync,
    ) -> Result<()> {
        let given = self.request.parallel_copies.filter(|count| *count > 0);
        let most = if self.accepts.parallel_blobs { given.unwrap_or(PARALLEL_SMALL) } else { 1 };
        let threads = most.min(todo.len());
        if threads <= 1 {
            return todo.iter().try_for_each(|index| work(*index));
        }
        let queue = Mutex::new(Queue::new(todo, given.unwrap_or(PARALLEL), is_small));
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut turn = lock(&queue).next(None);
                    while let Some(next) = turn {
                        if self.abort.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(error) = work(next.index) {
                            let mut first = lock(&failure);
                            // The others were stopped because of this one, maybe before it ended.
                            if first.as_ref().is_none_or(|it| it.kind() == ErrorKind::Cancelled) {
                                *first = Some(error);
                            }
                            drop(first);
                            self.abort.store(true, Ordering::Relaxed);
                            return;
                        }
                        turn = lock(&queue).next(Some(next));
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Blobs that wait to be copied: only so many large ones are at it at the same time.
struct Queue {
    large: VecDeque<usize>,
    small: VecDeque<usize>,
    /// Large ones that may be begun.
    room: usize,
}

/// A blob that is being copied.
struct Taken {
    index: usize,
    large: bool,
}

impl Queue {
    fn new(todo: &[usize], most_large: usize, is_small: impl Fn(usize) -> bool) -> Self {
        let (small, large) = todo.iter().partition(|index| is_small(**index));
        Self { large, small, room: most_large }
    }

    /// Takes the next one after `done`. Who gets none leaves: those that are at work take the rest.
    fn next(&mut self, done: Option<Taken>) -> Option<Taken> {
        if done.is_some_and(|done| done.large) {
            self.room += 1;
        }
        if self.room > 0
            && let Some(index) = self.large.pop_front()
        {
            self.room -= 1;
            return Some(Taken { index, large: true });
        }
        self.small.pop_front().map(|index| Taken { index, large: false })
    }
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blobs_leave_room_for_small_ones_and_all_are_taken() {
        let mut queue = Queue::new(&[9, 8, 7, 1, 2, 3], 2, |index| index < 5);
        let mut take = |done| queue.next(done);
        let (first, second) = (take(None).unwrap(), take(None).unwrap());
        assert_eq!((first.index, second.index), (9, 8));
        let third = take(None).unwrap();
        assert_eq!((third.index, third.large), (1, false), "two large ones are enough");
        let fourth = take(Some(first)).unwrap();
        assert_eq!((fourth.index, fourth.large), (7, true));
        assert_eq!(take(Some(third)).map(|taken| taken.index), Some(2));
        assert_eq!(take(Some(second)).map(|taken| taken.index), Some(3));
        assert!(take(Some(fourth)).is_none());
    }
}
