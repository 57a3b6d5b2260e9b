//! Every conformance case, with the transport linked in and with the built library loaded.

diolkos_sdk::conformance!(
    plugin = diolkos_dir::plugin,
    transport = "dir",
    through = [linked, loaded]
);
