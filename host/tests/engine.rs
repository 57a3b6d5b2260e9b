//! The engine against transports that lie, break and stop: what it promises holds.
//!
//! The transport is the example plugin, linked in through the ABI, behind the conformance kit's
//! fault injection.

// Twice, so that each side has a memory of its own and no blob is there already.
#[path = "../../examples/memory/src/lib.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod far;
#[path = "../../examples/memory/src/lib.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod near;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use diolkos::compress::Compression;
use diolkos::copy::{
    self, CopyRequest, Endpoint, Event, LayerRequest, ManifestFormat, Progress, Report, Selection,
    Silent,
};
use diolkos::trust::Policy;
use diolkos_sdk::conformance::drive::{self, session};
use diolkos_sdk::conformance::faults::{Call, Fault, Faults, Rule};
use diolkos_sdk::conformance::image::{Content, Family, Image, Index, Recipe, noise, sha256, tar};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Blob, BlobReader, Descriptor, Digest, Error, ErrorKind, Host, ImageRef, Names, PlatformChoice,
    RawManifest, Result, Session, Signature, SignatureFormat, Source, Transport,
};

const OCI: Recipe = Recipe { family: Family::Oci, compressed: true };
const DOCKER: Recipe = Recipe { family: Family::Docker, compressed: true };

/// A name that no other test uses.
fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The two memories: copies go from far to near.
#[derive(Clone, Copy)]
enum Place {
    Far,
    Near,
}

fn transport(place: Place) -> Box<dyn Transport> {
    let plugin = match place {
        Place::Far => far::plugin,
        Place::Near => near::plugin,
    };
    diolkos_sdk::abi::linked("memory", plugin).unwrap().remove(0).1
}

fn reference(place: Place, name: &str) -> Box<dyn ImageRef> {
    transport(place).parse(name).unwrap()
}

/// One side of a copy, with faults.
fn endpoint(place: Place, name: &str, faults: &Faults) -> Endpoint {
    Endpoint {
        name: format!("memory:{name}"),
        transport: "memory".into(),
        reference: faults.wrap(transport(place)).parse(name).unwrap(),
        session: session(faults.host()),
    }
}

/// What a copy goes from and to: names, and a set of faults for each side.
struct Bench {
    from: String,
    to: String,
    source: Faults,
    destination: Faults,
}

impl Bench {
    fn new(source: Faults, destination: Faults) -> Self {
        Self { from: fresh("from"), to: fresh("to"), source, destination }
    }

    fn plain() -> Self {
        Self::new(Faults::new(), Faults::new())
    }

    fn with_image(self, image: &Image) -> Self {
        let reference = reference(Place::Far, &self.from);
        drive::push(&*reference, &session(Host::silent()), image, &[]).unwrap();
        self
    }

    fn with_index(self, index: &Index) -> Self {
        drive::push_index(&*reference(Place::Far, &self.from), &session(Host::silent()), index)
            .unwrap();
        self
    }

    fn copy(&self, request: &CopyRequest) -> Result<Report> {
        self.copy_with(request, &Silent)
    }

    fn copy_with(&self, request: &CopyRequest, progress: &dyn Progress) -> Result<Report> {
        copy::run(
            request,
            &endpoint(Place::Far, &self.from, &self.source),
            &endpoint(Place::Near, &self.to, &self.destination),
            &Policy::insecure_accept_anything(),
            progress,
        )
    }

    /// Takes what arrived as the source of another copy.
    fn onward(&self) -> Self {
        let next = Self::plain();
        copy::run(
            &all(),
            &endpoint(Place::Near, &self.to, &Faults::new()),
            &endpoint(Place::Far, &next.from, &Faults::new()),
            &Policy::insecure_accept_anything(),
            &Silent,
        )
        .unwrap();
        next
    }

    /// Removes what arrived, so that no later copy finds its blobs.
    fn forget(&self) {
        reference(Place::Near, &self.to).delete(&session(Host::silent())).unwrap();
    }

