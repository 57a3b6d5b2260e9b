//! The cache's file: a SQLite database with the schema that skopeo, podman and buildah use.
//!
//! Tables, columns and the text forms of values are theirs; nothing may be added, because they
//! take a file with the last table in it for complete. Rows that make no sense to us are passed
//! over, as they may come from a newer version.
//!
//! # Source
//! go.podman.io/image, `pkg/blobinfocache/sqlite`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use diolkos_sdk::Digest;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};

use super::facts::{Facts, Key, Places};
use crate::compress::Compression;

/// How long another program may hold the file. Theirs hold it for one small transaction each.
const PATIENCE: Duration = Duration::from_secs(1);

/// A place seen again within this time is not written again: the order of candidates hardly
/// depends on it, and a copy that changes nothing then costs no write to disk.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

/// Each item and how it is made, in order; the last one's presence says that all are there.
const SCHEMA: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS DigestUncompressedPairs(
        anyDigest TEXT PRIMARY KEY NOT NULL,
        uncompressedDigest TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS DigestUncompressedPairs_index_uncompressedDigest
        ON DigestUncompressedPairs(uncompressedDigest)",
    "CREATE TABLE IF NOT EXISTS DigestCompressors(
        digest TEXT PRIMARY KEY NOT NULL,
        compressor TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS KnownLocations(
        transport TEXT NOT NULL,
        scope TEXT NOT NULL,
        digest TEXT NOT NULL,
        location TEXT NOT NULL,
        time TIMESTAMP NOT NULL,
        PRIMARY KEY (transport, scope, digest, location))",
    "CREATE TABLE IF NOT EXISTS DigestTOCUncompressedPairs(
        tocDigest TEXT PRIMARY KEY NOT NULL,
        uncompressedDigest TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS DigestSpecificVariantCompressors(
        digest TEXT PRIMARY KEY NOT NULL,
        specificVariantCompressor TEXT NOT NULL,
        specificVariantAnnotations BLOB NOT NULL)",
];
const LAST_TABLE: &str = "DigestSpecificVariantCompressors";

/// An open cache file.
pub(super) struct Database(Connection);

