//! The cache as the engine uses it, on real files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use super::*;

fn digest(n: u8) -> Digest {
    format!("sha256:{}", format!("{n:02x}").repeat(32)).parse().unwrap()
}

fn cache_in(directory: &Path) -> BlobCache {
    BlobCache::at(Some(directory.join("containers/cache").join(FILE_NAME)))
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("containers/cache").join(FILE_NAME)
}

/// Makes a file as skopeo would: its own words for the schema, times in local time.
fn foreign_file(path: &Path) -> Connection {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = Connection::open(path).unwrap();
    file.execute_batch(
        "CREATE TABLE DigestUncompressedPairs(anyDigest TEXT PRIMARY KEY NOT NULL, uncompressedDigest TEXT NOT NULL);
         CREATE INDEX DigestUncompressedPairs_index_uncompressedDigest ON DigestUncompressedPairs(uncompressedDigest);
         CREATE TABLE DigestCompressors(digest TEXT PRIMARY KEY NOT NULL, compressor TEXT NOT NULL);
         CREATE TABLE KnownLocations(transport TEXT NOT NULL, scope TEXT NOT NULL, digest TEXT NOT NULL,
             location TEXT NOT NULL, time TIMESTAMP NOT NULL, PRIMARY KEY (transport, scope, digest, location));
         CREATE TABLE DigestTOCUncompressedPairs(tocDigest TEXT PRIMARY KEY NOT NULL, uncompressedDigest TEXT NOT NULL);
         CREATE TABLE DigestSpecificVariantCompressors(digest TEXT PRIMARY KEY NOT NULL,
             specificVariantCompressor TEXT NOT NULL, specificVariantAnnotations BLOB NOT NULL);",
    )
    .unwrap();
    file
}

#[test]
fn what_one_cache_records_another_finds() {
    let home = tempfile::tempdir().unwrap();
    let (gzip, zstd, plain) = (digest(1), digest(2), digest(3));
    {
        let cache = cache_in(home.path());
        cache.record_pair(&gzip, &plain);
        cache.record_pair(&zstd, &plain);
        cache.record_compression(&gzip, Compression::Gzip);
        cache.record_compression(&zstd, Compression::Zstd);
        cache.record_compression(&digest(4), Compression::Xz);
        cache.record_location("docker", "quay.io", &zstd, "org/app");
        assert_eq!(cache.uncompressed(&gzip), Some(plain.clone()), "before it is written");
    }
    let cache = cache_in(home.path());
    assert_eq!(cache.uncompressed(&gzip), Some(plain.clone()));
    assert_eq!(cache.uncompressed(&plain), Some(plain.clone()), "known as a content");
    assert_eq!(cache.uncompressed(&digest(9)), None);
    assert_eq!(cache.compression(&zstd), Some(Compression::Zstd));
    assert_eq!(cache.compression(&digest(4)), Some(Compression::Xz));
    assert_eq!(cache.compression(&plain), None);
    let found = cache.candidates("docker", "quay.io", &gzip, true);
    let expected = |digest: &Digest, compression, location: Option<&str>| Candidate {
        digest: digest.clone(),
        compression: Some(compression),
        location: location.map(str::to_owned),
    };
    assert_eq!(
        found,
        [
            expected(&zstd, Compression::Zstd, Some("org/app")),
            expected(&gzip, Compression::Gzip, None),
        ]
    );
    assert_eq!(
        cache.candidates("docker", "quay.io", &gzip, false),
        [expected(&gzip, Compression::Gzip, None)]
    );
    let elsewhere = cache.candidates("docker", "docker.io", &zstd, false);
    assert_eq!(elsewhere, [expected(&zstd, Compression::Zstd, None)]);
}

#[test]
fn a_cache_without_a_file_remembers_for_itself() {
    let cache = BlobCache::at(None);
    cache.record_pair(&digest(1), &digest(2));
    cache.record_compression(&digest(1), Compression::Gzip);
    cache.record_location("docker", "host:5000", &digest(1), "a");
    cache.record_location("docker", "host:5000", &digest(1), "b");
    let places: Vec<_> = cache
        .candidates("docker", "host:5000", &digest(1), true)
        .into_iter()
        .map(|candidate| candidate.location.unwrap())
        .collect();
    assert_eq!(places, ["b", "a"], "the latest first");
    assert_eq!(cache.uncompressed(&digest(2)), Some(digest(2)));
    cache.flush().unwrap();
}

