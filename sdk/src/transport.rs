//! The traits that the author of a transport implements, in safe, blocking Rust.
//!
//! [`Transport`] and [`ImageRef`] must be written; of the rest, only what the storage can do: every
//! other method has a default that says "unsupported" or "none". A read-only transport that keeps
//! an image's files in a directory by digest:
//!
//! ```
//! use std::fs::{self, File};
//! use std::path::PathBuf;
//! use diolkos_sdk::*;
//!
//! struct Files;
//! struct FilesRef(PathBuf);
//!
//! impl Transport for Files {
//!     fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
//!         Ok(Box::new(FilesRef(details.into())))
//!     }
//! }
//! impl ImageRef for FilesRef {
//!     fn names(&self) -> Names {
//!         Names::new(self.0.to_string_lossy())
//!     }
//!     fn open(&self, _: &Session) -> Result<Box<dyn Source>> {
//!         Ok(Box::new(FilesRef(self.0.clone())))
//!     }
//! }
//! impl Source for FilesRef {
//!     fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
//!         let path = self.0.join(instance.map_or("manifest", Digest::hex));
//!         let bytes = fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?;
//!         Ok(RawManifest::new(bytes, ""))
//!     }
//!     fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
//!         let path = self.0.join(blob.digest.hex());
//!         let file = File::open(&path).context(|| format!("cannot open `{}`", path.display()))?;
//!         Blob::from_file(file, from)
//!     }
//! }
//! ```
//!
//! # What the host guarantees
//! - It verifies sizes and digests of everything a source gives, and computes what a destination
//!   is told in [`BlobSums`]. No transport hashes, compresses, retries or draws progress.
//! - Manifests are put after the blobs they name, an index after its instances, and
//!   [`Destination::commit`] comes last. After an error nothing more is put, and the destination
//!   is dropped without commit: nothing may then be visible that was not before.
//! - Calls on one source or destination may come from several threads at once, blobs only as
//!   [`Accepts::parallel_blobs`] says.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};

use crate::{Descriptor, Digest, Error, RawManifest, Result, ResultExt, Session, Signature};

/// What a plugin consists of: its transports, by name.
///
/// Made by the function given to [`export_plugin!`](crate::export_plugin).
pub struct Plugin {
    /// Name and implementation of each transport; the names are those of plugin.toml.
    pub transports: Vec<(String, Box<dyn Transport>)>,
}

impl Plugin {
    /// Makes a plugin without transports.
    pub fn new() -> Self {
        Self { transports: Vec::new() }
    }

    /// Adds a transport.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, transport: impl Transport) -> Self {
        self.transports.push((name.into(), Box::new(transport)));
        self
    }
}

impl Default for Plugin {
    fn default() -> Self {
        Self::new()
    }
}

/// One way of storing images; what stands before the first colon of an image name.
pub trait Transport: Send + Sync + 'static {
    /// Parses what follows `name:`. Does no I/O beyond looking at paths.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) with a message that names the
    /// text and says what is expected.
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>>;

    /// Checks a scope of this transport in policy.json. The default accepts any.
    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        let _ = scope;
        Ok(())
    }

    /// Answers an ability that ABI 1.0 does not have, by name; `None` for an unknown name.
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        let _ = (name, input);
        None
    }
}

/// The names an image reference has in different contexts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What follows `name:`, in its normal form; parsing it again gives the same reference.
    pub details: String,
    /// The docker reference (`docker.io/library/busybox:latest`) behind this one, if there is one.
    pub docker_reference: Option<String>,
    /// The most specific scope that policy.json may have for this image; empty for none.
    pub policy_identity: String,
    /// Broader scopes, most specific first, without the transport's default.
    pub policy_namespaces: Vec<String>,
    /// Where this reference's blobs are, for storages that can share blobs between places.
    pub location: Option<Location>,
}

impl Names {
    /// Makes names of a reference that has only its own text.
    pub fn new(details: impl Into<String>) -> Self {
        Self { details: details.into(), ..Self::default() }
    }
}

/// Where blobs are kept: places within one scope may take blobs over from each other.
///
/// For a registry, the scope is its host and the place a repository. Both mean something to their
/// transport alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Within which blobs can be shared, such as `quay.io`.
    pub scope: String,
    /// A place in it, such as `org/app`; empty where a scope is one place. Then nobody notes what was
    /// seen there, but equal blobs in another compression are candidates all the same.
    pub place: String,
}

/// A parsed image reference; opening it starts I/O.
pub trait ImageRef: Send + Sync {
    /// Returns the reference's names.
    fn names(&self) -> Names;

