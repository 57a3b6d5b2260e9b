//! What `oci:` promises, through its traits alone: layouts, entries, commits, several writers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diolkos_sdk::model::media_type;
use diolkos_sdk::*;
use sha2::Digest as _;
use tempfile::TempDir;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_hash(Algorithm::Sha256, &sha2::Sha256::digest(bytes)).unwrap()
}

fn sha512(bytes: &[u8]) -> Digest {
    Digest::from_hash(Algorithm::Sha512, &sha2::Sha512::digest(bytes)).unwrap()
}

fn session(options: &[(&str, &str)]) -> Session {
    Session {
        options: options.iter().copied().collect(),
        platform: PlatformChoice::default(),
        temp_dir: std::env::temp_dir(),
        host: Host::silent(),
    }
}

fn reference(path: &Path, name: &str) -> Box<dyn ImageRef> {
    let plugin = diolkos_oci::plugin();
    let (transport_name, transport) = &plugin.transports[0];
    assert_eq!(transport_name, "oci");
    transport.parse(&format!("{}:{name}", path.display())).unwrap()
}

fn open(path: &Path, name: &str) -> Result<Box<dyn Source>> {
    reference(path, name).open(&session(&[]))
}

fn create(path: &Path, name: &str) -> Result<Box<dyn Destination>> {
    reference(path, name).create(&session(&[]))
}

fn delete(path: &Path, name: &str) -> Result<()> {
    reference(path, name).delete(&session(&[]))
}

fn tags(path: &Path) -> Vec<String> {
    reference(path, "").tags(&session(&[])).unwrap().tags
}

fn incoming() -> BlobIncoming {
    BlobIncoming {
        digest: None,
        size: None,
        media_type: String::new(),
        role: BlobRole::Layer(0),
        locations: Vec::new(),
    }
}

fn put_blob(to: &dyn Destination, digest: &Digest, bytes: &[u8]) {
    let mut writer = to.put_blob(&incoming()).unwrap().unwrap();
    writer.write(bytes).unwrap();
    let size = bytes.len() as u64;
    writer.finish(&BlobSums { digest: digest.clone(), size, diff_id: None }).unwrap();
}

fn commit(to: Box<dyn Destination>, text: &str, media_type: &str) -> Result<Committed> {
    to.put_manifest(&RawManifest::new(text.into(), media_type), None)?;
    let digest = sha256(text.as_bytes());
    to.commit(&TopLevel { digest, media_type: media_type.into(), size: text.len() as u64 })
}

fn manifest(config: &[u8], layers: &[&[u8]]) -> String {
    let descriptor = |bytes: &[u8]| {
        format!("{{\"mediaType\":\"\",\"digest\":\"{}\",\"size\":{}}}", sha256(bytes), bytes.len())
    };
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    let (config, layers) = (descriptor(config), layers.join(","));
    format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layers}]}}")
}

/// Writes an image of one layer; returns its manifest.
fn write_image(path: &Path, name: &str, config: &str, layer: &[u8]) -> String {
    let to = create(path, name).unwrap();
    put_blob(&*to, &sha256(config.as_bytes()), config.as_bytes());
    put_blob(&*to, &sha256(layer), layer);
    let text = manifest(config.as_bytes(), &[layer]);
    commit(to, &text, media_type::OCI_MANIFEST).unwrap();
    text
}

/// Writes an index of instances `(config, layer)`; returns its text.
fn write_index(path: &Path, name: &str, instances: &[(&str, &[u8])]) -> String {
    let to = create(path, name).unwrap();
    let mut entries = Vec::new();
    for (config, layer) in instances {
        put_blob(&*to, &sha256(config.as_bytes()), config.as_bytes());
        put_blob(&*to, &sha256(layer), layer);
        let text = manifest(config.as_bytes(), &[layer]);
        let digest = sha256(text.as_bytes());
        let raw = RawManifest::new(text.clone().into(), media_type::OCI_MANIFEST);
        to.put_manifest(&raw, Some(&digest)).unwrap();
        entries.push(format!(
            "{{\"mediaType\":\"{}\",\"digest\":\"{digest}\",\"size\":{}}}",
            media_type::OCI_MANIFEST,
            text.len()
        ));
    }
    let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
    commit(to, &text, media_type::OCI_INDEX).unwrap();
    text
}

