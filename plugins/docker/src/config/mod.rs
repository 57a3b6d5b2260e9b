//! The files that say how registries are reached, and where they are.
//!
//! - [`places`]: the directories and variables that the others start from; nothing else reads the
//!   environment, so that tests can have a world of their own.

pub(crate) mod places;