    /// Opens the image for reading.
    ///
    /// # Errors
    /// [`ErrorKind::ImageNotFound`](crate::ErrorKind::ImageNotFound) when there is no such image;
    /// this may as well come from the first [`Source::manifest`].
    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        let _ = session;
        Err(Error::unsupported("this transport cannot read images"))
    }

    /// Opens the place for writing an image. Changes nothing visible yet.
    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        let _ = session;
        Err(Error::unsupported("this transport cannot write images"))
    }

    /// Deletes the image.
    fn delete(&self, session: &Session) -> Result<()> {
        let _ = session;
        Err(Error::unsupported("this transport cannot delete images"))
    }

    /// Lists the tags beside this image.
    fn tags(&self, session: &Session) -> Result<Tags> {
        let _ = session;
        Err(Error::unsupported("this transport cannot list tags"))
    }
}

/// The tags of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// The repository, as users name it; empty where there is no such name.
    pub repository: String,
    /// Its tags, in the storage's order.
    pub tags: Vec<String>,
}

/// An image that is being read.
pub trait Source: Send + Sync {
    /// Returns the top-level manifest or index, or that of an instance by its digest.
    ///
    /// Makes or reads no blob. The host verifies the digest of instances.
    ///
    /// # Errors
    /// [`ErrorKind::ImageNotFound`](crate::ErrorKind::ImageNotFound) when there is none.
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest>;

    /// Opens a blob, beginning at byte `from` of its stored form.
    ///
    /// The host starts at 0 and asks for more only to resume. A source that cannot start elsewhere
    /// returns [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for any other offset.
    /// [`Blob::size`] counts from byte 0, whatever `from` is.
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob>;

    /// Returns the stored signatures of the image or of an instance. The default has none.
    fn signatures(&self, instance: Option<&Digest>) -> Result<Vec<Signature>> {
        let _ = instance;
        Ok(Vec::new())
    }

    /// Returns the layers to read in place of those the manifest names, when blobs are kept in
    /// another form than the manifest says. The default is `None`: read what the manifest says.
    fn layers(&self, instance: Option<&Digest>) -> Result<Option<Vec<Descriptor>>> {
        let _ = instance;
        Ok(None)
    }

    /// Answers an ability that ABI 1.0 does not have, by name; `None` for an unknown name.
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        let _ = (name, input);
        None
    }
}

/// An open blob: its size, where known, and its bytes.
pub struct Blob {
    /// Bytes of the whole blob as stored; a size that turns out wrong fails the copy.
    pub size: Option<u64>,
    /// The bytes, from the offset that was asked for.
    pub reader: Box<dyn BlobReader>,
}

impl Blob {
    /// Makes a blob of a whole file, read from byte `from`, with the fast path for files.
    pub fn from_file(mut file: File, from: u64) -> Result<Self> {
        let size = file.metadata().context(|| "cannot stat the blob's file")?.len();
        file.seek(SeekFrom::Start(from)).context(|| "cannot seek in the blob's file")?;
        let length = size.saturating_sub(from);
        Ok(Self { size: Some(size), reader: Box::new(FileReader { file, offset: from, length }) })
    }
}

/// Bytes of a blob, pulled by the host.
pub trait BlobReader: Send {
    /// Reads up to `buffer.len()` bytes; 0 is the end. The host's buffers have 256 KiB or more.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Tells that the bytes are an extent of an open file, when asked before the first read.
    ///
    /// The host may then copy the extent without [`BlobReader::read`].
    fn extent(&self) -> Option<Extent<'_>> {
        None
    }
}

/// A stretch of an open regular file.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// The file; its position is not touched.
    pub file: BorrowedFd<'a>,
    /// Where the stretch begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

struct FileReader {
    file: File,
    offset: u64,
    length: u64,
}

impl BlobReader for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => return result.context(|| "cannot read the blob's file"),
            }
        }
    }

    fn extent(&self) -> Option<Extent<'_>> {
        Some(Extent { file: self.file.as_fd(), offset: self.offset, length: self.length })
    }
}

/// What a destination takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// Media types of manifests and indexes, by preference; empty means any.
    pub manifest_types: Vec<String>,
    /// In which form layers are kept.
    pub layer_form: LayerForm,
    /// Whether signatures can be kept; if not, why not.
    pub signatures: Result<(), String>,
    /// Whether an index and its instances can be kept together.
    pub several_images: bool,
    /// Whether foreign layers may stay foreign: named by URL and not stored.
    pub foreign_layers: bool,
    /// Whether several blobs may be written at the same time.
    pub parallel_blobs: bool,
    /// Whether the size of a blob must be known in [`Destination::put_blob`].
    pub needs_size: bool,
}

impl Default for Accepts {
    /// Anything, as it is, except signatures.
    fn default() -> Self {
        Self {
            manifest_types: Vec::new(),
            layer_form: LayerForm::Preserve,
            signatures: Err("this transport does not store signatures".into()),
            several_images: true,
            foreign_layers: true,
            parallel_blobs: true,
            needs_size: false,
        }
    }
}