fn blob_path(path: &Path, digest: &Digest) -> PathBuf {
    path.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

fn has(path: &Path, bytes: &[u8]) -> bool {
    blob_path(path, &sha256(bytes)).exists()
}

/// All files below a directory with their contents.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.clone(), b"directory".to_vec());
                todo.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn read_blob(from: &dyn Source, digest: &Digest, at: u64) -> Result<Vec<u8>> {
    let mut blob = from.blob(&Descriptor::new("", digest.clone(), None), at)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4]);
    loop {
        match blob.reader.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn chain<T>(result: Result<T>) -> (ErrorKind, String) {
    let error = result.err().expect("this must fail");
    (error.kind(), error.chain().join(": "))
}

#[test]
fn an_image_is_written_with_the_bytes_other_tools_write_and_read_back() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("layout");
    let text = write_image(&path, "v1", "{}", b"layer");
    let digest = sha256(text.as_bytes());
    let expected = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{{\"mediaType\":\"{}\",\
         \"digest\":\"{digest}\",\"size\":{},\"annotations\":{{\"{REF_NAME}\":\"v1\"}}}}]}}",
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        text.len(),
    );
    assert_eq!(fs::read_to_string(path.join("index.json")).unwrap(), expected);
    assert_eq!(fs::read_to_string(path.join("oci-layout")).unwrap(), LAYOUT);
    // blobs, blobs/sha256, three blobs, and nothing else.
    assert_eq!(tree(&path).len(), 7);

    for name in ["v1", "", "@0"] {
        let from = open(&path, name).unwrap();
        let expected = RawManifest::new(text.clone().into(), media_type::OCI_MANIFEST);
        assert_eq!(from.manifest(None).unwrap(), expected);
        assert_eq!(from.manifest(Some(&digest)).unwrap(), expected);
        assert_eq!(read_blob(&*from, &sha256(b"layer"), 0).unwrap(), b"layer");
        assert_eq!(read_blob(&*from, &sha256(b"layer"), 3).unwrap(), b"er");
        assert_eq!(from.signatures(None).unwrap(), []);
        let blob = from.blob(&Descriptor::new("", sha256(b"layer"), None), 2).unwrap();
        assert_eq!((blob.size, blob.reader.extent().unwrap().length), (Some(5), 3));
    }
    let before = tree(&path);
    write_image(&path, "v1", "{}", b"layer");
    assert_eq!(tree(&path), before);
}

#[test]
fn an_index_is_kept_with_its_instances() {
    let temp = TempDir::new().unwrap();
    let text = write_index(temp.path(), "multi", &[("{1}", b"one"), ("{2}", b"two")]);
    let from = open(temp.path(), "multi").unwrap();
    assert_eq!(from.manifest(None).unwrap(), RawManifest::new(text.into(), media_type::OCI_INDEX));
    let instance = manifest(b"{2}", &[b"two"]);
    let digest = sha256(instance.as_bytes());
    // Not in index.json, so that its type is not known here.
    assert_eq!(from.manifest(Some(&digest)).unwrap(), RawManifest::new(instance.into(), ""));
    assert_eq!(chain(from.manifest(Some(&sha256(b"?")))).0, ErrorKind::NotFound);
}

#[test]
fn several_images_share_a_layout_and_a_moved_name_leaves_the_old_image_unnamed() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let old = write_image(path, "a", "{1}", b"one");
    write_image(path, "b/c:1", "{2}", b"two");
    let new = write_image(path, "a", "{3}", b"three");
    assert_eq!(tags(path), ["b/c:1", "a"]);
    let bytes = |name| open(path, name).unwrap().manifest(None).unwrap().bytes;
    assert_eq!(bytes("a"), new.as_bytes());
    assert_eq!(bytes("@0"), old.as_bytes());
    assert_eq!(
        chain(open(path, "")),
        (ErrorKind::InvalidInput, "more than one image in oci, choose an image".into())
    );
    assert_eq!(
        chain(open(path, "zzz")),
        (ErrorKind::ImageNotFound, "no descriptor found for reference \"zzz\"".into())
    );
    assert_eq!(chain(open(path, "@3")).1, "index 3 is too large, only 3 entries available");
}

