//! The cases, by what they are about. Each function is one claim; the list is in
//! [`macros`](super::macros).

mod blobs;
mod cancel;
mod images;
mod references;
mod signatures;
mod sources;

use super::Case;

crate::__conformance_cases!(__conformance_table);

/// Returns every case, in the order in which they run.
pub fn cases() -> &'static [Case] {
    CASES
}