impl Database {
    /// Opens an existing file for reading; `None` if there is none, or none with our tables yet.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Option<Self>> {
        // SQLite's message for an absent file does not tell it from one that cannot be opened.
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let file = Self(Connection::open_with_flags(path, flags)?);
        file.0.busy_timeout(PATIENCE)?;
        let complete = has_schema(&file.0)?;
        Ok(complete.then_some(file))
    }

    /// Locks the file for several questions at once; each alone would lock it anew.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.0.prepare_cached("BEGIN")?.execute([]).map(|_| ())
    }

    /// Ends what [`Database::begin`] began.
    pub(super) fn end(&self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute([]).map(|_| ())
    }

    /// Opens the file for writing, making it, its directory and its tables where missing.
    pub(super) fn create(path: &Path) -> rusqlite::Result<Self> {
        if let Some(directory) = path.parent() {
            // Who may not make the directory may not make the file either, and SQLite says so.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self(connection))
    }

    /// Returns the uncompressed content of a blob, or the blob itself if it is known to be such.
    pub(super) fn uncompressed(&self, digest: &Digest) -> rusqlite::Result<Option<Digest>> {
        if let Some(found) = self.pair(digest)? {
            return Ok(Some(found));
        }
        let is_content = self
            .0
            .prepare_cached("SELECT 1 FROM DigestUncompressedPairs WHERE uncompressedDigest = ?1")?
            .exists([digest.as_str()])?;
        Ok(is_content.then(|| digest.clone()))
    }

    /// Returns the compression of a blob; `None` also for one that we do not know.
    pub(super) fn compression(&self, digest: &Digest) -> rusqlite::Result<Option<Compression>> {
        let name: Option<String> = self
            .0
            .prepare_cached("SELECT compressor FROM DigestCompressors WHERE digest = ?1")?
            .query_row([digest.as_str()], |row| row.get(0))
            .optional()?;
        Ok(name.and_then(|name| compression_of(&name)))
    }

    /// Returns all blobs recorded to hold `uncompressed`.
    pub(super) fn compressed_forms(&self, uncompressed: &Digest) -> rusqlite::Result<Vec<Digest>> {
        let mut query = self.0.prepare_cached(
            "SELECT anyDigest FROM DigestUncompressedPairs WHERE uncompressedDigest = ?1",
        )?;
        let rows = query.query_map([uncompressed.as_str()], |row| row.get::<_, String>(0))?;
        rows.filter_map(|row| row.map(|text| text.parse().ok()).transpose()).collect()
    }

    /// Returns where a blob was seen.
    pub(super) fn places(&self, key: &Key) -> rusqlite::Result<Places> {
        let mut query = self.0.prepare_cached(
            "SELECT location, time FROM KnownLocations
             WHERE transport = ?1 AND scope = ?2 AND digest = ?3",
        )?;
        let rows = query.query_map([&key.transport, &key.scope, key.digest.as_str()], |row| {
            let time = row.get_ref(1)?.as_str().ok().and_then(|text| text.parse().ok());
            Ok((row.get::<_, String>(0)?, time.unwrap_or(Timestamp::UNIX_EPOCH)))
        })?;
        let placed = rows.filter_map(|row| {
            row.map(|(stored, time)| Some((stored_to_place(&key.scope, &stored)?, time)))
                .transpose()
        });
        placed.collect()
    }

    /// Returns what of `facts` the file does not have.
    pub(super) fn without_known(&self, facts: &Facts) -> rusqlite::Result<Facts> {
        let mut news = Facts::default();
        self.begin()?;
        for (any, uncompressed) in &facts.pairs {
            if self.pair(any)?.as_ref() != Some(uncompressed) {
                news.pairs.insert(any.clone(), uncompressed.clone());
            }
        }
        for (digest, compression) in &facts.compressions {
            if self.compression(digest)? != Some(*compression) {
                news.compressions.insert(digest.clone(), *compression);
            }
        }
        for (key, places) in &facts.places {
            let there = self.places(key)?;
            for (place, time) in places {
                let fresh = there.get(place).is_some_and(|seen| {
                    let age = time.duration_since(*seen);
                    age >= SignedDuration::ZERO && age < FRESH
                });
                if !fresh {
                    news.places.entry(key.clone()).or_default().insert(place.clone(), *time);
                }
            }
        }
        self.end()?;
        Ok(news)
    }

    /// Writes facts in one transaction.
    pub(super) fn write(&mut self, facts: &Facts) -> rusqlite::Result<()> {
        // The others take the exclusive lock at once too; upgrading a shared one could dead-lock.
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        if !has_schema(&transaction)? {
            for item in SCHEMA {
                transaction.execute(item, [])?;
            }
        }
        insert(&transaction, facts)?;
        transaction.commit()
    }

    fn pair(&self, any: &Digest) -> rusqlite::Result<Option<Digest>> {
        let text: Option<String> = self
            .0
            .prepare_cached(
                "SELECT uncompressedDigest FROM DigestUncompressedPairs WHERE anyDigest = ?1",
            )?
            .query_row([any.as_str()], |row| row.get(0))
            .optional()?;
        Ok(text.and_then(|text| text.parse().ok()))
    }
}

fn has_schema(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?1")?.exists([LAST_TABLE])
}

fn insert(transaction: &Transaction<'_>, facts: &Facts) -> rusqlite::Result<()> {
    for (any, uncompressed) in &facts.pairs {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO DigestUncompressedPairs(anyDigest, uncompressedDigest)
                 VALUES (?1, ?2)",
            )?
            .execute([any.as_str(), uncompressed.as_str()])?;
    }
    for (digest, compression) in &facts.compressions {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO DigestCompressors(digest, compressor) VALUES (?1, ?2)",
            )?
            .execute([digest.as_str(), compressor_of(*compression)])?;
    }
    for (key, places) in &facts.places {
        for (place, time) in places {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO
                         KnownLocations(transport, scope, digest, location, time)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute([
                    &key.transport,
                    &key.scope,
                    key.digest.as_str(),
                    &place_to_stored(&key.scope, place),
                    &time.strftime("%Y-%m-%d %H:%M:%S%.f+00:00").to_string(),
                ])?;
        }
    }
    Ok(())
}

/// A place is stored with its scope in front: `docker.io/library/busybox`.
fn place_to_stored(scope: &str, place: &str) -> String {
    format!("{scope}/{place}")
}

fn stored_to_place(scope: &str, stored: &str) -> Option<String> {
    stored.strip_prefix(scope)?.strip_prefix('/').map(str::to_owned)
}

/// The name of a compression in the file; xz has another one there than on command lines.
fn compressor_of(compression: Compression) -> &'static str {
    match compression {
        Compression::Xz => "Xz",
        other => other.name(),
    }
}

fn compression_of(name: &str) -> Option<Compression> {
    [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Bzip2, Compression::Xz]
        .into_iter()
        .find(|compression| compressor_of(*compression) == name)
}
