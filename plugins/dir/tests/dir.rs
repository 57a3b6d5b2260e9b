//! What `dir:` promises, through its traits alone: files, overwriting, refusals, signatures.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use diolkos_sdk::*;
use sha2::Digest as _;
use tempfile::TempDir;

const V1_1: &str = "Directory Transport Version: 1.1\n";
const V1_2: &str = "Directory Transport Version: 1.2\n";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

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

fn reference(path: &Path) -> Box<dyn ImageRef> {
    let plugin = diolkos_dir::plugin();
    let (name, transport) = &plugin.transports[0];
    assert_eq!(name, "dir");
    transport.parse(path.to_str().unwrap()).unwrap()
}

fn create(path: &Path) -> Result<Box<dyn Destination>> {
    reference(path).create(&session(&[]))
}

fn incoming(digest: Option<&Digest>) -> BlobIncoming {
    BlobIncoming {
        digest: digest.cloned(),
        size: None,
        media_type: String::new(),
        role: BlobRole::Layer(0),
        locations: Vec::new(),
    }
}

fn put_blob(to: &dyn Destination, digest: &Digest, bytes: &[u8]) {
    let mut writer = to.put_blob(&incoming(Some(digest))).unwrap().unwrap();
    for chunk in bytes.chunks(3) {
        writer.write(chunk).unwrap();
    }
    let size = bytes.len() as u64;
    writer.finish(&BlobSums { digest: digest.clone(), size, diff_id: None }).unwrap();
}

fn put_manifest(to: &dyn Destination, text: &str, instance: Option<&Digest>) {
    to.put_manifest(&RawManifest::new(text.into(), MANIFEST_TYPE), instance).unwrap();
}

fn commit(to: Box<dyn Destination>, text: &str) -> Result<Committed> {
    let digest = sha256(text.as_bytes());
    to.commit(&TopLevel { digest, media_type: MANIFEST_TYPE.into(), size: text.len() as u64 })
}

fn simple(byte: u8) -> Signature {
    Signature { format: SignatureFormat::SimpleSigning, bytes: vec![0x89, byte] }
}

