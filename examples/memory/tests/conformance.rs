//! Every conformance case, with the transport linked in and with the built library loaded.

diolkos_sdk::conformance!(
    plugin = diolkos_memory::plugin,
    transport = "memory",
    through = [linked, loaded]
);
