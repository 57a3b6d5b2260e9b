//! Every conformance case, with the transport linked in and with the built library loaded, for both
//! drivers. Trees are made with the owners that layers say, so that these tests need root.

mod vfs {
    diolkos_sdk::conformance!(
        plugin = diolkos_storage::plugin,
        transport = "containers-storage",
        through = [linked, loaded]
    );
}

mod overlay {
    diolkos_sdk::conformance!(
        plugin = diolkos_storage::plugin,
        transport = "containers-storage",
        reference = |dir: &std::path::Path, n: u32| {
            let dir = dir.display();
            format!("[overlay@{dir}/root+{dir}/run]localhost/kit{n}:latest")
        },
        through = [linked, loaded]
    );
}
