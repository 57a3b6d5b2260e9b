//! The copy engine: facts, plan, transfer, commit.
//!
//! [`run`] copies and [`fn@plan`] says what it would do. Both gather the same facts (what the source
//! has, what the destination takes) and decide by the same pure functions (`plan.rs`), so that what
//! was announced is what happens. The engine knows transports by their traits alone.
//!
//! # What holds
//! 1. A destination's `finish` is called only for bytes whose digest was found right (`blob`,
//!    `verify`, `files`).
//! 2. The policy is decided before the first blob moves (`open`).
//! 3. A copy that changes nothing keeps the manifest byte for byte (`write`, and
//!    [`crate::image`]).
//! 4. Nothing is committed before everything is there; dropping a destination undoes it.
//! 5. Buffers are bounded (`pipe`), and so is what is read into memory ([`read_small`]).
//! 6. Results do not depend on timing or cores: layers are numbered, compression cuts its input at
//!    fixed places ([`crate::compress`]).

mod blob;
mod embedded;
mod facts;
mod files;
mod index;
mod keep;
mod pipe;
mod plan;
mod progress;
mod reader;
mod request;
pub(crate) mod retry;
mod reuse;
mod spool;
mod transfer;
mod turns;
mod verify;
mod write;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use diolkos_sdk::{
    Committed, Destination, Digest, Error, ErrorKind, Host, HostServices, LogLevel, RawManifest,
    Result, ResultExt, Session, Source, TopLevel, unpacked_layers,
};

pub use facts::read_small;
pub use plan::{Action, BlobPlan, ImagePlan, IndexPlan, Plan, bytes};
pub use progress::{BlobOutcome, Counter, Event, Progress, SignatureStep, Silent};
pub use request::{CopyRequest, Endpoint, LayerRequest, ManifestFormat, Selection};

use crate::cache::BlobCache;
use crate::trust::Policy;
use facts::reference_digest;
use retry::Retry;
use transfer::{Copier, Current, Side, Written};

/// How often a copy begins again after its commit met with somebody else's changes.
const CONFLICTS: u32 = 3;

/// What a copy has done.
#[derive(Clone, Debug)]
pub struct Report {
    /// Digest of the top-level manifest at the destination.
    pub digest: Digest,
    /// That manifest.
    pub manifest: RawManifest,
    /// The destination had all of it before, so that nothing was written.
    pub was_there: bool,
    /// What the destination said at the end.
    pub committed: Committed,
}

/// Copies an image, or several with their index.
///
/// # Errors
/// The innermost error's kind; its chain says which side failed at which step. After an error the
/// destination is as it was before.
pub fn run(
    request: &CopyRequest,
    source: &Endpoint,
    destination: &Endpoint,
    policy: &Policy,
    progress: &dyn Progress,
) -> Result<Report> {
    let cache = BlobCache::at(request.blob_cache.clone());
    let mut tries = 0;
    let result = loop {
        let mut committing = false;
        match copy(request, source, destination, policy, &cache, progress, &mut committing) {
            // Somebody removed what the image was to rest on; now that is seen to be missing.
            Err(error)
                if committing && error.kind() == ErrorKind::Conflict && tries < CONFLICTS =>
            {
                tries += 1;
                let why = error.chain().join(": ");
                source.session.host.info(format!("copying once more: {why}"));
            }
            result => break result,
        }
    };
    let result =
        result.context(|| format!("cannot copy `{}` to `{}`", source.name, destination.name));
    if let Err(why) = cache.flush() {
        source.session.host.debug(format!("blob info cache: {why}"));
    }
    result
}

fn copy(
    request: &CopyRequest,
    source: &Endpoint,
    destination: &Endpoint,
    policy: &Policy,
    cache: &BlobCache,
    progress: &dyn Progress,
    committing: &mut bool,
) -> Result<Report> {
    let opened = open(request, source, destination, policy, progress)?;
    let copier = opened.copier(request, cache, progress);
    let written = copier.copy_top(&opened.top)?;
    drop(copier);
    // The last moment at which a stopped copy can leave everything as it was.
    opened.host.check_cancelled()?;
    let committed = if written.was_there {
        Committed::default()
    } else {
        let top = TopLevel {
            digest: written.digest.clone(),
            media_type: written.media_type.clone(),
            size: written.manifest.bytes.len() as u64,
        };
        *committing = true;
        opened.destination.commit(&top).context(|| "destination: committing the finished image")?
    };
    progress.event(&Event::Done { digest: written.digest.clone() });
    let Written { digest, manifest, was_there, .. } = written;
    Ok(Report { digest, manifest, was_there, committed })
}

