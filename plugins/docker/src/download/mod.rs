//! The bytes of a blob as they come from a registry, as a reader.
//!
//! A blob comes over one connection, as one [`Part`]. A large one is divided where [`crate::lanes`]
//! finds that several connections bring more: the part that is being read is cut short, and what is
//! behind it is asked for in parts of a few MiB, which wait in memory until it is their turn.
//! - How far parts may be ahead is bounded for the whole process; what is read now needs none of it.
//! - When nothing is left to ask for, the longest part is shared with a connection that is free.
//! - A part that breaks off is asked for again from there; one that stands still while others move
//!   on is asked for over another connection.
//! - Whether it all is what was wanted is the host's to say: it knows the digest of the whole.

mod part;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use diolkos_sdk::{BlobReader, Error, ErrorKind, Result};
use reqwest::StatusCode;
use reqwest::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE,
};

use crate::lanes::{Ahead, Lanes};
use crate::message::{self, Pace, Request, Response};
use crate::registry::Repository;
use part::{Batch, Part, Span};

/// The least size of a blob that is worth several connections.
const LARGE: u64 = 64 << 20;
/// The least rest of it that is worth one more.
const LARGE_REST: u64 = 16 << 20;
/// The least that is taken from a part which another connection has begun.
const SHARED: u64 = 512 << 10;
/// How much of a part is left when the one behind it is asked for at the latest.
const NEARLY_OVER: u64 = 1 << 20;
/// How far a blob must have come between two breaks that are mended here, without a pause.
const MENDED: u64 = 64 << 10;
/// How long a part may stand still while others move on.
const STANDSTILL: Duration = Duration::from_secs(3);
/// How long it may while others stand still too, or there are none.
const LONG_STANDSTILL: Duration = Duration::from_secs(15);
/// How often that is mended.
const STANDSTILLS: u32 = 5;
/// How often a reader that waits looks after its parts.
const TICK: Duration = Duration::from_millis(100);

/// Makes the request for a blob, without a range.
pub(crate) type Ask = Arc<dyn Fn() -> Request + Send + Sync>;

/// Sends a request for bytes as they are stored: their digest is of those.
pub(crate) async fn ask_for_bytes(repository: &Repository, request: Request) -> Result<Response> {
    let request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    repository.send(request).await
}

/// Adds the wish for a range of bytes; without an end, for all from there on.
pub(crate) fn with_range(request: Request, first: u64, end: Option<u64>) -> Request {
    let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
    let range = HeaderValue::from_str(&format!("bytes={first}-{last}"));
    request.header(RANGE, range.expect("digits make a valid header"))
}

/// A part of a blob, as `Content-Range: bytes 10-99/100` describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BlobPart {
    pub first: u64,
    /// The whole blob's size, where it is told.
    pub size: Option<u64>,
}

impl BlobPart {
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, _) = range.split_once('-')?;
        Some(Self { first: first.trim().parse().ok()?, size: size.trim().parse().ok() })
    }
}

/// Reads a blob.
pub(crate) struct Download {
    repository: Repository,
    /// What is being read, in the order of the blob.
    parts: VecDeque<Part>,
    chunks: VecDeque<Bytes>,
    /// How to get the rest, where that may come over several connections.
    rest: Option<Rest>,
}

/// What is behind all parts of a blob, and what it is asked for with.
struct Rest {
    ask: Ask,
    lanes: Arc<Lanes>,
    /// Where it begins: the end of the last part.
    next: u64,
    size: u64,
    /// Where a part broke off last.
    mended_at: Option<u64>,
    standstills: u32,
    /// When the part that is read now brought something last, and where it and the others were
    /// then.
    moved: (Instant, u64, u64),
}

impl Download {
    /// Starts to read a blob of this size from its byte `from` on. The answer begins there or, if
    /// `skipped`, at its start. Must be called within the runtime.
    pub fn start(
        repository: &Repository,
        ask: &Ask,
        response: Response,
        size: Option<u64>,
        (from, skipped): (u64, bool),
    ) -> Self {
        let has_parts = response.status() == StatusCode::PARTIAL_CONTENT
            || response.headers().get(ACCEPT_RANGES).is_some_and(|unit| unit == "bytes");
        let lanes = &repository.client.lanes;
        let rest = size.filter(|size| has_parts && !skipped && *size >= LARGE).map(|size| Rest {
            ask: Arc::clone(ask),
            lanes: Arc::clone(lanes),
            next: size,
            size,
            mended_at: None,
            standstills: 0,
            moved: (Instant::now(), 0, 0),
        });
        let lane = rest.is_some().then(|| lanes.open());
        let span = Span { next: from, end: size.unwrap_or(u64::MAX).max(from) };
        let pace = Pace::new(repository.idle_timeout);
        let part = Part::of_answer(response, if skipped { from } else { 0 }, span, pace, lane);
        let parts = VecDeque::from([part]);
        Self { repository: repository.clone(), parts, chunks: VecDeque::new(), rest }
    }