    fn pulled(&self) -> Result<drive::Pulled> {
        drive::pull(&*reference(Place::Near, &self.to), &session(Host::silent()), None)
    }

    fn assert_nothing_arrived(&self) {
        let error = self.pulled().expect_err("nothing may be visible after a failure");
        assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    }

    fn assert_arrived(&self, image: &Image) {
        let pulled = self.pulled().unwrap();
        assert_eq!(pulled.manifest.bytes, image.manifest.bytes);
        for content in image.contents() {
            let found = pulled.blobs.iter().find(|(d, _)| d.digest == content.descriptor.digest);
            assert!(found.is_some_and(|(_, bytes)| *bytes == content.bytes), "{:?}", content.role);
        }
    }
}

fn all() -> CopyRequest {
    CopyRequest { selection: Selection::All, ..CopyRequest::default() }
}

#[test]
fn a_copy_that_changes_nothing_keeps_every_byte() {
    for recipe in [OCI, DOCKER] {
        let image = Image::sample(recipe, 1);
        let bench = Bench::plain().with_image(&image);
        let report = bench.copy(&CopyRequest::default()).unwrap();
        assert_eq!(report.digest, image.digest());
        bench.assert_arrived(&image);
    }
}

#[test]
fn every_kind_of_wrong_bytes_fails_and_leaves_nothing() {
    let image = Image::sample(OCI, 2);
    let faults = [
        Rule::new(Call::Read, Fault::FlipsBit).times(1),
        Rule::new(Call::Read, Fault::Truncates).times(1),
        Rule::new(Call::Read, Fault::Appends).after(1),
        Rule::new(Call::Blob, Fault::WrongSize(1)),
        Rule::new(Call::Blob, Fault::WrongSize(-1)),
    ];
    let requests = [
        CopyRequest::default(),
        CopyRequest { layers: LayerRequest::Decompress, ..CopyRequest::default() },
        CopyRequest { format: Some(ManifestFormat::V2s2), ..CopyRequest::default() },
    ];
    for content in image.contents() {
        for rule in &faults {
            for request in &requests {
                let rule = rule.clone().of(&content.descriptor.digest);
                let bench =
                    Bench::new(Faults::new().with(rule.clone()), Faults::new()).with_image(&image);
                let Err(error) = bench.copy(request) else {
                    panic!("{rule:?} of {:?} passed with {request:?}", content.role);
                };
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{rule:?}: {error:?}");
                bench.assert_nothing_arrived();
            }
        }
    }
}

#[test]
fn a_manifest_that_is_not_the_one_asked_for_is_refused() {
    let index = Index::sample(OCI, 3);
    let other = Image::sample(OCI, 4).manifest;
    for fault in [Fault::FlipsBit, Fault::Truncates, Fault::Appends, Fault::OtherManifest(other)] {
        let rule = Rule::new(Call::Manifest, fault).after(1).times(1);
        let bench = Bench::new(Faults::new().with(rule), Faults::new()).with_index(&index);
        let error = bench.copy(&all()).expect_err("an instance has the wrong digest");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        bench.assert_nothing_arrived();
    }
}

#[test]
fn an_error_or_panic_at_any_call_is_an_error_and_leaves_nothing() {
    let image = Image::sample(OCI, 5);
    let source = [Call::Open, Call::Manifest, Call::Blob, Call::Read, Call::SourceSignatures];
    let destination = [
        Call::Create,
        Call::Reuse,
        Call::PutBlob,
        Call::Write,
        Call::Finish,
        Call::PutManifest,
        Call::Commit,
    ];
    for fault in [Fault::Fails(ErrorKind::Io), Fault::Panics] {
        for (call, is_source) in
            source.iter().map(|c| (*c, true)).chain(destination.iter().map(|c| (*c, false)))
        {
            for after in 0..3 {
                let faults = Faults::new().with(Rule::new(call, fault.clone()).after(after));
                let none = Faults::new();
                let bench = if is_source {
                    Bench::new(faults.clone(), none)
                } else {
                    Bench::new(none, faults.clone())
                }
                .with_image(&image);
                // Panics are caught at the boundary of a plugin; here the faults are outside it.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    bench.copy(&CopyRequest::default())
                }));
                if faults.count(call) <= after {
                    continue;
                }
                match result {
                    Ok(Ok(_)) => panic!("{call:?} failed and nobody noticed"),
                    Ok(Err(_)) | Err(_) => bench.assert_nothing_arrived(),
                }
            }
        }
    }
}

