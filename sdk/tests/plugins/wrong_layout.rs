//! A plugin whose root table has the right names and another type: built, perhaps, with an SDK
//! that somebody changed.

#![allow(missing_docs, unsafe_code, clippy::all, clippy::pedantic)]

#[macro_use]
mod root;

extern "C" fn transports() -> u64 {
    panic!("a function of the wrong type was called")
}

plugin_with_root! {
    struct PluginRoot {
        #[sabi(last_prefix_field)]
        pub transports: extern "C" fn() -> u64,
    } = PluginRoot { transports }
}
