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

/// The size of the first headers of ABI 1.0, in bytes: 32 where addresses have 64 bits. They are how
/// every header begins.
#[expect(clippy::cast_possible_truncation, reason = "a header is small")]
pub(crate) const FIRST_SIZE: u32 = std::mem::offset_of!(EntryHeader, interface) as u32;
/// The size of a header, in bytes.
pub(crate) const SIZE: u32 = FIRST_SIZE + 8;

/// Stands for the types that cross: a hash of what they are compiled from, with the version of
/// `abi_stable`, whose macros are pinned with it. Where it is the same on both sides the layouts are,
/// since neither the compiler nor its options have a say in them. Who changes `abi_stable` itself
/// must change its version.
pub(crate) const INTERFACE: [u8; 8] = {
    let hash = fnv_1a(0xcbf2_9ce4_8422_2325, include_bytes!("entry.rs"));
    let hash = fnv_1a(hash, include_bytes!("objects.rs"));
    let hash = fnv_1a(hash, include_bytes!("types.rs"));
    let version = abi_stable::ABI_STABLE_VERSION.version;
    // SAFETY: these are address and length of a text that lives forever; what would say so safely is
    // no constant function.
    let version = unsafe { std::slice::from_raw_parts(version.as_ptr(), version.len()) };
    fnv_1a(hash, version).to_ne_bytes()
};

/// Goes on with an FNV-1a hash.
const fn fnv_1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0100_0000_01b3);
        index += 1;
    }
    hash
}

/// What the exported function returns. Its fields never change, in any version; others may follow.
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
    /// [`INTERFACE`] as it was when the plugin was built; zeros where it is not known. The first
    /// headers of ABI 1.0 end before it.
    pub(crate) interface: [u8; 8],
}

// SAFETY: the header is immutable, and `root` points to a static that may be shared.
unsafe impl Sync for EntryHeader {}

/// Makes the entry header around the root module that [`own_root`] describes.
pub const fn header(root: &'static OwnRoot) -> EntryHeader {
    EntryHeader { interface: INTERFACE, ..header_of_any_root(&root.0) }
}

/// Makes an entry header around any root module. Hosts compare its layout with theirs.
pub const fn header_of_any_root(root: &'static LibHeader) -> EntryHeader {
    EntryHeader {
        magic: MAGIC,
        size: SIZE,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        binding: BINDING_ABI_STABLE,
        root: std::ptr::from_ref(root),
        interface: [0; 8],
    }
}

/// Describes a root module of this crate's own type.
pub struct OwnRoot(LibHeader);

/// Makes `abi_stable`'s library header around the function that gives the root module.
pub const fn own_root(root: extern "C" fn() -> RootModuleResult) -> OwnRoot {
    // SAFETY: `root` is made by `export_plugin!` and returns what `self::root` does: an
    // erased `PluginRootRef`.
    OwnRoot(unsafe { LibHeader::from_constructor::<PluginRootRef>(root, CheckTypeLayout::Yes) })
}

/// Makes the root module of a plugin from the function that makes its transports.
pub fn root(transports: extern "C" fn() -> TransportsResult) -> RootModuleResult {
    let root = PluginRoot { transports }.leak_into_prefix();
    // SAFETY: only the pointee's static type is erased, which is what `RootModuleResult` carries;
    // `own_root` records the type beside it.
    RResult::ROk(unsafe { root.to_prefix_ref().cast::<ErasedPrefix>() })
}