#[test]
fn a_failed_copy_leaves_the_old_image() {
    let (old, new) = (Image::sample(OCI, 6), Image::sample(OCI, 7));
    for call in [Call::Write, Call::Finish, Call::PutManifest, Call::Commit] {
        let bench = Bench::new(
            Faults::new(),
            Faults::new().with(Rule::new(call, Fault::Fails(ErrorKind::Io))),
        )
        .with_image(&new);
        drive::push(&*reference(Place::Near, &bench.to), &session(Host::silent()), &old, &[])
            .unwrap();
        bench.copy(&CopyRequest::default()).unwrap_err();
        bench.assert_arrived(&old);
    }
}

#[test]
fn a_commit_that_met_with_somebody_elses_changes_is_tried_again_a_few_times() {
    for (conflicts, works) in [(1, true), (3, true), (4, false)] {
        let image = Image::sample(OCI, 300 + conflicts);
        let conflict = Rule::new(Call::Commit, Fault::Fails(ErrorKind::Conflict));
        let faults = Faults::new().with(conflict.times(conflicts.into()));
        let bench = Bench::new(Faults::new(), faults.clone()).with_image(&image);
        let result = bench.copy(&CopyRequest::default());
        assert_eq!(result.is_ok(), works, "{conflicts}: {result:?}");
        if works {
            bench.assert_arrived(&image);
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Conflict);
            bench.assert_nothing_arrived();
        }
    }
    // Before the commit it is no such thing.
    let faults =
        Faults::new().with(Rule::new(Call::Finish, Fault::Fails(ErrorKind::Conflict)).times(1));
    let bench = Bench::new(Faults::new(), faults).with_image(&Image::sample(OCI, 310));
    assert_eq!(bench.copy(&CopyRequest::default()).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn passing_failures_are_tried_again_as_often_as_the_user_wants() {
    let request =
        CopyRequest { retry_times: 2, retry_delay: Some(Duration::ZERO), ..CopyRequest::default() };
    let calls =
        [Call::Blob, Call::Manifest, Call::PutBlob, Call::Write, Call::PutManifest, Call::Finish];
    for (seed, call) in (100..).step_by(2).zip(calls) {
        for (times, works) in [(2, true), (1000, false)] {
            let image = Image::sample(OCI, if works { seed } else { seed + 1 });
            let faults = Faults::new()
                .with(Rule::new(call, Fault::Fails(ErrorKind::Unavailable)).times(times));
            let bench = match call {
                Call::Blob | Call::Manifest => Bench::new(faults, Faults::new()),
                _ => Bench::new(Faults::new(), faults),
            }
            .with_image(&image);
            let result = bench.copy(&request);
            assert_eq!(result.is_ok(), works, "{call:?} {times}: {result:?}");
            if works {
                bench.assert_arrived(&image);
            } else {
                bench.assert_nothing_arrived();
            }
        }
    }
}

#[test]
fn a_blob_that_breaks_off_is_taken_up_where_it_stopped() {
    let image = Image::sample(OCI, 9);
    let large = &image.layers[2].descriptor.digest;
    let faults = Faults::new().with(
        Rule::new(Call::Read, Fault::Fails(ErrorKind::Unavailable)).of(large).after(1).times(1),
    );
    let bench = Bench::new(faults.clone(), Faults::new()).with_image(&image);
    let request = CopyRequest { retry_delay: Some(Duration::ZERO), ..CopyRequest::default() };
    bench.copy(&request).unwrap();
    bench.assert_arrived(&image);
    assert_eq!(faults.count(Call::Blob), 5, "four blobs, and one of them a second time");
}

#[test]
fn a_blob_that_breaks_off_again_and_again_is_not_waited_for_while_it_goes_on() {
    let layer = Content::layer(OCI, &tar("file", &noise(22, 6_000_000)));
    let image = Image::of_layers(Family::Oci, vec![layer]);
    let large = &image.layers[0].descriptor.digest;
    // A break after every sixth buffer; the delay between tries is a second or more.
    let mut faults = Faults::new();
    for number in 1..4 {
        let rule = Rule::new(Call::Read, Fault::Fails(ErrorKind::Unavailable));
        faults = faults.with(rule.of(large).after(number * 6).times(1));
    }
    let bench = Bench::new(faults.clone(), Faults::new()).with_image(&image);
    let begun = Instant::now();
    bench.copy(&CopyRequest::default()).unwrap();
    // Three delays of a second each would have shown.
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert_eq!(faults.count(Call::Blob), 5, "two blobs, and one of them three times more");
    bench.assert_arrived(&image);
}

/// A source whose layers never end, until the copy is stopped.
struct Stalls {
    inner: Box<dyn Source>,
    host: Host,
}

impl Source for Stalls {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        self.inner.manifest(instance)
    }
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        if blob.media_type == media_type::OCI_CONFIG {
            return self.inner.blob(blob, from);
        }
        let (host, given) = (self.host.clone(), 0);
        Ok(Blob { size: blob.size, reader: Box::new(StallingReader { host, given }) })
    }
}

