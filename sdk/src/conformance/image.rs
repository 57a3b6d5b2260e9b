//! Images made up for tests: real tar layers, real configs, manifests of either family.
//!
//! The same seed gives the same bytes everywhere, so that two runs, two processes and two ways
//! through the ABI can be compared. Nothing here is read from a file.

#![allow(clippy::missing_panics_doc, reason = "what is expected here always holds")]

use std::fmt::Write as _;

use crate::model::media_type;
use crate::{
    Accepts, Algorithm, BlobIncoming, BlobRole, BlobSums, Descriptor, Destination, Digest,
    LayerForm, RawManifest, TopLevel, unpacked_layers,
};

/// Returns the SHA-256 digest of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    let hash = <sha2::Sha256 as sha2::Digest>::digest(bytes);
    Digest::from_hash(Algorithm::Sha256, &hash).expect("the hash has the algorithm's length")
}

/// Returns the SHA-512 digest of some bytes.
pub fn sha512(bytes: &[u8]) -> Digest {
    let hash = <sha2::Sha512 as sha2::Digest>::digest(bytes);
    Digest::from_hash(Algorithm::Sha512, &hash).expect("the hash has the algorithm's length")
}

/// Returns bytes that look random and depend on nothing but the seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    // Never 0, where the generator would stay, and spread so that near seeds start far apart.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The family of media types an image is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OCI image-spec.
    Oci,
    /// Docker schema 2.
    Docker,
}

impl Family {
    /// Returns the media type of this family's manifests.
    pub fn manifest_type(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_MANIFEST,
            Self::Docker => media_type::DOCKER_V2S2,
        }
    }

    /// Returns the media type of this family's indexes.
    pub fn index_type(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_INDEX,
            Self::Docker => media_type::DOCKER_LIST,
        }
    }

    fn config_type(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }

    fn layer_type(self, compressed: bool) -> &'static str {
        match (self, compressed) {
            (Self::Oci, true) => media_type::OCI_LAYER_GZIP,
            (Self::Oci, false) => media_type::OCI_LAYER,
            (Self::Docker, true) => media_type::DOCKER_LAYER_GZIP,
            (Self::Docker, false) => media_type::DOCKER_LAYER,
        }
    }
}

/// How images are made: their family, and whether layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The family of media types.
    pub family: Family,
    /// Whether layers are gzip; otherwise plain tar.
    pub compressed: bool,
}

impl Recipe {
    /// Returns the recipe of images that a destination takes as they are, OCI if it may be.
    pub fn for_destination(accepts: &Accepts) -> Option<Self> {
        [Family::Oci, Family::Docker]
            .into_iter()
            .find(|family| takes(accepts, family.manifest_type()))
            .map(|family| Self::of_family(family, accepts))
    }

    /// Returns the recipe of images of one family, with layers as the destination keeps them.
    pub fn of_family(family: Family, accepts: &Accepts) -> Self {
        Self { family, compressed: accepts.layer_form != LayerForm::Decompress }
    }
}

/// Tells whether a destination takes manifests of a type.
pub fn takes(accepts: &Accepts, manifest_type: &str) -> bool {
    accepts.manifest_types.is_empty() || accepts.manifest_types.iter().any(|t| t == manifest_type)
}

/// A blob with all that is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What a manifest says about it.
    pub descriptor: Descriptor,
    /// Its bytes as stored.
    pub bytes: Vec<u8>,
    /// What it is in its image.
    pub role: BlobRole,
    /// Digest of the uncompressed layer; `None` for configs.
    pub diff_id: Option<Digest>,
    /// The uncompressed layer, where the bytes are compressed.
    pub unpacked: Option<Vec<u8>>,
}

impl Content {
    /// Makes a layer from a tar archive.
    pub fn layer(recipe: Recipe, tar: &[u8]) -> Self {
        let bytes = if recipe.compressed { gzip(tar) } else { tar.to_vec() };
        let media_type = recipe.family.layer_type(recipe.compressed);
        let unpacked = recipe.compressed.then(|| tar.to_vec());
        Self { diff_id: Some(sha256(tar)), unpacked, ..Self::of_type(media_type, bytes) }
    }

