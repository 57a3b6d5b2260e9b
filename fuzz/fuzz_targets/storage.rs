//! Layers on their way into a store and back, and the store's own files: nothing may panic, and what
//! is taken must come back.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    diolkos_storage::fuzzing::layer(bytes);
    diolkos_storage::fuzzing::files(bytes);
});