/// Says what [`run`] would do, without changing anything at the destination.
///
/// # Errors
/// As [`run`].
pub fn plan(
    request: &CopyRequest,
    source: &Endpoint,
    destination: &Endpoint,
    policy: &Policy,
) -> Result<Plan> {
    let cache = BlobCache::at(request.blob_cache.clone());
    let opened = open(request, source, destination, policy, &Silent)
        .context(|| format!("cannot copy `{}` to `{}`", source.name, destination.name))?;
    let copier = opened.copier(request, &cache, &Silent);
    let (index, images) = copier.plan_top(&opened.top)?;
    let mut plan = Plan {
        source: source.name.clone(),
        destination: destination.name.clone(),
        index,
        images,
        bytes_to_copy: 0,
        bytes_reused: 0,
    };
    for blob in plan.images.iter().flat_map(|image| &image.blobs) {
        match &*blob.action {
            "reuse" => add(&mut plan.bytes_reused, blob.size),
            "foreign" => {}
            _ => add(&mut plan.bytes_to_copy, blob.size),
        }
    }
    Ok(plan)
}

/// Adds a size that a manifest claims, which may be any number.
fn add(sum: &mut u64, size: Option<u64>) {
    *sum = sum.saturating_add(size.unwrap_or(0));
}

/// Both sides, opened, with the policy's consent.
struct Opened {
    source: Box<dyn Source>,
    source_side: Side,
    destination: Box<dyn Destination>,
    destination_side: Side,
    host: Host,
    abort: Arc<AtomicBool>,
    /// Where blobs may wait.
    temp_dir: PathBuf,
    /// The top-level manifest.
    top: RawManifest,
    /// What the destination's reference names now, where that was asked and answered.
    current: Option<Current>,
}

fn open(
    request: &CopyRequest,
    source: &Endpoint,
    destination: &Endpoint,
    policy: &Policy,
    progress: &dyn Progress,
) -> Result<Opened> {
    let abort = Arc::new(AtomicBool::new(false));
    let session = |endpoint: &Endpoint| Session {
        host: Host::new(Abortable { host: endpoint.session.host.clone(), abort: abort.clone() }),
        ..endpoint.session.clone()
    };
    let side = |endpoint: &Endpoint| Side {
        transport: endpoint.transport.clone(),
        names: endpoint.reference.names(),
    };
    let (source_side, destination_side) = (side(source), side(destination));
    let source_session = session(source);
    let host = source_session.host.clone();
    let retry =
        Retry { times: request.retry_times, delay: request.retry_delay, host: &host, progress };
    let opened = retry
        .run("opening the source", || source.reference.open(&source_session))
        .context(|| "source: opening it")?;
    let create = || {
        retry
            .run("opening the destination", || destination.reference.create(&session(destination)))
            .context(|| "destination: opening it")
    };
    let allowed = policy.check(&source_side.transport, &source_side.names, request.require_signed);
    // Both sides may be far away: what the destination has is asked while the source is read. What
    // is wrong with it is said after what is wrong with the source.
    let (top, created) = std::thread::scope(|scope| {
        let created = allowed.is_ok().then(|| {
            scope.spawn(|| {
                let created = create()?;
                let current = may_be_there(request).then(|| created.current());
                let current = current.and_then(Result::ok).map(Current);
                Ok((created, current))
            })
        });
        let top = facts::read_manifest(&*opened, None, &retry);
        if top.is_err() {
            abort.store(true, Ordering::Relaxed);
        }
        let panicked = |_| Err(Error::new(ErrorKind::Internal, "opening the destination panicked"));
        (top, created.map(|created| created.join().unwrap_or_else(panicked)))
    });
    let top = top?;
    if let Some(expected) = reference_digest(&source_side.names)
        && !crate::image::digest_matches(&top.bytes, &expected)?
    {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("source: Manifest does not match provided manifest digest {expected}"),
        ));
    }
    allowed?;
    let (created, current) = created.expect("the destination is opened where the policy allows")?;
    Ok(Opened {
        source: opened,
        source_side,
        destination: created,
        destination_side,
        host,
        abort,
        temp_dir: destination.session.temp_dir.clone(),
        top,
        current,
    })
}

/// Tells whether the destination may have what is copied already, as far as the request shows.
fn may_be_there(request: &CopyRequest) -> bool {
    request.selection == Selection::System
        && request.format.is_none()
        && request.layers == LayerRequest::Destination
        && !request.force_compression
}

impl Opened {
    fn copier<'a>(
        &'a self,
        request: &'a CopyRequest,
        cache: &'a BlobCache,
        progress: &'a dyn Progress,
    ) -> Copier<'a> {
        Copier {
            request,
            source: &*self.source,
            source_side: &self.source_side,
            destination: &*self.destination,
            destination_side: &self.destination_side,
            accepts: self.destination.accepts(),
            unpacks: unpacked_layers::is_wanted(&*self.destination),
            current: self.current.clone(),
            cache,
            progress,
            host: self.host.clone(),
            temp_dir: &self.temp_dir,
            abort: self.abort.clone(),
            configs: Mutex::default(),
            written: Mutex::new(HashMap::new()),
        }
    }
}

/// The host's services, with a cancellation of the engine's own: when one blob has failed, the
/// transfers beside it stop.
struct Abortable {
    host: Host,
    abort: Arc<AtomicBool>,
}

impl HostServices for Abortable {
    fn is_cancelled(&self) -> bool {
        self.abort.load(Ordering::Relaxed) || self.host.is_cancelled()
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.host.log(level, message);
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        self.host.extension(name, input)
    }
}