#[test]
fn nothing_is_made_before_there_is_something_to_write() {
    let home = tempfile::tempdir().unwrap();
    let cache = cache_in(home.path());
    assert_eq!(cache.uncompressed(&digest(1)), None);
    cache.flush().unwrap();
    drop(cache);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn an_absent_home_is_made_for_its_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let cache = cache_in(&home.path().join("new"));
    cache.record_compression(&digest(1), Compression::Zstd);
    cache.flush().unwrap();
    let mode = fs::metadata(home.path().join("new/containers")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn other_programs_read_what_was_written() {
    let home = tempfile::tempdir().unwrap();
    let cache = cache_in(home.path());
    cache.record_pair(&digest(1), &digest(2));
    cache.record_compression(&digest(2), Compression::None);
    cache.record_location("docker", "docker.io", &digest(1), "library/busybox");
    cache.flush().unwrap();
    let file = Connection::open(path_in(home.path())).unwrap();
    let (location, time): (String, String) = file
        .query_row(
            "SELECT location, time FROM KnownLocations
             WHERE transport = 'docker' AND scope = 'docker.io' AND digest = ?1",
            [digest(1).as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(location, "docker.io/library/busybox");
    assert!(time.ends_with("+00:00") && time.as_bytes()[10] == b' ', "{time}");
    let compressor: String =
        file.query_row("SELECT compressor FROM DigestCompressors", [], |row| row.get(0)).unwrap();
    assert_eq!(compressor, "uncompressed");
    let tables: i64 = file
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 5);
}

#[test]
fn the_sqlite_program_reads_it_while_we_are_running() {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let cache = cache_in(home.path());
    cache.record_pair(&digest(1), &digest(2));
    cache.flush().unwrap();
    assert!(cache.uncompressed(&digest(1)).is_some());
    let answer = Command::new("sqlite3")
        .arg(path_in(home.path()))
        .arg("PRAGMA integrity_check; INSERT INTO DigestCompressors VALUES('x', 'gzip'); SELECT anyDigest FROM DigestUncompressedPairs")
        .output()
        .unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(text, format!("ok\n{}\n", digest(1)));
}

#[test]
fn what_other_programs_wrote_is_used() {
    let home = tempfile::tempdir().unwrap();
    let path = path_in(home.path());
    let file = foreign_file(&path);
    let (gzip, newer, odd) = (digest(1), digest(2), digest(3));
    for blob in [&gzip, &newer, &odd] {
        file.execute(
            "INSERT INTO DigestUncompressedPairs VALUES (?1, ?2)",
            [blob.as_str(), digest(9).as_str()],
        )
        .unwrap();
    }
    file.execute("INSERT INTO DigestUncompressedPairs VALUES ('md5:0', ?1)", [digest(9).as_str()])
        .unwrap();
    for (blob, name) in [(&gzip, "gzip"), (&newer, "zstd"), (&odd, "lz5")] {
        file.execute("INSERT INTO DigestCompressors VALUES (?1, ?2)", [blob.as_str(), name])
            .unwrap();
    }
    // The second is later, though it sorts first as text.
    for (blob, place, time) in [
        (&gzip, "docker.io/library/old", "2025-01-01 12:00:00+02:00"),
        (&gzip, "docker.io/library/new", "2025-01-01 11:00:00.123456789+00:00"),
        (&gzip, "docker.io/library/undated", "yesterday"),
        (&gzip, "quay.io/misplaced", "2025-01-01 11:00:00+00:00"),
    ] {
        file.execute(
            "INSERT INTO KnownLocations VALUES ('docker', 'docker.io', ?1, ?2, ?3)",
            [blob.as_str(), place, time],
        )
        .unwrap();
    }
    let cache = BlobCache::at(Some(path));
    assert_eq!(cache.uncompressed(&gzip), Some(digest(9)));
    let found: Vec<_> = cache
        .candidates("docker", "docker.io", &gzip, true)
        .into_iter()
        .map(|candidate| (candidate.digest, candidate.location))
        .collect();
    let place = |name: &str| (gzip.clone(), Some(format!("library/{name}")));
    assert_eq!(found, [place("new"), place("old"), place("undated"), (newer, None)]);
}

#[test]
fn a_place_seen_again_soon_is_not_written_again() {
    let home = tempfile::tempdir().unwrap();
    let note = || {
        let cache = cache_in(home.path());
        cache.record_location("docker", "host", &digest(1), "a");
        cache.record_compression(&digest(1), Compression::Gzip);
        cache.flush().unwrap();
        fs::read(path_in(home.path())).unwrap()
    };
    assert!(note() == note(), "the file changed");
    let file = Connection::open(path_in(home.path())).unwrap();
    file.execute("UPDATE KnownLocations SET time = '2001-01-01 00:00:00+00:00'", []).unwrap();
    note();
    let old: i64 = file
        .query_row("SELECT count(*) FROM KnownLocations WHERE time LIKE '2001%'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(old, 0);
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = path_in(home.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let garbage = b"not a database at all, but long enough to have a header".repeat(40);
    fs::write(&path, &garbage).unwrap();
    let cache = BlobCache::at(Some(path.clone()));
    assert_eq!(cache.uncompressed(&digest(1)), None);
    cache.record_pair(&digest(1), &digest(2));
    let problem = cache.flush().unwrap_err();
    assert!(problem.contains("not a database"), "{problem}");
    assert_eq!(cache.uncompressed(&digest(1)), Some(digest(2)), "memory still works");
    assert!(fs::read(&path).unwrap() == garbage);
}

#[test]
fn a_place_that_cannot_be_written_is_no_obstacle() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("containers"), "a file, not a directory").unwrap();
    let cache = cache_in(home.path());
    cache.record_pair(&digest(1), &digest(2));
    cache.flush().unwrap_err();
    assert_eq!(cache.uncompressed(&digest(1)), Some(digest(2)));
    cache.flush().unwrap();
}

#[test]
fn a_read_only_file_is_read() {
    let home = tempfile::tempdir().unwrap();
    let path = path_in(home.path());
    let file = foreign_file(&path);
    file.execute(
        "INSERT INTO DigestUncompressedPairs VALUES (?1, ?2)",
        [digest(1).as_str(), digest(2).as_str()],
    )
    .unwrap();
    drop(file);
    let directory = path.parent().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o555)).unwrap();
    let cache = BlobCache::at(Some(path.clone()));
    assert_eq!(cache.uncompressed(&digest(1)), Some(digest(2)));
    cache.record_compression(&digest(1), Compression::Gzip);
    // Root writes all the same.
    let written = cache.flush();
    assert!(written.is_err() || rustix::process::geteuid().is_root());
    assert_eq!(cache.compression(&digest(1)), Some(Compression::Gzip));
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_locked_file_delays_but_does_not_stop() {
    let home = tempfile::tempdir().unwrap();
    let path = path_in(home.path());
    let mut file = foreign_file(&path);
    let lock = file.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive).unwrap();
    let cache = BlobCache::at(Some(path));
    let start = std::time::Instant::now();
    for n in 0..20 {
        assert_eq!(cache.uncompressed(&digest(n)), None);
    }
    cache.record_pair(&digest(1), &digest(2));
    cache.flush().unwrap_err();
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "waited at every lookup");
    lock.rollback().unwrap();
}