    /// Returns the next bytes, `None` at the end of the blob.
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        loop {
            self.look_ahead()?;
            let Some(front) = self.parts.front_mut() else {
                return Ok(None);
            };
            // What is read now needs no memory of those that wait.
            front.ahead = None;
            let mut next = front.try_next();
            if next.is_pending() {
                next = self.wait()?;
            }
            let Poll::Ready(next) = next else { continue };
            match next {
                Some(Ok(batch)) => return Ok(Some(batch)),
                Some(Err(error)) => self.mend(error)?,
                None if self.parts.front().is_some_and(|part| part.span().is_short()) => {
                    self.mend(Error::new(ErrorKind::Unavailable, "a part of the blob is missing"))?;
                }
                None => {
                    self.parts.pop_front();
                    self.note_moved();
                }
            }
        }
    }

    /// Waits until the first part brings something, or it is time to look after all parts.
    fn wait(&mut self) -> Result<Poll<Option<Result<Batch>>>> {
        let Some(front) = self.parts.front_mut() else {
            return Ok(Poll::Ready(None));
        };
        let (runtime, host) = (&self.repository.runtime, &self.repository.host);
        let Some(rest) = &self.rest else {
            return runtime.block_on(host, async { Ok(Poll::Ready(front.next().await)) });
        };
        let begun = Instant::now();
        let next = runtime.block_on(host, async {
            let next = tokio::time::timeout(TICK, front.next()).await;
            Ok(next.map_or(Poll::Pending, Poll::Ready))
        })?;
        let unread = self.parts.back().map_or(0, |last| last.span().left());
        let can_use_more = rest.size - rest.next + unread >= LARGE_REST;
        rest.lanes.waited(begun.elapsed(), can_use_more);
        let count = self.parts.len();
        self.widen()?;
        if self.parts.len() != count {
            // Another part is no progress of those that were there.
            self.note_moved();
        }
        if next.is_pending() {
            self.replace_what_stands_still()?;
        }
        Ok(next)
    }

    /// Asks for what is behind the last part before that has ended.
    fn look_ahead(&mut self) -> Result<()> {
        let Some(rest) = &self.rest else { return Ok(()) };
        let nearly_over = match self.parts.len() {
            0 => true,
            1 => self.parts[0].span().left() < NEARLY_OVER,
            _ => false,
        };
        if nearly_over && rest.next < rest.size {
            let end = if rest.lanes.has_several() {
                rest.size.min(rest.next.saturating_add(rest.lanes.part_length()))
            } else {
                rest.size
            };
            self.ask_for_rest(end, None)?;
        }
        Ok(())
    }

    /// Opens as many connections as this blob may have.
    fn widen(&mut self) -> Result<()> {
        while let Some(rest) = &mut self.rest
            && rest.lanes.has_room()
        {
            let length = rest.lanes.part_length();
            let last = self.parts.back().filter(|_| rest.next == rest.size);
            if let Some(given) = last.and_then(|last| last.split(length, length)) {
                rest.next = given.next;
            }
            let end = rest.size.min(rest.next.saturating_add(length));
            if end > rest.next
                && let Some(ahead) = Ahead::take(end - rest.next)
            {
                self.ask_for_rest(end, Some(ahead))?;
                continue;
            }
            // All is asked for, or as much as there is memory for: those that are done may help.
            let others_wait = self.parts.iter().skip(1).all(|part| part.span().left() == 0);
            if (end > rest.next && !others_wait) || !self.share()? {
                break;
            }
        }
        Ok(())
    }

    /// Divides the part with most to come between its connection and another one.
    fn share(&mut self) -> Result<bool> {
        let longest = self.parts.iter().enumerate().max_by_key(|(_, part)| part.span().left());
        let Some((index, part)) = longest else { return Ok(false) };
        let Some(given) = part.split(part.span().left() / 2, SHARED) else { return Ok(false) };
        let part = self.request(given, Ahead::take(given.left()), false)?;
        self.parts.insert(index + 1, part);
        Ok(true)
    }

    fn ask_for_rest(&mut self, end: u64, ahead: Option<Ahead>) -> Result<()> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        let span = Span { next: rest.next, end };
        rest.next = end;
        let part = self.request(span, ahead, false)?;
        self.parts.push_back(part);
        Ok(())
    }

    /// Asks for the first part again, from where it broke off.
    ///
    /// # Errors
    /// The one that it broke off with, where the whole blob came over one connection, or the part
    /// did before and has brought nothing since: the host goes on from here, or gives up.
    fn mend(&mut self, error: Error) -> Result<()> {
        let Some(broken) = self.parts.pop_front() else { return Err(error) };
        let span = broken.span();
        let Some(rest) = &mut self.rest else { return Err(error) };
        let alone = self.parts.is_empty() && rest.next == rest.size;
        let has_moved = rest.mended_at.is_none_or(|at| span.next >= at.saturating_add(MENDED));
        if alone || !has_moved || !error.kind().is_transient() {
            return Err(error);
        }
        if span.left() == 0 {
            return Ok(());
        }
        rest.mended_at = Some(span.next);
        let message = error.chain().join(": ");
        self.repository.host.debug(format!("{message}: asking again from byte {}", span.next));
        let part = self.request(span, None, false)?;
        self.parts.push_front(part);
        Ok(())
    }

    /// Asks for the first part over another connection where the others move on without it.
    fn replace_what_stands_still(&mut self) -> Result<()> {
        let (Some(rest), Some(front)) = (&mut self.rest, self.parts.front()) else { return Ok(()) };
        let (since, own, before) = rest.moved;
        let others = position(&self.parts);
        if front.span().next != own {
            self.note_moved();
            return Ok(());
        }
        let others_done = self.parts.iter().skip(1).all(|part| part.span().left() == 0);
        let others_move = others > before || (self.parts.len() > 1 && others_done);
        let patience = if others_move { STANDSTILL } else { LONG_STANDSTILL };
        let alone = self.parts.len() == 1 && rest.next == rest.size;
        if alone || since.elapsed() < patience || rest.standstills == STANDSTILLS {
            return Ok(());
        }
        rest.standstills += 1;
        let span = front.give_up();
        if span.left() == 0 {
            return Ok(());
        }
        let message = format!("a connection stands still: asking again from byte {}", span.next);
        self.repository.host.debug(message);
        let part = self.request(span, None, true)?;
        self.parts.insert(1, part);
        self.note_moved();
        Ok(())
    }

    /// Notes where all parts are now.
    fn note_moved(&mut self) {
        let others = position(&self.parts);
        let own = self.parts.front().map_or(0, |part| part.span().next);
        if let Some(rest) = &mut self.rest {
            rest.moved = (Instant::now(), own, others);
        }
    }

    /// Asks for a part; over a connection of its own if it is to be `fresh`.
    ///
    /// # Errors
    /// The host cancels. What the registry answers comes from the part.
    fn request(&self, span: Span, ahead: Option<Ahead>, fresh: bool) -> Result<Part> {
        let rest = self.rest.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a blob without parts was asked for in parts")
        })?;
        let (repository, size) = (self.repository.clone(), rest.size);
        let mut request = with_range((rest.ask)(), span.next, Some(span.end));
        request.fresh_connection = fresh;
        let answer = async move {
            let response = ask_for_bytes(&repository, request).await?;
            let refused = response.status();
            if refused.is_client_error() || refused.is_server_error() {
                let why = message::failure(response).await.chain().join(": ");
                // Whether the blob itself is refused, the host finds out when it goes on.
                return Err(Error::new(ErrorKind::Unavailable, why));
            }
            match BlobPart::of(response.headers()) {
                Some(part)
                    if response.status() == StatusCode::PARTIAL_CONTENT
                        && part.first == span.next
                        && part.size.is_none_or(|told| told == size) =>
                {
                    Ok(response)
                }
                _ => Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("{} instead of a part of a blob", response.status()),
                )),
            }
        };
        let pace = Pace::new(self.repository.idle_timeout);
        let lane = rest.lanes.open();
        // Within the runtime, which is all that is waited for.
        self.repository.block_on(async { Ok(Part::of_request(answer, span, pace, lane, ahead)) })
    }
}

