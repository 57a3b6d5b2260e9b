//! Small real images, and how each kind of storage keeps them.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::{fs, iter};

use serde_json::{Value, json};

use crate::{Layer, Layout, Registry, noise, sha256};

/// The family of media types that an image uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OCI manifests and indexes.
    Oci,
    /// Docker schema 2 manifests and lists.
    Docker,
}

/// The compression of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// None.
    Plain,
    /// gzip.
    Gzip,
    /// gzip that makes nothing smaller, for content that cannot be.
    Stored,
    /// Zstandard.
    Zstd,
}

/// The platform of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: &'static str,
    /// Such as `arm`.
    pub architecture: &'static str,
    /// Such as `v7`.
    pub variant: Option<&'static str>,
}

impl Platform {
    /// The platform that most tests are about.
    pub const AMD64: Self = Self { os: "linux", architecture: "amd64", variant: None };
    /// A second one.
    pub const ARM64: Self = Self { os: "linux", architecture: "arm64", variant: Some("v8") };
    /// A third one.
    pub const ARM_V7: Self = Self { os: "linux", architecture: "arm", variant: Some("v7") };

    fn json(&self) -> Value {
        let mut value = json!({"os": self.os, "architecture": self.architecture});
        if let Some(variant) = self.variant {
            value["variant"] = variant.into();
        }
        value
    }
}

/// A layer and how it is packed.
pub struct LayerForm {
    /// The uncompressed archive.
    pub tar: Vec<u8>,
    /// Its compression in the image.
    pub packing: Packing,
}

impl LayerForm {
    /// Packs a layer.
    pub fn new(layer: Layer, packing: Packing) -> Self {
        Self { tar: layer.tar(), packing }
    }

    fn media_type(&self, format: Format) -> &'static str {
        match (format, self.packing) {
            (Format::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Packing::Gzip | Packing::Stored) => {
                "application/vnd.oci.image.layer.v1.tar+gzip"
            }
            (Format::Oci, Packing::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Format::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, Packing::Gzip | Packing::Stored) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            (Format::Docker, Packing::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        }
    }

    fn packed(&self) -> Vec<u8> {
        match self.packing {
            Packing::Plain => self.tar.clone(),
            Packing::Gzip | Packing::Stored => {
                let level = if self.packing == Packing::Gzip { 6 } else { 0 };
                let level = flate2::Compression::new(level);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder
                    .write_all(&self.tar)
                    .and_then(|()| encoder.finish())
                    .expect("a vector takes every byte")
            }
            Packing::Zstd => zstd::bulk::compress(&self.tar, 3).expect("a vector takes every byte"),
        }
    }
}

/// An image, or an index with its instances, and all blobs they refer to.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its family of media types.
    pub format: Format,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's bytes, whose form must survive every copy.
    pub manifest: Vec<u8>,
    /// The images of an index.
    pub instances: Vec<Image>,
    /// What an image is for; an index has none.
    pub platform: Option<Platform>,
    /// Configs and layers by digest.
    pub blobs: BTreeMap<String, Arc<Vec<u8>>>,
}

impl Image {
    /// Makes an image of layers.
    pub fn new(format: Format, platform: Platform, layers: &[LayerForm]) -> Self {
        let history = (1..=layers.len())
            .map(|n| json!({"created": "2024-05-06T07:08:09Z", "created_by": format!("step {n}")}))
            .collect();
        Self::with_history(format, platform, layers, history)
    }

