//! The blob info cache: what earlier copies found out about blobs.
//!
//! It is the file that skopeo, podman and buildah keep too, in their schema, so that all of them
//! share what they know: which blobs hold the same layer in different compressions, and in which
//! repositories of a registry a blob was seen. Everything in it is a hint. A wrong or missing
//! entry costs a request or an upload, never a wrong image, and the file may be deleted at any
//! time.
//!
//! A [`BlobCache`] opens nothing until it is first asked, answers from what this process recorded
//! and from the file, and writes in one transaction at [`BlobCache::flush`]. No failure of the
//! file stops a copy: the cache then holds what this process recorded and no more.
//!
//! The file itself is in `database`, the order of candidates in `candidates`, what is
//! recorded and not yet written in `facts`.

mod candidates;
mod database;
mod facts;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use diolkos_sdk::Digest;
use jiff::Timestamp;

pub use candidates::Candidate;
use candidates::Seen;
use database::Database;
use facts::{Facts, Key};

use crate::compress::Compression;

/// Name of the file; another schema would get another name.
const FILE_NAME: &str = "blob-info-cache-v1.sqlite";

/// Knowledge about blobs that outlives a copy.
pub struct BlobCache {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

/// What is behind the lock.
struct State {
    reader: Reader,
    /// All that this process recorded.
    known: Facts,
    /// The part of it that is not in the file yet.
    pending: Facts,
}

/// The reading side of the file.
enum Reader {
    Unopened,
    Open(Database),
    /// There is no file, or none that can be used; the reason is kept for [`BlobCache::flush`].
    Absent(Option<String>),
}

impl BlobCache {
    /// Returns where this user's programs keep the cache, if there is such a place.
    ///
    /// Root uses the system's directory, everybody else their data directory. Programs in a user
    /// namespace of podman or buildah are recognised by `_CONTAINERS_ROOTLESS_UID`.
    pub fn default_path() -> Option<PathBuf> {
        default_path_for(rustix::process::geteuid().as_raw(), |name| std::env::var_os(name))
    }

    /// Makes a cache kept in the file `path`, or only in memory without one. Opens nothing.
    pub fn at(path: Option<PathBuf>) -> Self {
        let state = State {
            reader: if path.is_some() { Reader::Unopened } else { Reader::Absent(None) },
            known: Facts::default(),
            pending: Facts::default(),
        };
        Self { path, state: Mutex::new(state) }
    }

    /// Returns the digest of the uncompressed content of a blob, where known.
    ///
    /// It is the digest itself for a blob known to be uncompressed.
    pub fn uncompressed(&self, digest: &Digest) -> Option<Digest> {
        let mut state = self.lock();
        state.uncompressed(self.path.as_deref(), digest)
    }

    /// Returns the compression of a blob, where known.
    pub fn compression(&self, digest: &Digest) -> Option<Compression> {
        let mut state = self.lock();
        state.compression(self.path.as_deref(), digest)
    }

    /// Returns blobs that may take the place of `digest` at a destination, the best first.
    ///
    /// With `substitute`, blobs of another compression with the same uncompressed content count
    /// too. Blobs whose compression is unknown are left out, because a manifest could not
    /// describe them. A candidate without a location was seen nowhere in `scope`, and may be
    /// worth a look at the destination itself.
    pub fn candidates(
        &self,
        transport: &str,
        scope: &str,
        digest: &Digest,
        substitute: bool,
    ) -> Vec<Candidate> {
        let mut state = self.lock();
        let path = self.path.as_deref();
        state.read(path, Database::begin);
        let uncompressed = if substitute { state.uncompressed(path, digest) } else { None };
        let mut blobs = vec![digest.clone()];
        if let Some(uncompressed) = &uncompressed {
            let mut others = state.known.compressed_forms(uncompressed);
            others.extend(
                state.read(path, |file| file.compressed_forms(uncompressed)).unwrap_or_default(),
            );
            others.push(uncompressed.clone());
            for other in others {
                if !blobs.contains(&other) {
                    blobs.push(other);
                }
            }
        }
        let mut seen = Vec::new();
        for blob in blobs {
            let Some(compression) = state.compression(path, &blob) else { continue };
            let places = state.places(path, transport, scope, &blob);
            if places.is_empty() {
                seen.push(Seen::nowhere(blob, compression));
            } else {
                seen.extend(
                    places
                        .into_iter()
                        .map(|(place, time)| Seen::at(blob.clone(), compression, place, time)),
                );
            }
        }
        state.read(path, Database::end);
        candidates::best(seen, digest, uncompressed.as_ref())
    }

    /// Records the uncompressed content of a blob.
    ///
    /// Only for content that this process has itself read and verified: a digest that somebody
    /// merely claims would poison later copies.
    pub fn record_pair(&self, any: &Digest, uncompressed: &Digest) {
        let mut state = self.lock();
        state.record(|facts| {
            facts.pairs.insert(any.clone(), uncompressed.clone());
        });
    }

    /// Records the compression of a blob; as with pairs, only what was seen in its bytes.
    pub fn record_compression(&self, digest: &Digest, compression: Compression) {
        let mut state = self.lock();
        state.record(|facts| {
            facts.compressions.insert(digest.clone(), compression);
        });
    }