/// Writes an image of one blob and a manifest, which is any text here.
fn write_image(path: &Path, blob: &[u8], manifest: &str, signatures: &[Signature]) {
    let to = create(path).unwrap();
    put_blob(&*to, &sha256(blob), blob);
    put_manifest(&*to, manifest, None);
    to.put_signatures(signatures, None).unwrap();
    commit(to, manifest).unwrap();
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

fn names(path: &Path) -> Vec<String> {
    let entry = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = tree(path).keys().map(entry).collect();
    names.sort();
    names
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

#[test]
fn an_image_is_written_as_the_files_other_tools_know_and_read_back() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("image");
    let instance = "{\"instance\":1}";
    let instance_digest = sha256(instance.as_bytes());
    let to = create(&path).unwrap();
    put_blob(&*to, &sha256(b"layer"), b"layer");
    put_manifest(&*to, instance, Some(&instance_digest));
    put_manifest(&*to, "{\"index\":1}", None);
    let sigstore = Signature { format: SignatureFormat::SigstoreJson, bytes: b"{}".to_vec() };
    to.put_signatures(&[simple(1), sigstore.clone()], None).unwrap();
    to.put_signatures(&[simple(2)], Some(&instance_digest)).unwrap();
    commit(to, "{\"index\":1}").unwrap();

    let hex = instance_digest.hex();
    let mut expected = [
        sha256(b"layer").hex().to_owned(),
        format!("{hex}.manifest.json"),
        format!("{hex}.signature-1"),
        "manifest.json".into(),
        "signature-1".into(),
        "signature-2".into(),
        "version".into(),
    ];
    expected.sort();
    assert_eq!(names(&path), expected);
    assert_eq!(fs::read_to_string(path.join("version")).unwrap(), V1_1);
    assert_eq!(fs::read(path.join("signature-2")).unwrap(), b"\0sigstore-json\n{}");

    let from = reference(&path).open(&session(&[])).unwrap();
    assert_eq!(from.manifest(None).unwrap(), RawManifest::new(b"{\"index\":1}".into(), ""));
    assert_eq!(from.manifest(Some(&instance_digest)).unwrap().bytes, instance.as_bytes());
    assert_eq!(from.signatures(None).unwrap(), [simple(1), sigstore]);
    assert_eq!(from.signatures(Some(&instance_digest)).unwrap(), [simple(2)]);
    assert_eq!(from.signatures(Some(&sha256(b"other"))).unwrap(), []);
    assert_eq!(read_blob(&*from, &sha256(b"layer"), 0).unwrap(), b"layer");
    assert_eq!(read_blob(&*from, &sha256(b"layer"), 3).unwrap(), b"er");
    let blob = from.blob(&Descriptor::new("", sha256(b"layer"), None), 1).unwrap();
    assert_eq!(blob.size, Some(5));
    let extent = blob.reader.extent().unwrap();
    assert_eq!((extent.offset, extent.length), (1, 4));
}

#[test]
fn bytes_may_be_written_to_the_file_directly() {
    let temp = TempDir::new().unwrap();
    let to = create(temp.path()).unwrap();
    let writer = to.put_blob(&incoming(None)).unwrap().unwrap();
    let target = writer.file().unwrap();
    assert_eq!(target.offset, 0);
    let mut file = fs::File::from(target.file.try_clone_to_owned().unwrap());
    file.write_all(b"direct").unwrap();
    writer.finish(&BlobSums { digest: sha256(b"direct"), size: 6, diff_id: None }).unwrap();
    put_manifest(&*to, "{}", None);
    commit(to, "{}").unwrap();
    assert_eq!(fs::read(temp.path().join(sha256(b"direct").hex())).unwrap(), b"direct");
}

#[test]
fn sha512_digests_are_named_with_their_algorithm_and_raise_the_version() {
    let temp = TempDir::new().unwrap();
    let digest = sha512(b"layer");
    let to = create(temp.path()).unwrap();
    put_blob(&*to, &digest, b"layer");
    put_manifest(&*to, "{}", None);
    commit(to, "{}").unwrap();
    let name = format!("sha512-{}", digest.hex());
    assert_eq!(names(temp.path()), ["manifest.json", &name, "version"]);
    assert_eq!(fs::read_to_string(temp.path().join("version")).unwrap(), V1_2);
    let from = reference(temp.path()).open(&session(&[])).unwrap();
    assert_eq!(read_blob(&*from, &digest, 0).unwrap(), b"layer");
    // The next image has SHA-256 alone, and older programs read it again.
    write_image(temp.path(), b"next", "{}", &[]);
    assert_eq!(fs::read_to_string(temp.path().join("version")).unwrap(), V1_1);
}

#[test]
fn overwriting_leaves_the_new_image_and_nothing_of_the_old() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), b"old", "{\"old\":1}", &[simple(1), simple(2), simple(3)]);
    fs::create_dir(temp.path().join("extra")).unwrap();
    fs::write(temp.path().join("extra/file"), "x").unwrap();
    write_image(temp.path(), b"new", "{\"new\":1}", &[simple(9)]);
    let blob = sha256(b"new");
    let mut expected = [blob.hex(), "manifest.json", "signature-1", "version"];
    expected.sort_unstable();
    assert_eq!(names(temp.path()), expected);
    let from = reference(temp.path()).open(&session(&[])).unwrap();
    assert_eq!(from.signatures(None).unwrap(), [simple(9)]);
    // The same image again, with more signatures.
    write_image(temp.path(), b"new", "{\"new\":1}", &[simple(7), simple(8)]);
    assert_eq!(from.signatures(None).unwrap(), [simple(7), simple(8)]);
    assert_eq!(fs::read(temp.path().join(blob.hex())).unwrap(), b"new");
}