    fn with_history(
        format: Format,
        platform: Platform,
        layers: &[LayerForm],
        history: Vec<Value>,
    ) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(&layer.tar)).collect();
        let mut config = platform.json();
        config["created"] = "2024-05-06T07:08:09.123456789Z".into();
        config["config"] = json!({
            "Env": ["PATH=/usr/bin:/bin", "LANG=C"],
            "Cmd": ["/bin/true"],
            "Labels": {"org.example.name": "diolkos-tests", "org.example.empty": ""},
        });
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        config["history"] = history.into();
        let config = config.to_string().into_bytes();
        let (manifest_type, config_type) = match format {
            Format::Oci => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
            ),
            Format::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
            ),
        };
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let config_descriptor = descriptor(config_type, &config);
        blobs.insert(sha256(&config), Arc::new(config));
        for layer in layers {
            let packed = layer.packed();
            descriptors.push(descriptor(layer.media_type(format), &packed));
            blobs.insert(sha256(&packed), Arc::new(packed));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config_descriptor,
            "layers": descriptors,
        });
        Self {
            format,
            media_type: manifest_type.to_owned(),
            manifest: written(format, &manifest),
            instances: Vec::new(),
            platform: Some(platform),
            blobs,
        }
    }

    /// Makes an image whose layers hold all that is hard to keep, one of them twice and one empty, and
    /// whose history has steps that made no layer.
    pub fn hard_things(format: Format, packing: Packing) -> Self {
        // cap_net_raw+ep, as `setcap` writes it.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let base = Layer::new()
            .directory("./")
            .directory("etc")
            .file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
            .file_with_xattr("etc/marked", "marked\n", "user.diolkos", &[0, 1, 254, 255])
            .file_with_xattr("etc/ping", "ping\n", "security.capability", &capability)
            .hard_link("etc/shadow-copy", "etc/passwd")
            .symlink("lib", "usr/lib")
            .symlink("absolute", "/etc/../etc/passwd")
            .fifo("etc/pipe")
            .device("null", 1, 3)
            .file("empty", "")
            .file("zeros", vec![0; 300_000])
            .directory("opaque")
            .file("opaque/old", vec![7; 300_000])
            .odd(b"na\xefve \xff\x01", 0o644, (1234, 70_000), 1_700_000_000)
            .odd(b"setuid", 0o4755, (0, 0), 0)
            .odd(b"sticky", 0o1644, (0, 3_000_000), -86_400)
            .odd(b"future", 0o600, (0, 0), 9_000_000_000)
            .file_changed_at("fraction", "1700000000.123456789");
        let twice = || Layer::new().file("twice", "the same\n");
        let top = Layer::new()
            .whiteout("etc/passwd")
            .whiteout("never/was")
            .directory("opaque")
            .file("opaque/new", "seen\n")
            .opaque("opaque")
            .program(&format!("opt/{}", "long-name-".repeat(18)), "#!/bin/sh\n");
        let layers = [base, twice(), Layer::new(), top, twice()];
        let layers = layers.map(|layer| LayerForm::new(layer, packing));
        let step = |n: usize| match n {
            // These made no layer.
            0 | 3 | 7 => json!({"created_by": format!("step {n}"), "empty_layer": true}),
            n => json!({"created": "2024-05-06T07:08:09Z", "created_by": format!("step {n}")}),
        };
        let history = (0..8).map(step).collect();
        Self::with_history(format, Platform::AMD64, &layers, history)
    }

    /// Makes a small image with two gzip layers, whose content depends on `seed`.
    pub fn small(format: Format, platform: Platform, seed: &str) -> Self {
        let base = Layer::new()
            .directory("etc")
            .file("etc/hostname", format!("{seed}-{}\n", platform.architecture))
            .file("etc/filler", seed.repeat(3000))
            .hard_link("etc/alias", "etc/filler")
            .symlink("bin", "usr/bin");
        let top = Layer::new().file("etc/top", format!("top of {seed}\n")).whiteout("etc/filler");
        let layers = [LayerForm::new(base, Packing::Gzip), LayerForm::new(top, Packing::Gzip)];
        Self::new(format, platform, &layers)
    }

    /// Makes an image for `linux/amd64` whose layers are noise of these sizes, in bytes.
    pub fn noise(sizes: &[usize], seed: u32) -> Self {
        let layers: Vec<_> = (0..)
            .zip(sizes)
            .map(|(n, size)| {
                let layer = Layer::new().file("noise", noise(*size, seed * 1000 + n));
                LayerForm::new(layer, Packing::Stored)
            })
            .collect();
        Self::new(Format::Oci, Platform::AMD64, &layers)
    }

    /// Returns the bytes that config and layers have together.
    pub fn size(&self) -> u64 {
        self.blobs.values().map(|blob| blob.len() as u64).sum()
    }

    /// Makes an index of images.
    pub fn index(format: Format, instances: Vec<Self>) -> Self {
        let media_type = match format {
            Format::Oci => "application/vnd.oci.image.index.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        let descriptors: Vec<_> = instances
            .iter()
            .map(|image| {
                let mut descriptor = descriptor(&image.media_type, &image.manifest);
                if let Some(platform) = &image.platform {
                    descriptor["platform"] = platform.json();
                }
                descriptor
            })
            .collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "manifests": descriptors});
        Self {
            format,
            media_type: media_type.to_owned(),
            manifest: written(format, &manifest),
            blobs: instances.iter().flat_map(|image| image.blobs.clone()).collect(),
            instances,
            platform: None,
        }
    }

    /// Reads an image or index of a layout, with all blobs.
    ///
    /// # Errors
    /// Any file that is missing or no valid JSON.
    pub fn read_layout(directory: &Path, tag: &str) -> io::Result<Self> {
        let layout = Layout::new(directory);
        Self::read_descriptor(&layout, &layout.tag(tag)?)
    }

    fn read_descriptor(layout: &Layout, descriptor: &Value) -> io::Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
        let manifest = layout.blob(&text(&descriptor["digest"]))?;
        let json: Value = serde_json::from_slice(&manifest)?;
        let media_type = text(&descriptor["mediaType"]);
        let format = if media_type.contains("docker") { Format::Docker } else { Format::Oci };
        let mut instances = Vec::new();
        for instance in json["manifests"].as_array().into_iter().flatten() {
            instances.push(Self::read_descriptor(layout, instance)?);
        }
        let mut blobs: BTreeMap<_, _> =
            instances.iter().flat_map(|image| image.blobs.clone()).collect();
        let layers = json["layers"].as_array().into_iter().flatten();
        for blob in layers.chain(json.get("config")) {
            let digest = text(&blob["digest"]);
            blobs.insert(digest.clone(), Arc::new(layout.blob(&digest)?));
        }
        Ok(Self { format, media_type, manifest, instances, platform: None, blobs })
    }

    /// Returns the manifest's digest.
    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Returns the manifest as JSON.
    ///
    /// # Panics
    /// When somebody replaced it with something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.manifest).expect("manifests are made as JSON")
    }

    /// Returns the digests of the layers.
    pub fn layers(&self) -> Vec<String> {
        let manifest = self.json();
        let layers = manifest["layers"].as_array().into_iter().flatten();
        layers.filter_map(|layer| Some(layer["digest"].as_str()?.to_owned())).collect()
    }

    /// Returns the digest of the config.
    pub fn config(&self) -> Option<String> {
        Some(self.json()["config"]["digest"].as_str()?.to_owned())
    }

    /// Returns this manifest and all instances' manifests, with their media types.
    pub fn manifests(&self) -> impl Iterator<Item = &Self> {
        iter::once(self).chain(&self.instances)
    }

    /// Adds the image to an OCI layout, which is made if there is none.
    pub fn write_layout(&self, directory: &Path, tag: &str) -> io::Result<()> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for (digest, content) in &self.blobs {
            fs::write(blobs.join(hex(digest)), content.as_slice())?;
        }
        for image in self.manifests() {
            fs::write(blobs.join(hex(&image.digest())), &image.manifest)?;
        }
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let path = directory.join("index.json");
        let mut index: Value = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(_) => json!({"schemaVersion": 2, "manifests": []}),
        };
        let mut entry = descriptor(&self.media_type, &self.manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        if let Some(manifests) = index["manifests"].as_array_mut() {
            manifests.push(entry);
        }
        fs::write(path, index.to_string())
    }

    /// Writes the image as `dir:` keeps it.
    pub fn write_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("version"), "Directory Transport Version: 1.1\n")?;
        fs::write(directory.join("manifest.json"), &self.manifest)?;
        for image in &self.instances {
            let name = format!("{}.manifest.json", hex(&image.digest()));
            fs::write(directory.join(name), &image.manifest)?;
        }
        for (digest, content) in &self.blobs {
            fs::write(directory.join(hex(digest)), content.as_slice())?;
        }
        Ok(())
    }

    /// Puts the image into a registry without any request.
    pub fn seed(&self, registry: &Registry, repository: &str, tag: &str) {
        for content in self.blobs.values() {
            registry.seed_blob(repository, content.to_vec());
        }
        for image in &self.instances {
            registry.seed_manifest(repository, None, &image.media_type, &image.manifest);
        }
        registry.seed_manifest(repository, Some(tag), &self.media_type, &self.manifest);
    }

    /// Compares what a registry has with this image, byte by byte.
    ///
    /// # Errors
    /// Says what is missing or different.
    pub fn check_in(&self, registry: &Registry, repository: &str, tag: &str) -> Result<(), String> {
        let top = registry.manifest(repository, tag).ok_or(format!("no tag {tag}"))?;
        let digest = self.digest();
        if top.digest != digest {
            return Err(format!("{tag} is {}, not {digest}", top.digest));
        }
        for image in self.manifests() {
            let digest = image.digest();
            let found = registry.manifest(repository, &digest);
            let found = found.ok_or(format!("no manifest {digest}"))?;
            if *found.bytes != image.manifest || found.media_type != image.media_type {
                return Err(format!("manifest {digest} differs"));
            }
        }
        for (digest, content) in &self.blobs {
            let found = registry.blob(repository, digest).ok_or(format!("no blob {digest}"))?;
            if found != *content {
                return Err(format!("blob {digest} differs"));
            }
        }
        Ok(())
    }
}

