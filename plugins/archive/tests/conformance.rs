//! Every conformance case, with the transports linked in and with the built library loaded.

mod docker {
    diolkos_sdk::conformance!(
        plugin = diolkos_archive::plugin,
        transport = "docker-archive",
        through = [linked, loaded]
    );
}

mod oci {
    diolkos_sdk::conformance!(
        plugin = diolkos_archive::plugin,
        transport = "oci-archive",
        through = [linked, loaded]
    );
}