#[test]
fn without_commit_no_entry_changes_and_nothing_unfinished_stays() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), "a", "{}", b"layer");
    let mut before = tree(temp.path());
    let to = create(temp.path(), "a").unwrap();
    put_blob(&*to, &sha256(b"new"), b"new");
    to.put_manifest(&RawManifest::new(b"{}".into(), ""), None).unwrap();
    let mut half = to.put_blob(&incoming()).unwrap().unwrap();
    half.write(b"half").unwrap();
    assert_eq!(fs::read(temp.path().join("index.json")).unwrap(), {
        before[&temp.path().join("index.json")].clone()
    });
    drop(to);
    drop(half);
    // A finished blob stays for the next try, named by nothing.
    before.insert(blob_path(temp.path(), &sha256(b"new")), b"new".into());
    assert_eq!(tree(temp.path()), before);
}

#[test]
fn directories_made_for_a_copy_that_wrote_nothing_go_again() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("layout");
    let to = create(&path, "a").unwrap();
    assert!(path.join("blobs").is_dir());
    drop(to.put_blob(&incoming()).unwrap());
    drop(to);
    assert!(!path.exists());
}

#[test]
fn two_writers_at_once_lose_no_tag() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for round in 0..15 {
                    let name = format!("{writer}-{round}");
                    write_image(path, &name, &format!("{{{writer}{round}}}"), b"shared layer");
                }
            });
        }
    });
    let mut found = tags(path);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 60);
    let rest: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(rest.len(), 3, "{rest:?}");
}

/// Tags and deletes images in `DIOLKOS_TEST_TAG` until somebody kills it.
#[test]
#[ignore = "the victim of the test below"]
fn tag_for_ever() {
    let Some(path) = std::env::var_os("DIOLKOS_TEST_TAG") else { return };
    let path = Path::new(&path);
    for round in 0.. {
        let name = format!("t{}", round % 7);
        write_image(path, &name, &format!("{{{round}}}"), format!("l{}", round % 5).as_bytes());
        if round % 3 == 0 {
            delete(path, &name).unwrap();
        }
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_layout_whose_images_are_whole() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("layout");
    write_image(&path, "stays", "{}", b"l0");
    for round in 0..25 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "tag_for_ever"])
            .env("DIOLKOS_TEST_TAG", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(20_000 + round * 337));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let tags = tags(&path);
        assert!(tags.contains(&"stays".to_owned()));
        for tag in tags {
            // `current` names an image only if every blob of it is there.
            let current = create(&path, &tag).unwrap().current().unwrap();
            assert!(current.is_some(), "{tag} is broken");
        }
    }
    write_image(&path, "last", "{}", b"l0");
    let top: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(top.len(), 3, "what killed writers left is gone: {top:?}");
}

#[test]
fn deleting_removes_the_entry_and_the_blobs_that_nothing_else_needs() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let first = write_image(path, "a", "{1}", b"shared");
    let second = write_image(path, "b", "{2}", b"shared");
    let index = write_index(path, "c", &[("{2}", b"shared"), ("{3}", b"own")]);
    assert_eq!(
        chain(delete(path, "zzz")),
        (ErrorKind::ImageNotFound, "no descriptor found for reference \"zzz\"".into())
    );
    delete(path, "a").unwrap();
    assert!(!has(path, first.as_bytes()) && !has(path, b"{1}") && has(path, b"shared"));
    // The instance in the index is the very manifest of `b`: all of it stays.
    delete(path, "b").unwrap();
    assert!(has(path, second.as_bytes()) && has(path, b"{2}"));
    assert_eq!(tags(path), ["c"]);
    delete(path, "c").unwrap();
    for blob in [second.as_bytes(), index.as_bytes(), b"{2}", b"{3}", b"own", b"shared"] {
        assert!(!has(path, blob));
    }
    let expected = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[]}}\n",
        media_type::OCI_INDEX
    );
    assert_eq!(fs::read_to_string(path.join("index.json")).unwrap(), expected);
}

#[test]
fn deleting_one_of_two_names_keeps_the_image() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), "a", "{}", b"layer");
    write_image(temp.path(), "b", "{}", b"layer");
    delete(temp.path(), "@0").unwrap();
    assert_eq!(tags(temp.path()), ["b"]);
    assert!(create(temp.path(), "b").unwrap().current().unwrap().is_some());
    delete(temp.path(), "").unwrap();
    assert!(!has(temp.path(), b"layer"));
}

