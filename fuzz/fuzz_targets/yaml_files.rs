//! A file of registries.d, and details of TLS: nothing may panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| diolkos_docker::fuzzing::yaml_files(text));