#[test]
fn many_threads_may_record_at_once() {
    let home = tempfile::tempdir().unwrap();
    let cache = cache_in(home.path());
    std::thread::scope(|scope| {
        for n in 0..8 {
            let cache = &cache;
            scope.spawn(move || {
                cache.record_pair(&digest(n), &digest(100));
                cache.flush().unwrap();
                cache.uncompressed(&digest(n)).unwrap();
            });
        }
    });
    drop(cache);
    let cache = cache_in(home.path());
    assert!((0..8).all(|n| cache.uncompressed(&digest(n)) == Some(digest(100))));
}

#[test]
fn the_default_place_is_the_one_of_the_other_programs() {
    let path = |euid, variables: &[(&str, &str)]| {
        default_path_for(euid, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    };
    let file = |directory: &str| Some(Path::new(directory).join(FILE_NAME));
    assert_eq!(path(0, &[("HOME", "/root")]), file("/var/lib/containers/cache"));
    assert_eq!(path(7, &[("HOME", "/h")]), file("/h/.local/share/containers/cache"));
    assert_eq!(path(7, &[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]), file("/d/containers/cache"));
    assert_eq!(path(7, &[("HOME", ""), ("XDG_DATA_HOME", "")]), None);
    assert_eq!(
        path(0, &[("HOME", "/h"), ("_CONTAINERS_ROOTLESS_UID", "1000")]),
        file("/h/.local/share/containers/cache")
    );
}
