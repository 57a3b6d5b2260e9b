//! Which images may be copied at all.
//!
//! [`Policy`] is policy.json: strict reading in `requirement`, lookup and decision in [`policy`].
//! Requirements that ask for signatures are understood and refuse the image, because verifying
//! signatures is not built; no image passes as signed that is not.

pub mod policy;
mod requirement;
mod strict;

pub use policy::{Origin, Policy};