    /// Makes a layer of any bytes and type.
    pub fn of_type(media_type: &str, bytes: Vec<u8>) -> Self {
        let size = u64::try_from(bytes.len()).expect("a length fits u64");
        let descriptor = Descriptor::new(media_type, sha256(&bytes), size);
        let diff_id = Some(sha256(&bytes));
        Self { descriptor, diff_id, bytes, role: BlobRole::Layer(0), unpacked: None }
    }

    /// Returns what a host writes of this blob: a layer uncompressed, where the destination wants it
    /// so ([`unpacked_layers`]).
    pub fn written(&self, destination: &dyn Destination) -> &[u8] {
        match &self.unpacked {
            Some(plain) if unpacked_layers::is_wanted(destination) => plain,
            _ => &self.bytes,
        }
    }

    /// Returns what a host says before it writes this blob, all of it known.
    pub fn incoming(&self) -> BlobIncoming {
        BlobIncoming {
            digest: Some(self.descriptor.digest.clone()),
            size: self.descriptor.size,
            media_type: self.descriptor.media_type.clone(),
            role: self.role,
            locations: Vec::new(),
        }
    }

    /// Returns what a host says after it has written this blob.
    pub fn sums(&self) -> BlobSums {
        BlobSums {
            digest: self.descriptor.digest.clone(),
            size: u64::try_from(self.bytes.len()).expect("a length fits u64"),
            diff_id: self.diff_id.clone(),
        }
    }
}

/// An image of one platform: manifest, config and layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The manifest.
    pub manifest: RawManifest,
    /// The config.
    pub config: Content,
    /// The layers from the bottom.
    pub layers: Vec<Content>,
}

impl Image {
    /// Makes an image of three layers: a small one, one of 70 kB and one beyond a host's buffer.
    pub fn sample(recipe: Recipe, seed: u32) -> Self {
        let layer = |index: u64, length: usize| {
            let name = format!("file-{seed}-{index}");
            Content::layer(recipe, &tar(&name, &noise(u64::from(seed) * 16 + index, length)))
        };
        Self::of_layers(recipe.family, vec![layer(0, 11), layer(1, 70_000), layer(2, 300_001)])
    }

    /// Makes an image of given layers, for linux/amd64.
    pub fn of_layers(family: Family, layers: Vec<Content>) -> Self {
        Self::of_platform(family, layers, "amd64")
    }

    fn of_platform(family: Family, mut layers: Vec<Content>, architecture: &str) -> Self {
        for (index, layer) in (0..).zip(&mut layers) {
            layer.role = BlobRole::Layer(index);
        }
        let mut config = Content::of_type(family.config_type(), config_of(&layers, architecture));
        config.role = BlobRole::Config;
        config.diff_id = None;
        let manifest = manifest_of(family, &config, &layers);
        Self { manifest, config, layers }
    }

    /// Returns the manifest's digest, which is the image's.
    pub fn digest(&self) -> Digest {
        sha256(&self.manifest.bytes)
    }

    /// Iterates over layers and config, in the order in which a host writes them.
    pub fn contents(&self) -> impl Iterator<Item = &Content> {
        self.layers.iter().chain([&self.config])
    }

    /// Returns what a destination is told at its commit.
    pub fn top(&self) -> TopLevel {
        top_of(&self.manifest)
    }
}

/// An index with its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The index itself.
    pub manifest: RawManifest,
    /// The images it lists.
    pub instances: Vec<Image>,
}