    /// Records that a blob was just seen at a place; an empty one is not worth a note, since a scope
    /// that is one place knows by itself what is in it.
    pub fn record_location(&self, transport: &str, scope: &str, digest: &Digest, place: &str) {
        if place.is_empty() {
            return;
        }
        let key = Key {
            transport: transport.to_owned(),
            scope: scope.to_owned(),
            digest: digest.clone(),
        };
        let now = Timestamp::now();
        let mut state = self.lock();
        state.record(|facts| {
            facts.places.entry(key.clone()).or_default().insert(place.to_owned(), now);
        });
    }

    /// Writes what was recorded since the last time, in one transaction.
    ///
    /// # Errors
    /// Says what went wrong, for a debug log. Lookups go on working with what was recorded.
    pub fn flush(&self) -> Result<(), String> {
        let mut state = self.lock();
        let Some(path) = self.path.as_deref() else { return Ok(()) };
        if state.pending.is_empty() {
            return match &mut state.reader {
                Reader::Absent(why) => why.take().map_or(Ok(()), Err),
                Reader::Unopened | Reader::Open(_) => Ok(()),
            };
        }
        let pending = std::mem::take(&mut state.pending);
        let pending = match state.read(Some(path), |file| file.without_known(&pending)) {
            Some(news) => news,
            None => pending,
        };
        if pending.is_empty() {
            return Ok(());
        }
        // SQLite's own locks belong to the process: the reader goes before the writer comes.
        state.reader = Reader::Unopened;
        let written = Database::create(path).and_then(|mut file| file.write(&pending));
        written.map_err(|error| {
            state.reader = Reader::Absent(None);
            format!("cannot write the blob info cache `{}`: {error}", path.display())
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves at worst a fact unrecorded.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BlobCache {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.flush();
    }
}

impl std::fmt::Debug for BlobCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobCache").field("path", &self.path).finish_non_exhaustive()
    }
}

impl State {
    /// Asks the file, opening it first if need be; `None` if it cannot answer.
    ///
    /// After one failure the file is not asked again: a lock that was held for the whole time
    /// we wait would otherwise cost that time at every lookup.
    fn read<T>(
        &mut self,
        path: Option<&Path>,
        ask: impl FnOnce(&Database) -> rusqlite::Result<T>,
    ) -> Option<T> {
        if matches!(self.reader, Reader::Unopened) {
            self.reader = match path.map(Database::open) {
                Some(Ok(Some(file))) => Reader::Open(file),
                Some(Ok(None)) | None => Reader::Absent(None),
                Some(Err(error)) => Reader::Absent(Some(unreadable(path, &error))),
            };
        }
        let Reader::Open(file) = &self.reader else { return None };
        match ask(file) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.reader = Reader::Absent(Some(unreadable(path, &error)));
                None
            }
        }
    }

    fn record(&mut self, note: impl Fn(&mut Facts)) {
        note(&mut self.known);
        note(&mut self.pending);
    }

    fn uncompressed(&mut self, path: Option<&Path>, digest: &Digest) -> Option<Digest> {
        self.known
            .pairs
            .get(digest)
            .cloned()
            .or_else(|| self.read(path, |file| file.uncompressed(digest)).flatten())
            // Whatever something else decompresses to is not compressed itself.
            .or_else(|| {
                self.known.pairs.values().any(|known| known == digest).then(|| digest.clone())
            })
    }

    fn compression(&mut self, path: Option<&Path>, digest: &Digest) -> Option<Compression> {
        self.known
            .compressions
            .get(digest)
            .copied()
            .or_else(|| self.read(path, |file| file.compression(digest)).flatten())
    }

    fn places(
        &mut self,
        path: Option<&Path>,
        transport: &str,
        scope: &str,
        digest: &Digest,
    ) -> facts::Places {
        let key = Key {
            transport: transport.to_owned(),
            scope: scope.to_owned(),
            digest: digest.clone(),
        };
        let mut places = self.read(path, |file| file.places(&key)).unwrap_or_default();
        if let Some(known) = self.known.places.get(&key) {
            places.extend(known.iter().map(|(place, time)| (place.clone(), *time)));
        }
        places
    }
}

fn unreadable(path: Option<&Path>, error: &rusqlite::Error) -> String {
    let path = path.unwrap_or(Path::new(""));
    format!("cannot read the blob info cache `{}`: {error}", path.display())
}

/// The rule behind [`BlobCache::default_path`].
fn default_path_for(euid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let euid = match set("_CONTAINERS_ROOTLESS_UID") {
        // As the other programs do: what is no number counts as 0.
        Some(uid) => uid.to_str().and_then(|uid| uid.parse().ok()).unwrap_or(0),
        None => euid,
    };
    let directory = if euid == 0 {
        PathBuf::from("/var/lib")
    } else if let Some(data) = set("XDG_DATA_HOME") {
        PathBuf::from(data)
    } else {
        Path::new(&set("HOME")?).join(".local/share")
    };
    Some(directory.join("containers/cache").join(FILE_NAME))
}
