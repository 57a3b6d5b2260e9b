//! All that the author of a Diolkos transport needs.
//!
//! A *transport* is one way of storing images. Implement [`Transport`] and [`ImageRef`], and of
//! [`Source`] and [`Destination`] what the storage can do; then [`export_plugin!`] turns the crate
//! into a plugin, a shared library that every Diolkos 1.x host loads. The traits are in
//! [`transport`], with a transport of about thirty lines that compiles.
//!
//! The host does the rest, once for all transports: it verifies every byte against its digest,
//! (de)compresses, converts manifests, retries, resumes, obeys the policy and draws progress.
//!
//! - [`model`]: digests, references, descriptors, platforms, errors.
//! - [`transport`]: the traits, and the values their methods take and return.
//! - [`session`]: what a call may use: options, cancellation, log, temporary directory.
//! - [`image_config`]: the extension by which a destination knows what comes.
//! - [`unpacked_layers`]: the extension by which a destination takes layers uncompressed.
//! - [`source_manifest`]: the extension by which a destination knows the source's manifest.
//! - [`login`]: the extension by which a transport keeps logins.
//! - [`abi`]: the stable binary interface behind the traits. Authors never need it.
//! - `aio` (feature `async`): a runtime of the plugin's own, for async libraries.
//! - `conformance` (feature `conformance`): the kit that judges a transport.

pub mod abi;
#[cfg(feature = "async")]
pub mod aio;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod image_config;
pub mod login;
pub mod model;
pub mod resume;
pub mod session;
pub mod source_manifest;
pub mod transport;
pub mod unpacked_layers;

pub use model::{
    Algorithm, Descriptor, Digest, Error, ErrorKind, Platform, RawManifest, Reference, Result,
    ResultExt, Signature, SignatureFormat,
};
pub use session::{Host, HostServices, LogLevel, Options, PlatformChoice, Session};
pub use transport::{
    Accepts, Blob, BlobCandidate, BlobIncoming, BlobReader, BlobRole, BlobSums, BlobWanted,
    BlobWriter, Committed, Destination, Extent, FileTarget, ImageRef, LayerForm, Location, Names,
    Plugin, Source, Tags, TopLevel, Transport,
};
