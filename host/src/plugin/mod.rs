//! Plugins as files: all that knows that a transport comes from a library.
//!
//! - [`manifest`]: the TOML file beside each library, read without loading it.
//! - [`discovery`]: where manifests are looked for, and what was found, refused or shadowed.
//! - [`trust`]: which files may be loaded at all, by owner and permissions.
//! - [`registry`]: transports by name; a library is loaded when its transport is first asked for.
//!
//! Nothing is skipped in silence and one bad plugin stops nothing: what is broken or refused is
//! kept with its reason, shown by `plugin list`, and is an error only when its transport is named.

pub mod discovery;
pub mod manifest;
pub mod registry;
pub mod trust;

pub use discovery::{Environment, Origin, SearchDir};
pub use manifest::{Manifest, OptionKind, OptionManifest, Side, TransportManifest};
pub use registry::{Found, State, Transports};
pub use trust::Trust;