/// Returns a digest's hexadecimal digits.
fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(content), "size": content.len()})
}

/// Docker writes its manifests indented, and whoever reformats them changes their digest.
fn written(format: Format, manifest: &Value) -> Vec<u8> {
    match format {
        Format::Oci => manifest.to_string().into_bytes(),
        Format::Docker => serde_json::to_vec_pretty(manifest).expect("a JSON value can be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_image_is_found_whole_and_a_lost_blob_is_noticed() {
        let registry = Registry::start().unwrap();
        let images = [Platform::AMD64, Platform::ARM64]
            .map(|platform| Image::small(Format::Oci, platform, "a"));
        let index = Image::index(Format::Oci, images.to_vec());
        index.seed(&registry, "r", "1");
        index.check_in(&registry, "r", "1").unwrap();
        let lost = index.blobs.keys().next().unwrap();
        registry.lose_blob("r", lost);
        assert_eq!(index.check_in(&registry, "r", "1"), Err(format!("no blob {lost}")));
    }

    #[test]
    fn a_layout_is_read_as_it_was_written() {
        let images = [Platform::AMD64, Platform::ARM_V7]
            .map(|platform| Image::small(Format::Docker, platform, "a"));
        let index = Image::index(Format::Docker, images.to_vec());
        let directory = tempfile::tempdir().unwrap();
        index.write_layout(directory.path(), "a/b:c").unwrap();
        let read = Image::read_layout(directory.path(), "a/b:c").unwrap();
        assert_eq!((&read.manifest, &read.blobs), (&index.manifest, &index.blobs));
        assert_eq!(read.instances.len(), 2);
        assert!(Layout::new(directory.path()).unsound().unwrap().is_empty());
    }

    #[test]
    fn equal_seeds_make_equal_images() {
        let image = |seed| Image::small(Format::Docker, Platform::AMD64, seed).digest();
        assert_eq!(image("a"), image("a"));
        assert_ne!(image("a"), image("b"));
    }
}
