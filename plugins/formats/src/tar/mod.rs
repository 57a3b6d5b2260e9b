//! Tar archives that hold images: read in place, and written once.
//!
//! Reading looks at the headers alone: members are then read where they are, as stretches of the
//! file. Nothing is ever unpacked, so that names mean nothing but themselves. Writing reserves a
//! header and fills it in when the member's name and size are known; where one cannot seek, they are
//! known before ([`TarStream`]).
//!
//! # Source
//! POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Interchange Format"; long names and
//! large numbers as GNU tar writes them too.

mod read;
mod stream;
mod write;

pub use read::{Member, TarFile};
pub use stream::{Sink, TarStream};
pub use write::{MemberWriter, TarWriter};

/// Tar consists of blocks of this size.
const BLOCK: u64 = 512;
