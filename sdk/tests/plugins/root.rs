//! Makes a plugin around a root table that is not the SDK's own.

/// Takes the table and the expression that fills it; the table must be named `PluginRoot`, since
/// names are part of a layout.
macro_rules! plugin_with_root {
    ($(#[$meta:meta])* struct PluginRoot { $($fields:tt)* } = $value:expr) => {
        use abi_stable::StableAbi;
        use abi_stable::library::{CheckTypeLayout, LibHeader, RootModule, RootModuleResult};
        use abi_stable::marker_type::ErasedPrefix;
        use abi_stable::prefix_type::{PrefixRefTrait, PrefixTypeTrait};
        use abi_stable::sabi_types::VersionStrings;

        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
        pub struct PluginRoot { $($fields)* }

        impl RootModule for PluginRootRef {
            abi_stable::declare_root_module_statics! {PluginRootRef}
            const BASE_NAME: &'static str = "diolkos_plugin";
            const NAME: &'static str = "diolkos_plugin";
            const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
        }

        extern "C" fn root() -> RootModuleResult {
            let root = $value.leak_into_prefix();
            // SAFETY: only the pointee's static type is erased; the header below records it.
            abi_stable::std_types::RResult::ROk(unsafe {
                root.to_prefix_ref().cast::<ErasedPrefix>()
            })
        }

        // SAFETY: `root` returns an erased `PluginRootRef`.
        static LIB_HEADER: LibHeader =
            unsafe { LibHeader::from_constructor::<PluginRootRef>(root, CheckTypeLayout::Yes) };
        static HEADER: diolkos_sdk::abi::EntryHeader =
            diolkos_sdk::abi::macro_support::header_of_any_root(&LIB_HEADER);

        // SAFETY: the name is Diolkos's own and exported once per shared library.
        #[unsafe(no_mangle)]
        extern "C" fn diolkos_plugin_header() -> *const diolkos_sdk::abi::EntryHeader {
            &raw const HEADER
        }
    };
}
