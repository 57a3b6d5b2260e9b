//! The words of the field as types: digests, references, descriptors, platforms, manifests as
//! bytes, signatures and errors.
//!
//! Everything here is plain data without I/O. Parsing of manifests is the host's affair; a
//! transport only moves them.

mod descriptor;
mod digest;
mod error;
mod manifest;
pub mod media_type;
mod platform;
mod reference;
mod signature;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest};
pub use error::{Error, ErrorKind, ResultExt};
pub use manifest::RawManifest;
pub use platform::Platform;
pub use reference::Reference;
pub use signature::{Signature, SignatureFormat};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