struct StallingReader {
    host: Host,
    given: u64,
}

impl BlobReader for StallingReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.given < 300_000 {
            self.given += buffer.len() as u64;
            return Ok(buffer.len());
        }
        for _ in 0..2000 {
            self.host.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Error::new(ErrorKind::Internal, "nobody stopped the copy"))
    }
}

struct StallingImage(Box<dyn ImageRef>);

impl ImageRef for StallingImage {
    fn names(&self) -> Names {
        self.0.names()
    }
    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(Stalls { inner: self.0.open(session)?, host: session.host.clone() }))
    }
}

#[test]
fn a_destination_that_fails_is_not_held_up_by_a_source_that_stalls() {
    let layer = |seed| Content::layer(OCI, &tar("file", &noise(seed, 2_000_000)));
    let image = Image::of_layers(Family::Oci, vec![layer(23), layer(24)]);
    for parallel in [1, 6] {
        let full = Rule::new(Call::Write, Fault::Fails(ErrorKind::Io));
        let bench = Bench::new(Faults::new(), Faults::new().with(full)).with_image(&image);
        let mut source = endpoint(Place::Far, &bench.from, &bench.source);
        source.reference = Box::new(StallingImage(source.reference));
        let begun = Instant::now();
        let error = copy::run(
            &CopyRequest { parallel_copies: Some(parallel), ..CopyRequest::default() },
            &source,
            &endpoint(Place::Near, &bench.to, &bench.destination),
            &Policy::insecure_accept_anything(),
            &Silent,
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        bench.assert_nothing_arrived();
    }
}

#[test]
fn a_config_that_is_also_a_layer_is_kept_although_the_layer_is_compressed() {
    let plain = Recipe { family: Family::Oci, compressed: false };
    let mut image = Image::of_layers(Family::Oci, vec![Content::layer(plain, b"not a tar")]);
    let layer = image.layers[0].clone();
    let text = String::from_utf8(image.manifest.bytes.clone()).unwrap();
    let config = &image.config.descriptor;
    let text = text
        .replace(config.digest.as_str(), layer.descriptor.digest.as_str())
        .replace(&format!("\"size\":{}", config.size.unwrap()), "\"size\":9");
    image.manifest = RawManifest::new(text.into_bytes(), media_type::OCI_MANIFEST);
    image.config = Content { role: image.config.role, ..layer.clone() };
    let bench = Bench::plain().with_image(&image);
    let request = CopyRequest { layers: LayerRequest::Compress, ..CopyRequest::default() };
    bench.copy(&request).unwrap();
    let pulled = bench.pulled().unwrap();
    assert_eq!(pulled.blobs[0].1, layer.bytes);
    assert_ne!(pulled.blobs[1].1, layer.bytes);
}

#[test]
fn cancellation_at_any_call_ends_the_copy_and_leaves_nothing() {
    let image = Image::sample(OCI, 10);
    for call in [Call::Manifest, Call::Blob, Call::Read, Call::Write, Call::PutManifest] {
        // One set of faults for both sides: the user stops both.
        let faults = Faults::new().with(Rule::new(call, Fault::Cancels));
        let bench = Bench::new(faults.clone(), faults).with_image(&image);
        let error = bench.copy(&CopyRequest::default()).expect_err("it was stopped");
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{call:?}: {error:?}");
        bench.assert_nothing_arrived();
    }
}

#[test]
fn an_index_arrives_whole_or_as_the_image_of_one_platform() {
    let index = Index::sample(OCI, 11);
    let bench = Bench::plain().with_index(&index);
    let report = bench.copy(&all()).unwrap();
    assert_eq!(report.digest, index.digest());
    for image in &index.instances {
        let pulled = drive::pull(
            &*reference(Place::Near, &bench.to),
            &session(Host::silent()),
            Some(&image.digest()),
        )
        .unwrap();
        assert_eq!(pulled.manifest.bytes, image.manifest.bytes);
    }

    let arm = PlatformChoice {
        os: Some("linux".into()),
        architecture: Some("arm64".into()),
        variant: None,
    };
    let bench = Bench::plain().with_index(&index);
    let request = CopyRequest { platform: arm, ..CopyRequest::default() };
    bench.copy(&request).unwrap();
    bench.assert_arrived(&index.instances[1]);

    let bench = Bench::plain().with_index(&index);
    let request = CopyRequest { selection: Selection::IndexOnly, ..CopyRequest::default() };
    assert_eq!(bench.copy(&request).unwrap().digest, index.digest());
    let missing = index.instances[0].digest();
    let instance =
        drive::pull(&*reference(Place::Near, &bench.to), &session(Host::silent()), Some(&missing));
    assert_eq!(instance.unwrap_err().kind(), ErrorKind::ImageNotFound);
}

#[test]
fn a_platform_that_an_index_lacks_is_named() {
    let bench = Bench::plain().with_index(&Index::sample(OCI, 12));
    let platform = PlatformChoice {
        os: Some("linux".into()),
        architecture: Some("riscv64".into()),
        variant: None,
    };
    let error = bench.copy(&CopyRequest { platform, ..CopyRequest::default() }).unwrap_err();
    let text = error.chain().join(": ");
    assert!(text.contains("choosing an image from manifest list"), "{text}");
    assert!(text.contains("no image found in image index for architecture \"riscv64\""), "{text}");
    bench.assert_nothing_arrived();
}

#[test]
fn formats_convert_there_and_back_to_the_same_bytes() {
    let image = Image::sample(DOCKER, 13);
    let to_oci = CopyRequest { format: Some(ManifestFormat::Oci), ..CopyRequest::default() };
    let to_docker = CopyRequest { format: Some(ManifestFormat::V2s2), ..CopyRequest::default() };
    let bench = Bench::plain().with_image(&image);
    let first = bench.copy(&to_oci).unwrap();
    assert_eq!(bench.pulled().unwrap().manifest.media_type, media_type::OCI_MANIFEST);
    let bench = bench.onward();
    bench.copy(&to_docker).unwrap();
    assert_eq!(bench.pulled().unwrap().manifest.media_type, media_type::DOCKER_V2S2);
    let again = bench.onward().copy(&to_oci).unwrap();
    assert_eq!(again.digest, first.digest);
    assert_eq!(again.manifest.bytes, first.manifest.bytes);
}

#[test]
fn layers_are_compressed_and_decompressed_with_manifests_that_say_so() {
    let image = Image::sample(OCI, 14);
    let inflate = CopyRequest { layers: LayerRequest::Decompress, ..CopyRequest::default() };
    let bench = Bench::plain().with_image(&image);
    bench.copy(&inflate).unwrap();
    let plain = bench.pulled().unwrap();
    for (index, layer) in image.layers.iter().enumerate() {
        let (descriptor, _) = &plain.blobs[index + 1];
        assert_eq!(Some(&descriptor.digest), layer.diff_id.as_ref());
        assert_eq!(descriptor.media_type, media_type::OCI_LAYER);
    }
    let bench = {
        let next = bench.onward();
        bench.forget();
        next
    };
    for (format, expected) in [
        (Compression::Gzip, media_type::OCI_LAYER_GZIP),
        (Compression::Zstd, media_type::OCI_LAYER_ZSTD),
    ] {
        let request = CopyRequest {
            layers: LayerRequest::Compress,
            compression: Some(format),
            ..CopyRequest::default()
        };
        bench.copy(&request).unwrap();
        let packed = bench.pulled().unwrap();
        bench.forget();
        for (descriptor, bytes) in &packed.blobs[1..] {
            assert_eq!(descriptor.media_type, expected);
            assert_eq!(Compression::detect(bytes), format);
        }
        // Packed again, the same content has the same digests.
        assert_eq!(bench.copy(&request).unwrap().digest, sha256(&packed.manifest.bytes));
        bench.forget();
    }
}

#[test]
fn preserve_digests_fails_rather_than_convert() {
    let image = Image::sample(OCI, 15);
    let bench = Bench::plain().with_image(&image);
    let request = CopyRequest {
        preserve_digests: true,
        format: Some(ManifestFormat::V2s2),
        layers: LayerRequest::Decompress,
        ..CopyRequest::default()
    };
    // As skopeo: a manifest that may not change stays, whatever else was asked for.
    assert_eq!(bench.copy(&request).unwrap().digest, image.digest());
    bench.assert_arrived(&image);
}

#[test]
fn signatures_go_along_and_keep_the_manifest_as_it_is() {
    let image = Image::sample(OCI, 16);
    let signatures =
        [Signature { format: SignatureFormat::SimpleSigning, bytes: b"\x89signed".to_vec() }];
    let bench = Bench::plain();
    drive::push(
        &*reference(Place::Far, &bench.from),
        &session(Host::silent()),
        &image,
        &signatures,
    )
    .unwrap();
    let request = CopyRequest { layers: LayerRequest::Decompress, ..CopyRequest::default() };
    bench.copy(&request).unwrap();
    bench.assert_arrived(&image);
    assert_eq!(bench.pulled().unwrap().signatures, signatures);

    let bench = Bench { from: bench.from.clone(), ..Bench::plain() };
    bench.copy(&CopyRequest { remove_signatures: true, ..CopyRequest::default() }).unwrap();
    assert!(bench.pulled().unwrap().signatures.is_empty());
}

#[test]
fn a_rejected_policy_moves_no_blob() {
    let bench = Bench::plain().with_image(&Image::sample(OCI, 17));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.json");
    std::fs::write(&file, r#"{"default":[{"type":"reject"}]}"#).unwrap();
    let error = copy::run(
        &CopyRequest::default(),
        &endpoint(Place::Far, &bench.from, &bench.source),
        &endpoint(Place::Near, &bench.to, &bench.destination),
        &Policy::load(Some(&file)).unwrap(),
        &Silent,
    )
    .unwrap_err();
    let text = error.chain().join(": ");
    assert!(text.contains("Source image rejected: "), "{text}");
    assert_eq!(bench.source.count(Call::Blob), 0);
    assert_eq!(bench.destination.count(Call::Create), 0);
    bench.assert_nothing_arrived();
}

#[test]
fn blobs_that_are_there_are_not_read_again() {
    let image = Image::sample(OCI, 18);
    let bench = Bench::plain().with_image(&image);
    bench.copy(&CopyRequest::default()).unwrap();
    bench.source.clear();
    let before = bench.source.count(Call::Blob);
    bench.copy(&CopyRequest::default()).unwrap();
    assert_eq!(bench.source.count(Call::Blob), before, "all blobs were reused");
}

#[test]
fn a_layer_that_comes_twice_and_is_there_already_is_named_twice() {
    let sample = Image::sample(OCI, 23);
    let before = Bench::plain().with_image(&sample);
    before.copy(&CopyRequest::default()).unwrap();
    let [first, second, _] = &sample.layers[..] else { panic!("a sample has three layers") };
    let layers = [first, first, second, first].into_iter().cloned().collect();
    let twice = Image::of_layers(Family::Oci, layers);
    let bench = Bench::plain().with_image(&twice);
    bench.copy(&CopyRequest::default()).unwrap();
    bench.assert_arrived(&twice);
}

#[test]
fn the_plan_says_what_happens_and_changes_nothing() {
    let image = Image::sample(DOCKER, 19);
    let bench = Bench::plain().with_image(&image);
    let request = CopyRequest { format: Some(ManifestFormat::Oci), ..CopyRequest::default() };
    let plan = copy::plan(
        &request,
        &endpoint(Place::Far, &bench.from, &bench.source),
        &endpoint(Place::Near, &bench.to, &bench.destination),
        &Policy::insecure_accept_anything(),
    )
    .unwrap();
    assert_eq!(plan.images[0].written_as, media_type::OCI_MANIFEST);
    let config = plan.images[0].blobs.last().unwrap();
    assert_eq!((&*config.role, &*config.action), ("config", "convert"));
    assert_eq!(bench.source.count(Call::Blob), 0);
    assert_eq!(bench.destination.count(Call::PutBlob), 0);
    bench.assert_nothing_arrived();
    bench.copy(&request).unwrap();
}

#[test]
fn events_tell_of_every_blob_once() {
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);
    impl Progress for Recorder {
        fn event(&self, event: &Event) {
            let text = match event {
                Event::BlobDone { role, .. } => format!("{role:?}"),
                Event::Done { .. } => "done".into(),
                _ => return,
            };
            self.0.lock().unwrap().push(text);
        }
    }
    let image = Image::sample(OCI, 20);
    let recorder = Recorder::default();
    Bench::plain().with_image(&image).copy_with(&CopyRequest::default(), &recorder).unwrap();
    let mut seen = recorder.0.into_inner().unwrap();
    assert_eq!(seen.pop().unwrap(), "done");
    seen.sort();
    assert_eq!(seen, ["Config", "Layer(0)", "Layer(1)", "Layer(2)"]);
}

#[test]
fn manifests_that_are_too_large_or_too_deep_are_refused() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let million = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","layers":[{}"#,
        media_type::OCI_MANIFEST,
        "{},".repeat(1_000_000)
    );
    for text in [deep, million, String::new(), "null".into(), "{}".into(), " ".repeat(5 << 20)] {
        let manifest = RawManifest::new(text.into_bytes(), media_type::OCI_MANIFEST);
        let rule = Rule::new(Call::Manifest, Fault::OtherManifest(manifest));
        let bench =
            Bench::new(Faults::new().with(rule), Faults::new()).with_image(&Image::sample(OCI, 21));
        let error: Error = bench.copy(&CopyRequest::default()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error:?}");
        bench.assert_nothing_arrived();
    }
}

#[test]
fn content_that_a_descriptor_carries_is_not_fetched() {
    let image = Image::sample(OCI, 40);
    let config = String::from_utf8(image.config.bytes.clone()).unwrap();
    let carried = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{},"data":"{}"}},"layers":[]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        image.config.descriptor.digest,
        config.len(),
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &config),
    );
    let manifest = RawManifest::new(carried.clone().into_bytes(), media_type::OCI_MANIFEST);
    let rule = Rule::new(Call::Manifest, Fault::OtherManifest(manifest));
    let bench = Bench::new(Faults::new().with(rule), Faults::new()).with_image(&image);
    bench.copy(&CopyRequest::default()).unwrap();
    assert_eq!(bench.source.count(Call::Blob), 0);
    let pulled = bench.pulled().unwrap();
    assert_eq!(pulled.manifest.bytes, carried.as_bytes());
    assert_eq!(pulled.blobs[0].1, config.as_bytes());
}
