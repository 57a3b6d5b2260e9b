//! Headers of a registry's answers: nothing may panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| diolkos_docker::fuzzing::headers(bytes));
