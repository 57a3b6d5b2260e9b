//! registries.conf: nothing may panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| diolkos_docker::fuzzing::registries_conf(text));
