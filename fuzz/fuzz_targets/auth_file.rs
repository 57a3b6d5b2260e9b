//! A file of credentials, and a helper program's answer: nothing may panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| diolkos_docker::fuzzing::auth_file(bytes));
