//! What happens when a table grows: stand-ins for the root and for one method table, as they were
//! and as they may be one day. ABI 1 has not grown yet; when it does, this is what it relies on.

#![allow(
    unsafe_code,
    missing_docs,
    dead_code,
    clippy::all,
    clippy::pedantic,
    non_local_definitions
)]

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::sabi_trait::TD_Opaque;

use super::load::compatible;

/// Tables as a plugin was built with.
mod old {
    use abi_stable::std_types::RBox;
    use abi_stable::{StableAbi, sabi_trait};

    #[sabi_trait]
    pub trait Table: Send {
        #[sabi(last_prefix_field)]
        fn first(&self, input: u64) -> u64;
    }

    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
    pub struct PluginRoot {
        #[sabi(last_prefix_field)]
        pub transports: extern "C" fn() -> Table_TO<'static, RBox<()>>,
    }
}

/// The same with a method and a field more.
mod grown {
    use abi_stable::std_types::RBox;
    use abi_stable::{StableAbi, sabi_trait};

    #[sabi_trait]
    pub trait Table: Send {
        #[sabi(last_prefix_field)]
        fn first(&self, input: u64) -> u64;
        fn second(&self, input: u64) -> u64 {
            self.first(input) + 1000
        }
    }

    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
    #[sabi(missing_field(option))]
    pub struct PluginRoot {
        #[sabi(last_prefix_field)]
        pub transports: extern "C" fn() -> Table_TO<'static, RBox<()>>,
        pub more: extern "C" fn() -> u64,
    }
}

/// The same with another type where ABI 1.0 had one.
mod changed {
    use abi_stable::std_types::RBox;
    use abi_stable::{StableAbi, sabi_trait};

    #[sabi_trait]
    pub trait Table: Send {
        #[sabi(last_prefix_field)]
        fn first(&self, input: u32) -> u64;
    }

    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
    pub struct PluginRoot {
        #[sabi(last_prefix_field)]
        pub transports: extern "C" fn() -> Table_TO<'static, RBox<()>>,
    }
}

struct Plus(u64);

impl old::Table for Plus {
    fn first(&self, input: u64) -> u64 {
        input + self.0
    }
}

impl grown::Table for Plus {
    fn first(&self, input: u64) -> u64 {
        input + self.0
    }
    fn second(&self, input: u64) -> u64 {
        input * self.0
    }
}

const OLD: &abi_stable::type_layout::TypeLayout = <old::PluginRootRef as StableAbi>::LAYOUT;
const GROWN: &abi_stable::type_layout::TypeLayout = <grown::PluginRootRef as StableAbi>::LAYOUT;
const CHANGED: &abi_stable::type_layout::TypeLayout = <changed::PluginRootRef as StableAbi>::LAYOUT;

#[test]
fn a_host_whose_tables_have_grown_takes_an_older_plugin() {
    // Without the look in the other direction it would not: this is why there is one.
    assert!(check_layout_compatibility(GROWN, OLD).is_err());
    compatible(GROWN, OLD).unwrap();
}

#[test]
fn an_older_host_takes_a_plugin_whose_tables_have_grown() {
    compatible(OLD, GROWN).unwrap();
}

#[test]
fn a_changed_table_is_refused_by_old_and_new_hosts() {
    for host in [OLD, GROWN] {
        assert!(compatible(host, CHANGED).is_err());
        assert!(compatible(CHANGED, host).is_err());
    }
}

#[test]
fn a_method_an_older_plugin_lacks_falls_back_to_its_default() {
    let object = old::Table_TO::from_value(Plus(5), TD_Opaque);
    let object: old::Table_TO<'static, abi_stable::std_types::RBox<()>> = object;
    // SAFETY: the layouts were compared by the tests above; a host that has loaded the older
    // plugin reads the object through its own, grown type, too.
    let object: grown::Table_TO<'static, abi_stable::std_types::RBox<()>> =
        unsafe { std::mem::transmute(object) };
    assert_eq!(grown::Table::first(&object, 1), 6);
    assert_eq!(grown::Table::second(&object, 1), 1006);

    let newer = grown::Table_TO::from_value(Plus(5), TD_Opaque);
    let newer: grown::Table_TO<'static, abi_stable::std_types::RBox<()>> = newer;
    assert_eq!(grown::Table::second(&newer, 3), 15);
}
