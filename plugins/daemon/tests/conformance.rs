//! Every conformance case, with the transport linked in and with the built library loaded, against
//! a daemon in this process: a real one takes only layers that are archives.

mod daemon;

use std::path::Path;

diolkos_sdk::conformance!(
    plugin = diolkos_daemon::plugin,
    transport = "docker-daemon",
    reference = |dir: &Path, n: u32| {
        let name = dir.file_name().expect("a scratch directory has a name").to_string_lossy();
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("check/{}:{n}", name.to_lowercase())
    },
    options = [("daemon-host", daemon::host())],
    through = [linked, loaded]
);
