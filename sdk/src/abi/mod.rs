//! The stable binary interface behind the traits; the only place that names `abi_stable` or says
//! `unsafe`.
//!
//! A plugin built for ABI 1.n loads in every later 1.x host, whatever compiler built either:
//!
//! - `entry`: one C symbol gives a small fixed header, which the host reads before anything
//!   else, and behind it an `abi_stable` root module.
//! - [`types`]: the plain data that crosses, and its conversion from and to [`crate::model`].
//! - [`objects`]: the method tables of transports, references, sources, destinations, readers,
//!   writers and the host.
//! - `export` (plugin's side) turns an author's traits into those tables and catches panics;
//!   `import` (host's side) turns tables back into the author's traits, so that the engine sees no
//!   difference between a transport that is linked in and one that is loaded.
//! - `load` (feature `load`): opens a library. Layouts are compared unless the header says that the
//!   library was built from the very text of these modules.
//! - [`layout`]: a dump of every layout, compared with a golden copy by a test.
//!
//! The types of ABI 1 are frozen. New abilities are *extensions*: messages by name
//! (`"diolkos.something/1"`) that either side may send the other, and that are simply unknown to
//! who does not have them. Plain data carries a list of named extras for the same purpose.

#[cfg(feature = "load")]
mod elf;
mod entry;
#[doc(hidden)]
pub mod export;
mod import;
pub mod layout;
#[cfg(feature = "load")]
mod load;
#[doc(hidden)]
pub mod objects;
#[doc(hidden)]
pub mod types;

pub use entry::{ABI_MAJOR, ABI_MINOR, EntryHeader};
#[cfg(feature = "load")]
pub use load::{LoadedPlugin, inspect, load};

use crate::transport::{Plugin, Transport};

/// Passes a plugin's transports through the ABI within one process: exported, then imported.
///
/// Statically linked transports and tests use it; what they get behaves as a loaded plugin does.
pub fn linked(
    name: &'static str,
    plugin: fn() -> Plugin,
) -> crate::Result<Vec<(String, Box<dyn Transport>)>> {
    import::transports(export::transports(name, plugin))
}

/// What [`export_plugin!`](crate::export_plugin) expands to needs; not for direct use.
#[doc(hidden)]
pub mod macro_support {
    pub use super::entry::{OwnRoot, RootModuleResult, header, header_of_any_root, own_root, root};
    pub use super::export::transports;
    pub use super::objects::TransportsResult;
}

/// Makes the crate a plugin: exports the one C symbol that hosts look for.
///
/// Takes the path of a `fn() -> Plugin`. The crate's type must be `cdylib`.
///
/// ```no_run
/// # use diolkos_sdk::{ImageRef, Plugin, Result, Transport};
/// struct Nowhere;
/// impl Transport for Nowhere {
///     fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
///         todo!("parse {details}")
///     }
/// }
///
/// fn plugin() -> Plugin {
///     Plugin::new().with("nowhere", Nowhere)
/// }
/// diolkos_sdk::export_plugin!(plugin);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($plugin:path) => {
        // Not in the crate's own tests, so that several plugins can be compiled into one of them.
        #[cfg(not(test))]
        #[allow(unsafe_code)]
        const _: () = {
            extern "C" fn transports() -> $crate::abi::macro_support::TransportsResult {
                $crate::abi::macro_support::transports(env!("CARGO_PKG_NAME"), $plugin)
            }
            extern "C" fn root() -> $crate::abi::macro_support::RootModuleResult {
                $crate::abi::macro_support::root(transports)
            }
            static ROOT: $crate::abi::macro_support::OwnRoot =
                $crate::abi::macro_support::own_root(root);
            static HEADER: $crate::abi::EntryHeader = $crate::abi::macro_support::header(&ROOT);

            // SAFETY: the name is Diolkos's own and exported once per shared library, so that it
            // clashes with no other symbol.
            #[unsafe(no_mangle)]
            extern "C" fn diolkos_plugin_header() -> *const $crate::abi::EntryHeader {
                &raw const HEADER
            }
        };
    };
}

#[cfg(all(test, feature = "load"))]
mod growth_tests;
#[cfg(test)]
mod tests;