#[test]
fn without_commit_the_old_image_is_untouched() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), b"old", "{\"old\":1}", &[simple(1)]);
    let before = tree(temp.path());
    let to = create(temp.path()).unwrap();
    put_blob(&*to, &sha256(b"new"), b"new");
    put_manifest(&*to, "{}", Some(&sha256(b"{}")));
    put_manifest(&*to, "{}", None);
    to.put_signatures(&[simple(2)], None).unwrap();
    let mut half = to.put_blob(&incoming(None)).unwrap().unwrap();
    half.write(b"half").unwrap();
    assert_eq!(fs::read(temp.path().join("manifest.json")).unwrap(), b"{\"old\":1}");
    drop(to);
    drop(half);
    assert_eq!(tree(temp.path()), before);
}

#[test]
fn a_directory_made_for_a_failed_copy_goes_again() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("new");
    let to = create(&path).unwrap();
    put_blob(&*to, &sha256(b"x"), b"x");
    drop(to);
    assert!(!path.exists());
}

#[test]
fn what_a_killed_writer_left_in_a_new_directory_is_overwritten() {
    let temp = TempDir::new().unwrap();
    let left = temp.path().join(".diolkos-killed");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("x"), "x").unwrap();
    write_image(temp.path(), b"new", "{}", &[]);
    assert_eq!(names(temp.path()).len(), 3);
}

#[test]
fn a_directory_that_holds_something_else_is_refused_and_left_alone() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("thesis.tex"), "important").unwrap();
    for version in [None, Some("1.1"), Some("Directory Transport Version: 1.1")] {
        if let Some(text) = version {
            fs::write(temp.path().join("version"), text).unwrap();
        }
        let before = tree(temp.path());
        let error = create(temp.path()).err().unwrap();
        assert_eq!(
            error.message(),
            "not a containers image directory, don't want to overwrite important data"
        );
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(tree(temp.path()), before);
    }
}

#[test]
fn something_else_that_appears_during_the_copy_is_not_overwritten() {
    let temp = TempDir::new().unwrap();
    let to = create(temp.path()).unwrap();
    put_manifest(&*to, "{}", None);
    fs::write(temp.path().join("thesis.tex"), "important").unwrap();
    assert!(commit(to, "{}").is_err());
    assert_eq!(names(temp.path()), ["thesis.tex"]);
}

#[test]
fn a_newer_version_is_neither_read_nor_overwritten() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("version"), "Directory Transport Version: 1.3\n").unwrap();
    let expected = format!(
        "unsupported directory transport version \"Directory Transport Version: 1.3\\n\" at {}",
        temp.path().canonicalize().unwrap().display()
    );
    let opened = reference(temp.path()).open(&session(&[])).err().unwrap();
    assert_eq!(opened.message(), expected);
    assert_eq!(create(temp.path()).err().unwrap().message(), expected);
    fs::write(temp.path().join("version"), "x\n").unwrap();
    let opened = reference(temp.path()).open(&session(&[])).err().unwrap();
    assert_eq!(opened.message(), "invalid version file content: \"x\\n\"");
}

#[test]
fn a_missing_version_is_read_and_missing_files_are_named() {
    let temp = TempDir::new().unwrap();
    let from = reference(temp.path()).open(&session(&[])).unwrap();
    let error = from.manifest(None).unwrap_err();
    // Not ImageNotFound: scripts see exit code 1 for this, as with skopeo.
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let path = temp.path().join("manifest.json");
    let expected = format!("open {}: no such file or directory", path.display());
    assert_eq!(error.chain().join(": "), expected);
    let error = read_blob(&*from, &sha256(b"x"), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    fs::write(path, vec![b' '; 4 * 1024 * 1024 + 1]).unwrap();
    assert_eq!(from.manifest(None).unwrap_err().kind(), ErrorKind::Corrupt);
    fs::write(temp.path().join("signature-1"), "").unwrap();
    let error = from.signatures(None).unwrap_err();
    assert!(error.message().starts_with("parsing signature \""), "{error}");
}

#[test]
fn blobs_of_the_same_copy_are_reused_and_those_of_the_old_image_are_not() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), b"old", "{}", &[]);
    let to = create(temp.path()).unwrap();
    let wanted = |bytes: &[u8], size: Option<u64>| BlobWanted {
        blob: Descriptor::new("a/b", sha256(bytes), size),
        role: BlobRole::Layer(0),
        candidates: Vec::new(),
        probably_new: false,
    };
    assert_eq!(to.reuse(&wanted(b"old", Some(3))).unwrap(), None);
    put_blob(&*to, &sha256(b"new"), b"new");
    let found = to.reuse(&wanted(b"new", None)).unwrap();
    assert_eq!(found, Some(Descriptor::new("a/b", sha256(b"new"), 3)));
    assert_eq!(to.reuse(&wanted(b"new", Some(4))).unwrap(), None);
}

