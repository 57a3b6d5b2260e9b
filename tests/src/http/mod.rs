//! HTTP/1.1 as much of it as registries, token services and their clients use, faults included.
//!
//! Requests are in `request`, responses in `response`; how either goes over a connection, whole or
//! not, is in `connection`.

mod connection;
mod request;
mod response;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use connection::{Arrived, Connection, Delivery, Intake};
pub(crate) use request::Request;
pub(crate) use response::Response;

/// Bytes of bodies that went over the connections of one server, framing not included.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn reset(&self) {
        self.received.store(0, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
    }

    fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
