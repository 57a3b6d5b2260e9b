//! The C entry: a small fixed header that the host reads before anything else.

#![allow(unsafe_code)]

use abi_stable::library::CheckTypeLayout;
pub use abi_stable::library::{LibHeader, RootModuleResult};
use abi_stable::marker_type::ErasedPrefix;
use abi_stable::prefix_type::{PrefixRefTrait, PrefixTypeTrait};
use abi_stable::std_types::RResult;

use super::objects::{PluginRoot, PluginRootRef, TransportsResult};

/// ABI 1: a plugin of another major version is refused.
pub const ABI_MAJOR: u32 = 1;
/// Grows when extensions are added; hosts load plugins of any minor version.
pub const ABI_MINOR: u32 = 0;

pub(crate) const MAGIC: [u8; 8] = *b"DIOLKOS\0";
/// The entry's binding by an `abi_stable` root module.
pub(crate) const BINDING_ABI_STABLE: u32 = 1;
/// The one exported symbol: a function that returns `*const EntryHeader`.
#[cfg(feature = "load")]
pub(crate) const SYMBOL: &str = "diolkos_plugin_header";

/// What the exported function returns. Its layout never changes, in any version.
#[repr(C)]
pub struct EntryHeader {
    /// `DIOLKOS` and a NUL byte.
    pub(crate) magic: [u8; 8],
    /// Bytes of this header.
    pub(crate) size: u32,
    pub(crate) abi_major: u32,
    pub(crate) abi_minor: u32,
    /// How `root` is bound; [`BINDING_ABI_STABLE`] is the only one yet.
    pub(crate) binding: u32,
    /// For binding 1, an `abi_stable::library::LibHeader`.
    pub(crate) root: *const LibHeader,
}

// SAFETY: the header is immutable, and `root` points to a static that may be shared.
unsafe impl Sync for EntryHeader {}

/// Makes the entry header around a library header.
pub const fn header(root: &'static LibHeader) -> EntryHeader {
    EntryHeader {
        magic: MAGIC,
        size: 32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        binding: BINDING_ABI_STABLE,
        root: std::ptr::from_ref(root),
    }
}

/// Makes `abi_stable`'s library header around the function that gives the root module.
pub const fn lib_header(root: extern "C" fn() -> RootModuleResult) -> LibHeader {
    // SAFETY: `root` is made by `export_plugin!` and returns what `self::root` does: an
    // erased `PluginRootRef`.
    unsafe { LibHeader::from_constructor::<PluginRootRef>(root, CheckTypeLayout::Yes) }
}

/// Makes the root module of a plugin from the function that makes its transports.
pub fn root(transports: extern "C" fn() -> TransportsResult) -> RootModuleResult {
    let root = PluginRoot { transports }.leak_into_prefix();
    // SAFETY: only the pointee's static type is erased, which is what `RootModuleResult` carries;
    // `lib_header` records the type beside it.
    RResult::ROk(unsafe { root.to_prefix_ref().cast::<ErasedPrefix>() })
}
