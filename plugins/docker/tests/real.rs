//! Against the registry that most people run: what it makes of our requests, and how many.

mod support;

use std::io::Write as _;

use diolkos_sdk::conformance::image::noise;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    BlobCandidate, BlobIncoming, Descriptor, ErrorKind, Location, RawManifest, TopLevel,
};
use support::real::{Registry, registry};
use support::{User, blob_of, digest_of, incoming, put, read, wanted};

/// An image of two layers.
struct Image {
    layers: [Vec<u8>; 2],
    config: Vec<u8>,
    manifest: RawManifest,
}

impl Image {
    fn new(seed: u64) -> Self {
        let layers = [noise(seed, 2_500_000), noise(seed + 1, 60_000)];
        let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"seed\":{seed}}}");
        let config = config.into_bytes();
        let descriptor = |bytes: &[u8], media_type: &str| {
            serde_json::to_value(Descriptor { media_type: media_type.into(), ..blob_of(bytes) })
                .unwrap()
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(&config, media_type::OCI_CONFIG),
            "layers": layers
                .iter()
                .map(|layer| descriptor(layer, media_type::OCI_LAYER_GZIP))
                .collect::<Vec<_>>(),
        });
        let manifest =
            RawManifest::new(serde_json::to_vec(&manifest).unwrap(), media_type::OCI_MANIFEST);
        Self { layers, config, manifest }
    }

    fn blobs(&self) -> [&[u8]; 3] {
        [&self.layers[0], &self.layers[1], &self.config]
    }

    /// Writes the image as the engine does: the base layer tells whether the rest is new.
    fn push(&self, user: &User, name: &str) {
        let destination = user.create(name);
        let base = destination.reuse(&wanted(self.blobs()[0], false)).unwrap();
        if base.is_some() {
            let current = destination.current().unwrap();
            if current.as_ref() == Some(&digest_of(&self.manifest.bytes)) {
                return;
            }
        } else {
            put(&*destination, self.blobs()[0], &incoming(self.blobs()[0])).unwrap();
        }
        for blob in &self.blobs()[1..] {
            if destination.reuse(&wanted(blob, base.is_none())).unwrap().is_none() {
                put(&*destination, blob, &incoming(blob)).unwrap();
            }
        }
        destination.put_manifest(&self.manifest, None).unwrap();
        let top = TopLevel {
            digest: digest_of(&self.manifest.bytes),
            media_type: self.manifest.media_type.clone(),
            size: self.manifest.bytes.len() as u64,
        };
        destination.commit(&top).unwrap();
    }
}

fn with_registry(test: impl FnOnce(&Registry, &User)) {
    if let Some(registry) = registry() {
        test(registry, &User::new());
    } else {
        let _ = writeln!(std::io::stderr(), "skipped: no registry to test against");
    }
}

#[test]
fn a_new_image_costs_eight_requests_and_one_that_is_there_two() {
    with_registry(|registry, user| {
        let image = Image::new(10);
        let name = format!("{}/count/app:1", registry.host);
        image.push(user, &name);
        let requests = registry.requests("count/app", 8);
        assert_eq!(
            requests,
            [
                "HEAD 404", "POST 202", "PUT 201", "POST 202", "PUT 201", "POST 202", "PUT 201",
                "PUT 201"
            ]
        );
        image.push(user, &name);
        assert_eq!(registry.requests("count/app", 10)[8..], ["HEAD 200", "HEAD 200"]);
    });
}

#[test]
fn an_image_comes_back_with_one_request_each() {
    with_registry(|registry, user| {
        let image = Image::new(20);
        let name = format!("{}/back:1", registry.host);
        image.push(user, &name);
        let before = registry.requests("back", 8).len();
        let source = user.open(&name);
        assert_eq!(source.manifest(None).unwrap(), image.manifest);
        for blob in image.blobs() {
            let (bytes, size) = read(&*source, &blob_of(blob), 0);
            assert!(bytes == blob);
            assert_eq!(size.unwrap(), Some(blob.len() as u64));
        }
        assert_eq!(registry.requests("back", before + 4)[before..], ["GET 200"; 4]);
        let (bytes, size) = read(&*source, &blob_of(&image.layers[0]), 1_000_000);
        assert!(bytes == image.layers[0][1_000_000..]);
        assert_eq!(size.unwrap(), Some(2_500_000));
    });
}