/// Replaces index.json by one with these entries (type, digest, name).
fn craft(path: &Path, entries: &[(&str, &str, &str)]) {
    let entry = |(media_type, digest, name): &(&str, &str, &str)| {
        format!(
            "{{\"mediaType\":\"{media_type}\",\"digest\":\"{digest}\",\"size\":1,\
             \"annotations\":{{\"{REF_NAME}\":\"{name}\"}}}}"
        )
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
    fs::write(path.join("index.json"), text).unwrap();
}

#[test]
fn nested_indexes_are_followed_and_circles_end() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let inner = write_index(path, "inner", &[("{1}", b"one")]);
    // Files of a layout need not have the digest they are named by, so that a circle is possible.
    let outer = sha256(b"outer");
    let text = format!(
        "{{\"manifests\":[{{\"mediaType\":\"{0}\",\"digest\":\"{1}\"}},\
         {{\"mediaType\":\"{0}\",\"digest\":\"{outer}\"}}]}}",
        media_type::OCI_INDEX,
        sha256(inner.as_bytes()),
    );
    fs::write(blob_path(path, &outer), text).unwrap();
    craft(path, &[(media_type::OCI_INDEX, outer.as_str(), "outer")]);
    delete(path, "outer").unwrap();
    assert!(!has(path, b"one") && !has(path, b"outer") && !has(path, inner.as_bytes()));
}

#[test]
fn what_cannot_be_understood_stops_a_deletion_before_anything_is_deleted() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let text = write_image(path, "a", "{}", b"layer");
    let digest = sha256(text.as_bytes());
    let good = (media_type::OCI_MANIFEST, digest.as_str(), "a");
    let missing = sha256(b"missing");
    for (other, words) in [
        (("a/b", digest.as_str(), "x"), "unsupported mediaType in index: \"a/b\""),
        ((media_type::OCI_MANIFEST, missing.as_str(), "x"), "no such file or directory"),
        ((media_type::OCI_MANIFEST, "sha256:../../x", "x"), "unexpected digest reference"),
    ] {
        craft(path, &[good, other]);
        let before = tree(path);
        let (_, message) = chain(delete(path, "a"));
        assert!(message.contains(words), "{message}");
        assert_eq!(tree(path), before);
    }
}

#[test]
fn a_shared_blob_directory_is_used_on_both_sides_and_nothing_is_deleted_from_it() {
    let temp = TempDir::new().unwrap();
    let (path, shared) = (temp.path().join("layout"), temp.path().join("shared"));
    let session = session(&[("shared-blob-dir", shared.to_str().unwrap())]);
    let to = reference(&path, "a").create(&session).unwrap();
    put_blob(&*to, &sha256(b"{}"), b"{}");
    put_blob(&*to, &sha256(b"layer"), b"layer");
    let text = manifest(b"{}", &[b"layer"]);
    commit(to, &text, media_type::OCI_MANIFEST).unwrap();
    assert_eq!(fs::read_dir(path.join("blobs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 1);
    let in_shared = shared.join("sha256").join(sha256(b"layer").hex());
    assert_eq!(fs::read(&in_shared).unwrap(), b"layer");

    let from = reference(&path, "a").open(&session).unwrap();
    assert_eq!(from.manifest(None).unwrap().bytes, text.as_bytes());
    assert_eq!(read_blob(&*from, &sha256(b"layer"), 0).unwrap(), b"layer");
    assert!(open(&path, "a").unwrap().manifest(None).is_err());
    let other = reference(&temp.path().join("other"), "x").create(&session).unwrap();
    let wanted = BlobWanted {
        blob: Descriptor::new("", sha256(b"layer"), 5),
        role: BlobRole::Layer(0),
        candidates: Vec::new(),
        probably_new: false,
    };
    assert!(other.reuse(&wanted).unwrap().is_some());
    drop(other);
    reference(&path, "a").delete(&session).unwrap();
    assert!(in_shared.exists());
    assert!(tags(&path).is_empty());
}

#[test]
fn blobs_are_reused_by_digest_and_size_and_equal_ones_only_if_they_were_there_before() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), "a", "{}", b"old");
    let to = create(temp.path(), "b").unwrap();
    put_blob(&*to, &sha256(b"new"), b"new");
    let wanted = |bytes: &[u8], size: u64, candidates: &[&[u8]]| BlobWanted {
        blob: Descriptor::new("a/b", sha256(bytes), size),
        role: BlobRole::Layer(0),
        candidates: candidates
            .iter()
            .map(|bytes| BlobCandidate {
                blob: Descriptor::new("c/d", sha256(bytes), None),
                location: None,
            })
            .collect(),
        probably_new: true,
    };
    let found = |wanted| to.reuse(&wanted).unwrap().map(|blob| (blob.digest, blob.size));
    assert_eq!(found(wanted(b"old", 3, &[])), Some((sha256(b"old"), Some(3))));
    assert_eq!(found(wanted(b"new", 3, &[])), Some((sha256(b"new"), Some(3))));
    assert_eq!(found(wanted(b"old", 4, &[])), None);
    let old = Some((sha256(b"old"), Some(3)));
    assert_eq!(found(wanted(b"?", 1, &[b"??", b"new", b"old"])), old);
    assert_eq!(found(wanted(b"?", 1, &[b"new"])), None);
}