/// The form in which a destination keeps layers unless the user says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// As they come.
    Preserve,
    /// Compressed; uncompressed layers are compressed on the way.
    Compress,
    /// Uncompressed; compressed layers are decompressed on the way.
    Decompress,
}

/// What a blob is within its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobRole {
    /// The image's config.
    Config,
    /// A layer, by its position from the bottom, counted from 0.
    Layer(u32),
}

/// A blob that an image needs, before anything is done to get it there.
#[derive(Clone, Debug)]
pub struct BlobWanted {
    /// The blob as the source has it.
    pub blob: Descriptor,
    /// What it is.
    pub role: BlobRole,
    /// Equal content that would do as well, and where it may be found, best first.
    ///
    /// A candidate with the wanted digest says only where the blob is known to be. Others have
    /// another digest (compressed differently) and are listed only if they may be substituted.
    pub candidates: Vec<BlobCandidate>,
    /// Whether the destination is thought to have none of the image yet, so that asking for each
    /// blob beforehand is a wasted request when the write itself can find out.
    pub probably_new: bool,
}

/// Content that may be reused in place of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobCandidate {
    /// The candidate.
    pub blob: Descriptor,
    /// A place of the same transport where it was seen.
    pub location: Option<Location>,
}

/// A blob that is about to be written.
#[derive(Clone, Debug)]
pub struct BlobIncoming {
    /// Its digest, if it is known beforehand.
    pub digest: Option<Digest>,
    /// Its size in bytes, if it is known beforehand.
    pub size: Option<u64>,
    /// Its media type at the source.
    pub media_type: String,
    /// What it is.
    pub role: BlobRole,
    /// Places of the same transport where a blob with this digest was seen.
    pub locations: Vec<Location>,
}

/// What the host found out about a blob while it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSums {
    /// Digest of the bytes as written.
    pub digest: Digest,
    /// Number of bytes written.
    pub size: u64,
    /// Digest of the uncompressed layer, if the host had reason to compute it.
    pub diff_id: Option<Digest>,
}

/// An image that is being written.
pub trait Destination: Send + Sync {
    /// Returns what this destination takes.
    fn accepts(&self) -> Accepts;

    /// Returns the digest of the manifest that this reference names now, if that is cheap to
    /// learn. The host leaves an image alone that is already there. The default does not know.
    fn current(&self) -> Result<Option<Digest>> {
        Ok(None)
    }

    /// Makes a blob available that the destination has, can mount, or has an equal one of.
    ///
    /// Returns the blob to name in the manifest: the wanted one or one of its candidates; `None`
    /// when the blob must be written. The default always returns `None`.
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let _ = wanted;
        Ok(None)
    }

    /// Begins writing a blob.
    ///
    /// `Ok(None)` says that the destination found out that it has the blob after all.
    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>>;

    /// Stages a manifest or index: the top-level one (`instance` is `None`) or an instance's.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestRejected`](crate::ErrorKind::ManifestRejected) when another type of
    /// manifest may be taken.
    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()>;

    /// Stages the signatures of the image or of an instance, replacing what was there.
    fn put_signatures(&self, signatures: &[Signature], instance: Option<&Digest>) -> Result<()> {
        let _ = instance;
        if signatures.is_empty() {
            return Ok(());
        }
        Err(Error::unsupported("this transport does not store signatures"))
    }

    /// Makes the image visible, in one step as far as the storage can.
    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed>;

    /// Answers an ability that ABI 1.0 does not have, by name; `None` for an unknown name.
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        let _ = (name, input);
        None
    }
}

/// Bytes of a blob, pushed by the host. Dropped without `finish`, the blob was never there.
pub trait BlobWriter: Send {
    /// Takes the next bytes. The host hands over 256 KiB at a time, or more.
    fn write(&mut self, chunk: &[u8]) -> Result<()>;

    /// Tells which open file, and where in it, the bytes may be written directly instead.
    ///
    /// Asked before the first write. If the host uses it, it writes all of the blob there and
    /// calls no [`BlobWriter::write`].
    fn file(&self) -> Option<FileTarget<'_>> {
        None
    }

    /// Makes the blob durable within the staged image; digest and size are verified.
    fn finish(self: Box<Self>, sums: &BlobSums) -> Result<()>;
}

/// Where a blob's bytes may be written directly.
#[derive(Clone, Copy, Debug)]
pub struct FileTarget<'a> {
    /// A regular file open for writing; its position is not touched.
    pub file: BorrowedFd<'a>,
    /// Where the blob begins, in bytes.
    pub offset: u64,
}

/// What was copied, told to [`Destination::commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopLevel {
    /// Digest of the top-level manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What a destination says after its commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The image's name after `name:`, when it is more specific than what the user said.
    pub details: Option<String>,
}
