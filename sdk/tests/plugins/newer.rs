//! A plugin of a later ABI 1.x, whose root table has one more field than this host's.

#![allow(missing_docs, unsafe_code, clippy::all, clippy::pedantic)]

#[macro_use]
mod root;

use diolkos_sdk::abi::export;
use diolkos_sdk::abi::objects::TransportsResult;
use diolkos_sdk::{ErrorKind, ImageRef, Names, Plugin, Result, Transport};

struct Newer;

impl Transport for Newer {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        if details.is_empty() {
            return Err(diolkos_sdk::Error::new(ErrorKind::InvalidInput, "it is empty"));
        }
        Ok(Box::new(NewerRef(details.to_owned())))
    }
}

struct NewerRef(String);

impl ImageRef for NewerRef {
    fn names(&self) -> Names {
        Names::new(&self.0)
    }
}

extern "C" fn transports() -> TransportsResult {
    export::transports("newer-plugin", || Plugin::new().with("newer", Newer))
}

extern "C" fn more() -> u64 {
    7
}

plugin_with_root! {
    struct PluginRoot {
        #[sabi(last_prefix_field)]
        pub transports: extern "C" fn() -> TransportsResult,
        pub more: extern "C" fn() -> u64,
    } = PluginRoot { transports, more }
}