#[test]
fn a_reused_blob_that_goes_away_fails_the_commit() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    write_image(path, "a", "{1}", b"layer");
    let to = create(path, "b").unwrap();
    put_blob(&*to, &sha256(b"{2}"), b"{2}");
    let wanted = BlobWanted {
        blob: Descriptor::new("", sha256(b"layer"), 5),
        role: BlobRole::Layer(0),
        candidates: Vec::new(),
        probably_new: false,
    };
    assert!(to.reuse(&wanted).unwrap().is_some());
    delete(path, "a").unwrap();
    let text = manifest(b"{2}", &[b"layer"]);
    let (kind, message) = chain(commit(to, &text, media_type::OCI_MANIFEST));
    assert_eq!(kind, ErrorKind::Conflict);
    assert!(message.ends_with("was removed during the copy"), "{message}");
    assert!(tags(path).is_empty());
}

#[test]
fn the_current_image_is_known_only_while_it_is_whole() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let current = |name| create(path, name).unwrap().current().unwrap();
    assert_eq!(current("a"), None);
    let text = write_image(path, "a", "{}", b"layer");
    assert_eq!(current("a"), Some(sha256(text.as_bytes())));
    assert_eq!(current("b"), None);
    fs::remove_file(blob_path(path, &sha256(b"layer"))).unwrap();
    assert_eq!(current("a"), None);
}

#[test]
fn sha512_blobs_have_a_directory_of_their_own() {
    let temp = TempDir::new().unwrap();
    let digest = sha512(b"layer");
    let to = create(temp.path(), "a").unwrap();
    put_blob(&*to, &digest, b"layer");
    commit(to, "{}", media_type::OCI_MANIFEST).unwrap();
    assert_eq!(fs::read(blob_path(temp.path(), &digest)).unwrap(), b"layer");
    let from = open(temp.path(), "a").unwrap();
    assert_eq!(read_blob(&*from, &digest, 0).unwrap(), b"layer");
}

#[test]
fn oci_types_are_preferred_and_signatures_refused() {
    let temp = TempDir::new().unwrap();
    let to = create(temp.path(), "a").unwrap();
    let accepts = to.accepts();
    assert_eq!(accepts.manifest_types, [media_type::OCI_MANIFEST, media_type::OCI_INDEX]);
    assert_eq!(accepts.layer_form, LayerForm::Compress);
    assert!(accepts.foreign_layers && accepts.several_images && accepts.parallel_blobs);
    let words = "Pushing signatures for OCI images is not supported";
    assert_eq!(accepts.signatures, Err(words.into()));
    let signature = Signature { format: SignatureFormat::SimpleSigning, bytes: vec![0x89] };
    assert!(to.put_signatures(&[], None).is_ok());
    assert_eq!(chain(to.put_signatures(&[signature], None)).1, words);
    let uncompressed = session(&[("accept-uncompressed-layers", "true")]);
    let to = reference(temp.path(), "a").create(&uncompressed).unwrap();
    assert_eq!(to.accepts().layer_form, LayerForm::Preserve);
    assert_eq!(
        chain(create(temp.path(), "@1")),
        (
            ErrorKind::InvalidInput,
            "Destination reference must not contain a manifest index @1".into()
        )
    );
}

