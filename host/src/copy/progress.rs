//! What happens during a copy, as events; drawing them is the command line's work.

use std::sync::Arc;

use diolkos_sdk::{BlobRole, Digest};

/// Takes the events of a copy, from several threads at once.
pub trait Progress: Send + Sync {
    /// Takes one event. Must return fast.
    fn event(&self, event: &Event);
}

/// One thing that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Signatures are about to be read, checked for being welcome, or stored.
    Signatures {
        /// What is done with them.
        step: SignatureStep,
        /// Whether they are an index's own.
        of_index: bool,
    },
    /// An index is begun.
    Index {
        /// How many instances it names.
        instances: usize,
        /// How many of them are copied.
        selected: usize,
    },
    /// An image (an instance, or the only one) is begun.
    Image {
        /// Digest of its manifest.
        digest: Digest,
        /// Its platform, such as `linux/amd64`, where known.
        platform: Option<String>,
        /// Position among the images to copy, from 1.
        number: usize,
        /// How many images there are to copy.
        total: usize,
    },
    /// A choice was made that the user may want to know.
    Selected {
        /// The platform of the chosen instance.
        platform: String,
        /// How many platforms there were.
        available: usize,
    },
    /// A blob is begun.
    BlobStart {
        /// Its digest at the source.
        digest: Digest,
        /// Its size at the source, where known.
        size: Option<u64>,
        /// What it is.
        role: BlobRole,
        /// Counts the source's bytes as they pass.
        counter: Counter,
    },
    /// A blob is done.
    BlobDone {
        /// Its digest at the source.
        digest: Digest,
        /// What it is.
        role: BlobRole,
        /// How it came to be there.
        outcome: BlobOutcome,
    },
    /// A step failed for a passing reason and is tried again.
    Retry {
        /// What is tried again.
        what: String,
        /// Why it failed.
        why: String,
        /// The delay before the next try.
        delay: std::time::Duration,
    },
    /// The manifest of an image or index is about to be written.
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Whether it is the top-level one, after which only the commit comes.
        top_level: bool,
    },
    /// All of it is there.
    Done {
        /// Digest of the top-level manifest at the destination.
        digest: Digest,
    },
}

/// What is done with an image's signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureStep {
    /// They are read from the source.
    Read,
    /// There are some: the destination is asked whether it takes them.
    Check,
    /// They are written.
    Store,
}

/// How a blob came to be at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobOutcome {
    /// It was copied; `written` bytes at the destination.
    Copied {
        /// Bytes written.
        written: u64,
    },
    /// It, or equal content, was there already or was mounted.
    Reused,
    /// It stays elsewhere: a foreign layer.
    Foreign,
}

/// A count of bytes shared between the engine, which adds, and whoever shows it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    /// Returns the bytes so far.
    pub fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.0.store(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Drops all events.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event) {}
}