#[test]
fn blobs_are_shared_between_repositories_without_sending_them() {
    with_registry(|registry, user| {
        let image = Image::new(30);
        image.push(user, &format!("{}/from:1", registry.host));
        let destination = user.create(&format!("{}/to:1", registry.host));
        let mut wanted = wanted(&image.layers[0], true);
        wanted.candidates = vec![BlobCandidate {
            blob: blob_of(&image.layers[0]),
            location: Some(Location { scope: registry.host.clone(), place: "from".into() }),
        }];
        assert!(destination.reuse(&wanted).unwrap().is_some());
        // The repository has it now, and says so when an upload would begin.
        assert!(!put(&*destination, &image.layers[0], &incoming(&image.layers[0])).unwrap());
        assert_eq!(registry.requests("to", 2), ["POST 201", "POST 201"]);
    });
}

#[test]
fn blobs_of_unknown_digest_and_size_are_stored() {
    with_registry(|registry, user| {
        let destination = user.create(&format!("{}/unknown:1", registry.host));
        for size in [0, 1, 100_000, 3_000_000] {
            let blob = noise(40, size);
            let unknown = BlobIncoming { digest: None, size: None, ..incoming(&blob) };
            assert!(put(&*destination, &blob, &unknown).unwrap());
            assert!(destination.reuse(&wanted(&blob, false)).unwrap().is_some(), "{size}");
        }
    });
}

#[test]
fn a_dropped_writer_leaves_no_blob() {
    with_registry(|registry, user| {
        let destination = user.create(&format!("{}/dropped:1", registry.host));
        let blob = noise(50, 4_000_000);
        let mut writer = destination.put_blob(&incoming(&blob)).unwrap().unwrap();
        writer.write(&blob).unwrap();
        drop(writer);
        assert!(destination.reuse(&wanted(&blob, false)).unwrap().is_none());
        assert!(put(&*destination, &blob, &incoming(&blob)).unwrap());
    });
}

#[test]
fn tags_are_listed_and_deleted_images_are_gone() {
    with_registry(|registry, user| {
        let image = Image::new(60);
        for tag in ["1", "2", "latest"] {
            image.push(user, &format!("{}/tagged:{tag}", registry.host));
        }
        let other = Image::new(65);
        other.push(user, &format!("{}/tagged:other", registry.host));
        let reference = user.image(&format!("{}/tagged", registry.host));
        let mut tags = reference.tags(&user.session()).unwrap();
        tags.tags.sort();
        assert_eq!(tags.tags, ["1", "2", "latest", "other"]);
        reference.delete(&user.session()).unwrap();
        let error = reference.open(&user.session()).unwrap().manifest(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ImageNotFound);
        assert!(error.chain().join(": ").contains("manifest unknown"), "{error:?}");
        let kept = user.open(&format!("{}/tagged:other", registry.host)).manifest(None).unwrap();
        assert_eq!(kept, other.manifest);
    });
}

#[test]
fn an_unknown_repository_is_named_as_such() {
    with_registry(|registry, user| {
        let reference = user.image(&format!("{}/nobody/knows", registry.host));
        let error = reference.tags(&user.session()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let chain = error.chain().join(": ");
        assert!(chain.contains("repository name not known to registry"), "{chain}");
    });
}

#[test]
fn a_manifest_whose_blobs_are_missing_is_refused() {
    with_registry(|registry, user| {
        let destination = user.create(&format!("{}/incomplete:1", registry.host));
        let error = destination.put_manifest(&Image::new(70).manifest, None).unwrap_err();
        let chain = error.chain().join(": ");
        assert!(chain.starts_with("uploading manifest 1 to "), "{chain}");
        assert!(chain.contains("blob unknown to registry"), "{chain}");
    });
}