impl Index {
    /// Makes an index of two platforms that share their lowest layer.
    pub fn sample(recipe: Recipe, seed: u32) -> Self {
        let layer = |index: u64| {
            let name = format!("file-{seed}-{index}");
            Content::layer(recipe, &tar(&name, &noise(u64::from(seed) * 16 + index, 5000)))
        };
        let family = recipe.family;
        let instances = vec![
            Image::of_platform(family, vec![layer(0), layer(1)], "amd64"),
            Image::of_platform(family, vec![layer(0), layer(2)], "arm64"),
        ];
        let entries: Vec<String> = ["amd64", "arm64"]
            .iter()
            .zip(&instances)
            .map(|(architecture, image)| {
                format!(
                    r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#,
                    image.manifest.media_type,
                    image.digest(),
                    image.manifest.bytes.len()
                )
            })
            .collect();
        let media_type = family.index_type();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{}]}}"#,
            entries.join(",")
        );
        Self { manifest: RawManifest::new(text.into_bytes(), media_type), instances }
    }

    /// Returns the index's digest.
    pub fn digest(&self) -> Digest {
        sha256(&self.manifest.bytes)
    }

    /// Returns what a destination is told at its commit.
    pub fn top(&self) -> TopLevel {
        top_of(&self.manifest)
    }
}

fn top_of(manifest: &RawManifest) -> TopLevel {
    TopLevel {
        digest: sha256(&manifest.bytes),
        media_type: manifest.media_type.clone(),
        size: u64::try_from(manifest.bytes.len()).expect("a length fits u64"),
    }
}

fn config_of(layers: &[Content], architecture: &str) -> Vec<u8> {
    let quoted = |layer: &Content| {
        format!("\"{}\"", layer.diff_id.as_ref().unwrap_or(&layer.descriptor.digest))
    };
    let diff_ids: Vec<String> = layers.iter().map(quoted).collect();
    let history: Vec<String> = (0..layers.len())
        .map(|index| format!(r#"{{"created":"2024-05-01T00:00:00Z","created_by":"step {index}"}}"#))
        .collect();
    format!(
        r#"{{"created":"2024-05-01T00:00:00Z","architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["/bin/true"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[{}]}}"#,
        diff_ids.join(","),
        history.join(",")
    )
    .into_bytes()
}

fn manifest_of(family: Family, config: &Content, layers: &[Content]) -> RawManifest {
    let media_type = family.manifest_type();
    let mut text = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":"#);
    text.push_str(&json(&config.descriptor));
    text.push_str(r#","layers":["#);
    for (index, layer) in layers.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}{}", json(&layer.descriptor)).expect("writing to a string works");
    }
    text.push_str("]}");
    RawManifest::new(text.into_bytes(), media_type)
}

fn json(descriptor: &Descriptor) -> String {
    serde_json::to_string(descriptor).expect("a descriptor is plain data")
}

/// Makes a tar archive of one file.
pub fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    let mut field = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    field(100, "0000644");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", content.len()));
    field(136, "14614301600");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

/// Wraps bytes as gzip without compressing them, which needs no library.
///
/// # Source
/// RFC 1952; RFC 1951 section 3.2.4, "Non-compressed blocks".
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut result = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        result.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).expect("a block has at most 65535 bytes");
        result.push(u8::from(blocks.peek().is_none()));
        result.extend_from_slice(&length.to_le_bytes());
        result.extend_from_slice(&(!length).to_le_bytes());
        result.extend_from_slice(block);
    }
    result.extend_from_slice(&crc32(bytes).to_le_bytes());
    let length = bytes.len() & 0xffff_ffff;
    result.extend_from_slice(&u32::try_from(length).expect("32 bits were kept").to_le_bytes());
    result
}

fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            #[allow(clippy::cast_possible_truncation, reason = "the index is below 256")]
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes
        .iter()
        .fold(!0, |crc: u32, byte| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(
            sha256(b"").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn gzip_and_tar_programs_read_what_is_made_here() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let content = noise(1, 150_000);
        let mut child = Command::new("tar")
            .args(["-xzOf", "-", "some-name"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar is installed");
        let input = gzip(&tar("some-name", &content));
        let mut stdin = child.stdin.take().expect("it is piped");
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success() && output.stdout == content);
    }

    #[test]
    fn the_same_seed_gives_the_same_image() {
        let recipe = Recipe { family: Family::Docker, compressed: true };
        assert_eq!(Image::sample(recipe, 3), Image::sample(recipe, 3));
        assert_ne!(Image::sample(recipe, 3).digest(), Image::sample(recipe, 4).digest());
    }
}