/// Returns how far all parts but the first are, as a number that grows.
fn position(parts: &VecDeque<Part>) -> u64 {
    parts.iter().skip(1).map(|part| part.span().next).fold(0, u64::wrapping_add)
}

impl BlobReader for Download {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.chunks.is_empty() {
            match self.next_batch()? {
                Some(batch) => self.chunks.extend(batch.into_iter().filter(|it| !it.is_empty())),
                None => return Ok(0),
            }
        }
        let mut filled = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            let count = chunk.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&chunk[..count]);
            chunk.advance(count);
            filled += count;
            if !chunk.is_empty() {
                break;
            }
            self.chunks.pop_front();
        }
        Ok(filled)
    }
}

/// Reads nothing.
pub(crate) struct Empty;

impl BlobReader for Empty {
    fn read(&mut self, _: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_where_it_begins_and_perhaps_how_large_the_whole_is() {
        let of = |text| {
            let value = HeaderValue::from_static(text);
            BlobPart::of(&HeaderMap::from_iter([(CONTENT_RANGE, value)]))
        };
        assert_eq!(of("bytes 10-99/100"), Some(BlobPart { first: 10, size: Some(100) }));
        assert_eq!(of("bytes 10-99/*"), Some(BlobPart { first: 10, size: None }));
        for bad in ["bytes */100", "", "lines 10-99/100", "bytes x", "bytes -1-2/3"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