#[test]
fn of_two_writers_the_last_commit_wins_and_its_image_is_whole() {
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            scope.spawn(move || {
                for round in 0..10_u8 {
                    let blob = [writer, round];
                    write_image(path, &blob, &format!("{writer} {round}"), &[simple(writer)]);
                }
            });
        }
    });
    let manifest = fs::read_to_string(path.join("manifest.json")).unwrap();
    let (writer, round) = manifest.split_once(' ').unwrap();
    let blob: [u8; 2] = [writer.parse().unwrap(), round.parse().unwrap()];
    assert_eq!(fs::read(path.join(sha256(&blob).hex())).unwrap(), blob);
    assert_eq!(names(path).len(), 4);
    let from = reference(path).open(&session(&[])).unwrap();
    assert_eq!(from.signatures(None).unwrap(), [simple(blob[0])]);
}

/// Overwrites the image in `DIOLKOS_TEST_OVERWRITE` until somebody kills it.
#[test]
#[ignore = "the victim of the test below"]
fn overwrite_for_ever() {
    let Some(path) = std::env::var_os("DIOLKOS_TEST_OVERWRITE") else { return };
    for round in 0_u32.. {
        let signatures: Vec<_> = (0..=round % 3).map(|_| simple(round.to_le_bytes()[0])).collect();
        write_image(Path::new(&path), &round.to_le_bytes(), &round.to_string(), &signatures);
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_whole_image_with_its_signatures() {
    let temp = TempDir::new().unwrap();
    write_image(temp.path(), &[0; 4], "0", &[simple(0)]);
    for round in 0..25 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "overwrite_for_ever"])
            .env("DIOLKOS_TEST_OVERWRITE", temp.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(20_000 + round * 337));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let from = reference(temp.path()).open(&session(&[])).unwrap();
        let manifest = String::from_utf8(from.manifest(None).unwrap().bytes).unwrap();
        let image: u32 = manifest.parse().unwrap();
        let blob = image.to_le_bytes();
        assert_eq!(read_blob(&*from, &sha256(&blob), 0).unwrap(), blob);
        let signatures = from.signatures(None).unwrap();
        let own = signatures.iter().filter(|found| **found == simple(blob[0])).count();
        assert!(own > (image % 3) as usize, "{image} has {signatures:?}");
    }
    write_image(temp.path(), b"last", "{}", &[]);
    assert_eq!(names(temp.path()).len(), 3);
}

#[test]
fn anything_is_accepted_except_foreign_layers_and_contradictions() {
    let temp = TempDir::new().unwrap();
    let accepts = create(temp.path()).unwrap().accepts();
    assert!(accepts.manifest_types.is_empty() && accepts.signatures.is_ok());
    assert!(accepts.several_images && accepts.parallel_blobs && !accepts.foreign_layers);
    assert_eq!(accepts.layer_form, LayerForm::Preserve);
    let both = session(&[("compress", "true"), ("decompress", "true")]);
    let error = reference(temp.path()).create(&both).err().unwrap();
    assert_eq!(error.message(), "Cannot compress and decompress at the same time");
}

#[test]
fn deleting_is_refused_in_the_words_scripts_know() {
    let temp = TempDir::new().unwrap();
    let error = reference(temp.path()).delete(&session(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.message(), "Deleting images not implemented for dir: images");
}

#[test]
fn a_commit_without_manifest_is_refused() {
    let temp = TempDir::new().unwrap();
    let to = create(temp.path()).unwrap();
    assert_eq!(commit(to, "{}").unwrap_err().kind(), ErrorKind::Internal);
    assert!(names(temp.path()).is_empty());
}
