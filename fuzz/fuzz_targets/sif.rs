//! Files of Singularity, and the file systems in them: nothing may panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| diolkos_sif::fuzzing::read(bytes));
