//! Archives of images, by both transports: nothing may panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| diolkos_archive::fuzzing::archive(bytes));
