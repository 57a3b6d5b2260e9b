//! A request of an upload whose body grows while it is sent, within limits of time.

use std::time::Duration;

use diolkos_network::sending;
pub(crate) use diolkos_network::sending::Part;
use diolkos_sdk::Result;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::message::{Payload, Response};
use crate::uploads::{STORE_PATIENCE, within};

/// How long the connection may take no bytes.
const STALL: Duration = Duration::from_secs(120);

/// A request whose body is being written.
pub(crate) struct Sending {
    inner: sending::Sending<Response>,
    /// Whether the request names the digest too.
    pub single: bool,
}

/// Makes a body of parts, and the end to write them to.
pub(crate) fn body(size: Option<u64>) -> (mpsc::Sender<Part>, Payload) {
    let (parts, body) = sending::body();
    (parts, Payload::Stream(body, size))
}

impl Sending {
    pub fn new(
        parts: mpsc::Sender<Part>,
        answer: JoinHandle<Result<Response>>,
        single: bool,
    ) -> Self {
        Self { inner: sending::Sending::new(parts, answer), single }
    }

    /// Waits for room and hands a part over; returns the answer if that comes first.
    pub async fn hand_over(&mut self, part: Part) -> Result<Option<Result<Response>>> {
        // After the last byte it is the registry's work that takes its time.
        let limit = if matches!(part, Part::End) { STORE_PATIENCE } else { STALL };
        within(limit, async { Ok(self.inner.hand_over(part).await) }).await
    }

    /// Ends the body and waits for the answer.
    pub async fn end(mut self) -> Result<Response> {
        // Where the length was announced, the answer may come without waiting for the end.
        if let Some(answer) = self.hand_over(Part::End).await? {
            return answer;
        }
        within(STORE_PATIENCE, self.inner.answer()).await
    }
}
