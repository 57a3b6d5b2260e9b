//! Every conformance case, with the transport linked in and with the built library loaded.

use std::fs;

diolkos_sdk::conformance!(
    plugin = diolkos_tarball::plugin,
    transport = "tarball",
    images = |details: &str| {
        fs::write(details, vec![b'x'; 700_000]).expect("a scratch directory takes files");
        Ok(())
    },
    through = [linked, loaded]
);
