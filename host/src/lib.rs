//! The host: everything that is not a transport.