#[test]
fn a_docker_image_that_must_keep_its_digest_is_kept_as_it_is() {
    let temp = TempDir::new().unwrap();
    let to = create(temp.path(), "a").unwrap();
    let text = manifest(b"{}", &[]);
    commit(to, &text, media_type::DOCKER_V2S2).unwrap();
    let read = open(temp.path(), "a").unwrap().manifest(None).unwrap();
    assert_eq!((read.media_type.as_str(), read.bytes), (media_type::DOCKER_V2S2, text.into()));
}

#[test]
fn a_foreign_layer_that_is_not_here_is_reported_with_its_urls() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), "a", "{}", b"layer");
    let from = open(temp.path(), "a").unwrap();
    let mut layer = Descriptor::new(media_type::OCI_FOREIGN_LAYER, sha256(b"far"), 3);
    layer.urls = vec!["https://example.com/far".into()];
    let (kind, message) = chain(from.blob(&layer, 0));
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(message.contains("https://example.com/far"), "{message}");
}

#[test]
fn broken_layouts_are_clear_errors_on_every_side() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let missing = format!("open {}/index.json: no such file or directory", path.display());
    assert_eq!(chain(open(path, "a")), (ErrorKind::NotFound, missing.clone()));
    assert_eq!(chain(delete(path, "a")), (ErrorKind::NotFound, missing));

    let index = path.join("index.json");
    let large = " ".repeat(64 * 1024 * 1024 + 1);
    for bad in ["", "[]", "{\"manifests\":7}", &"[".repeat(1 << 20), &large] {
        fs::write(&index, bad).unwrap();
        assert_eq!(chain(open(path, "a")).0, ErrorKind::Corrupt);
        assert_eq!(chain(create(path, "a")).0, ErrorKind::Corrupt);
        assert_eq!(chain(delete(path, "a")).0, ErrorKind::Corrupt);
        assert_eq!(chain(reference(path, "").tags(&session(&[]))).0, ErrorKind::Corrupt);
    }
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    assert_eq!(chain(open(path, "a")).0, ErrorKind::Corrupt);
}

#[test]
fn a_layout_without_its_version_is_read_and_one_of_another_version_is_not() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    write_image(path, "a", "{}", b"layer");
    let version = path.join("oci-layout");
    fs::remove_file(&version).unwrap();
    assert!(open(path, "a").is_ok());
    write_image(path, "b", "{}", b"layer");
    assert_eq!(fs::read_to_string(&version).unwrap(), LAYOUT);
    fs::write(&version, "{\"imageLayoutVersion\":\"2.0.0\"}").unwrap();
    assert_eq!(chain(open(path, "a")).0, ErrorKind::Unsupported);
    assert_eq!(chain(create(path, "a")).0, ErrorKind::Unsupported);
    fs::write(&version, "nonsense").unwrap();
    assert_eq!(chain(open(path, "a")).0, ErrorKind::Corrupt);
}

#[test]
fn digests_in_a_layout_cannot_lead_out_of_it() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("layout");
    write_image(&path, "a", "{}", b"layer");
    fs::write(temp.path().join("secret"), "secret").unwrap();
    for digest in ["sha256:../../../secret", "../secret:x", "sha256:", "", "/etc:passwd"] {
        craft(&path, &[(media_type::OCI_MANIFEST, digest, "a")]);
        let error = open(&path, "a").unwrap().manifest(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().starts_with("unexpected digest reference"), "{error}");
        assert!(create(&path, "a").unwrap().current().unwrap().is_none());
    }
    let large = sha256(b"large");
    fs::write(blob_path(&path, &large), vec![b' '; 4 * 1024 * 1024 + 1]).unwrap();
    craft(&path, &[(media_type::OCI_MANIFEST, large.as_str(), "a")]);
    assert_eq!(chain(open(&path, "a").unwrap().manifest(None)).0, ErrorKind::Corrupt);
}

#[test]
fn a_commit_without_manifest_is_refused() {
    let temp = TempDir::new().unwrap();
    let to = create(temp.path(), "a").unwrap();
    let top = TopLevel { digest: sha256(b""), media_type: String::new(), size: 0 };
    assert_eq!(chain(to.commit(&top)).0, ErrorKind::Internal);
    assert!(!temp.path().join("index.json").exists());
}
