//! A plugin whose root table has less than ABI 1.0 began with.
//!
//! A table that lacks what was added later is an older plugin's; one that lacks what was always
//! there is no plugin's, although every field it does have is right.

#![allow(missing_docs, unsafe_code, clippy::all, clippy::pedantic)]

#[macro_use]
mod root;

plugin_with_root! {
    struct PluginRoot {
    } = PluginRoot {}
}
