//! End-to-end tests of the built program; what they share is here.
