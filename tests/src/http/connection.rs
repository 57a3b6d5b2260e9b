//! Requests and responses on one connection: whole, in part, slowly, or never to their end.
//!
//! # Source
//! RFC 9112 for framing.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::response::reason;
use super::{Request, Response, Traffic};

/// A request's head may not be longer.
const MAX_HEAD: u64 = 64 << 10;
/// Nor its body.
const MAX_BODY: u64 = 8 << 30;
/// What a client begins with that wants TLS.
const TLS_HANDSHAKE: u8 = 0x16;
/// How much is read or written at a time.
const PIECE: usize = 256 << 10;
/// How often a paced transfer moves bytes in a second.
const PACES: u64 = 40;

/// One client's connection.
pub(crate) struct Connection<'a> {
    reader: BufReader<&'a TcpStream>,
    writer: &'a TcpStream,
    traffic: &'a Traffic,
}

/// How a request's body is taken in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Intake {
    /// Bytes after which no more is read.
    pub(crate) stop_after: Option<u64>,
    /// Bytes that a body may have.
    pub(crate) limit: Option<u64>,
    /// Bytes in a second.
    pub(crate) pace: Option<u64>,
}

/// How much of a body there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Whole,
    /// The client went away in the middle, or no more was to be read.
    Part,
    /// It is longer than it may be; the rest was not read.
    TooLong,
}

/// How a response goes out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    /// Bytes of the body after which the connection is closed.
    pub(crate) cut: Option<usize>,
    /// Bytes of the body after which nothing more comes.
    pub(crate) stall: Option<usize>,
    /// A length to announce in place of the true one.
    pub(crate) announce: Option<usize>,
    /// Whether no length is announced at all.
    pub(crate) chunked: bool,
    /// Bytes in a second.
    pub(crate) pace: Option<u64>,
}

impl Delivery {
    /// Says whether the connection is of no more use afterwards.
    pub(crate) fn ends_connection(&self) -> bool {
        self.cut.is_some() || self.stall.is_some() || self.announce.is_some()
    }
}

impl<'a> Connection<'a> {
    pub(crate) fn new(stream: &'a TcpStream, traffic: &'a Traffic) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::with_capacity(PIECE, stream), writer: stream, traffic })
    }

    /// Reads a request up to its body; `None` when the client sends no more.
    pub(crate) fn read_head(&mut self) -> io::Result<Option<Request>> {
        if self.reader.fill_buf()?.first() == Some(&TLS_HANDSHAKE) {
            // As other servers say it, and clients look for it.
            self.writer.write_all(
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n",
            )?;
            self.linger();
            return Ok(None);
        }
        let mut head = (&mut self.reader).take(MAX_HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(invalid("a request line without method and target"));
        };
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Err(invalid("a head that does not end"));
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Some(Request::new(method, target, headers)));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a bad header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads the body of a request whose head was just read.
    pub(crate) fn read_body(
        &mut self,
        request: &mut Request,
        intake: Intake,
    ) -> io::Result<Arrived> {
        let length = request.header("content-length").map(str::parse::<u64>).transpose();
        let length = length.map_err(|_| invalid("a bad length"))?.unwrap_or(0);
        if intake.limit.is_some_and(|limit| length > limit) {
            return Ok(Arrived::TooLong);
        }
        if request.header("expect").is_some() {
            self.writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if !request.is_chunked() {
            return self.append(&mut request.body, length, intake);
        }
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return Ok(Arrived::Part);
            }
            let size = line.trim_end().split(';').next().unwrap_or("");
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid("a bad chunk size"))?;
            if size == 0 {
                break;
            }
            match self.append(&mut request.body, size, intake)? {
                Arrived::Whole => {}
                other => return Ok(other),
            }
            self.reader.read_line(&mut line)?;
        }
        // Trailers, up to the empty line.
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
                return Ok(Arrived::Whole);
            }
        }
    }

    fn append(&mut self, body: &mut Vec<u8>, size: u64, intake: Intake) -> io::Result<Arrived> {
        let end = body.len() as u64 + size;
        if end > MAX_BODY {
            return Err(invalid("a body beyond all measure"));
        }
        if intake.limit.is_some_and(|limit| end > limit) {
            return Ok(Arrived::TooLong);
        }
        let stop = intake.stop_after.unwrap_or(u64::MAX).min(end);
        let mut pace = Pace::new(intake.pace);
        while (body.len() as u64) < stop {
            let piece = pace.piece().min(stop - body.len() as u64);
            // Bytes that came before a failure are in the vector all the same.
            let before = body.len();
            let got = (&mut self.reader).take(piece).read_to_end(body);
            self.traffic.add_received(body.len() - before);
            if got.is_err() || ((body.len() - before) as u64) < piece {
                return Ok(Arrived::Part);
            }
            pace.wait(piece);
        }
        Ok(if stop < end { Arrived::Part } else { Arrived::Whole })
    }

    /// Writes a response in the way that was asked for.
    pub(crate) fn write_response(
        &mut self,
        request: &Request,
        response: &Response,
        delivery: Delivery,
    ) -> io::Result<()> {
        let content = response.content();
        let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
        for (name, value) in response.headers() {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("Docker-Distribution-Api-Version: registry/2.0\r\n");
        let chunked = delivery.chunked && request.method != "HEAD" && response.status != 204;
        if chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if response.status != 204 {
            let length = delivery.announce.unwrap_or(content.len());
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        head.push_str("\r\n");
        let content = if request.method == "HEAD" { &[] } else { content };
        let end = delivery.cut.or(delivery.stall).unwrap_or(content.len()).min(content.len());
        let mut pace = Pace::new(delivery.pace);
        // The head goes out with the first bytes, in one segment for what fits in one.
        let mut out = head.into_bytes();
        let mut rest = &content[..end];
        loop {
            let limit = usize::try_from(pace.piece()).unwrap_or(PIECE).min(PIECE);
            let (piece, after) = rest.split_at(limit.min(rest.len()));
            if chunked && !piece.is_empty() {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            } else {
                out.extend_from_slice(piece);
            }
            self.writer.write_all(&out)?;
            self.traffic.add_sent(piece.len());
            out.clear();
            rest = after;
            if rest.is_empty() {
                break;
            }
            pace.wait(piece.len() as u64);
        }
        if chunked && end == content.len() {
            self.writer.write_all(b"0\r\n\r\n")?;
        }
        if delivery.stall.is_some() {
            self.wait_for_close();
        }
        Ok(())
    }

    /// Reads on for a while after a response that came before the request's end: closing at once
    /// would make the system discard the response on the client's side.
    pub(crate) fn linger(&mut self) {
        let _ = self.writer.set_read_timeout(Some(Duration::from_millis(500)));
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut sink = vec![0; 64 << 10];
        while Instant::now() < deadline && self.reader.read(&mut sink).is_ok_and(|count| count > 0)
        {
        }
    }

    /// Waits until the client goes away.
    pub(crate) fn wait_for_close(&mut self) {
        let mut sink = vec![0; 64 << 10];
        while self.reader.read(&mut sink).is_ok_and(|count| count > 0) {}
    }
}

/// Lets bytes through at a given rate.
struct Pace {
    per_second: Option<u64>,
    start: Instant,
    moved: u64,
}

impl Pace {
    fn new(per_second: Option<u64>) -> Self {
        Self { per_second, start: Instant::now(), moved: 0 }
    }

    /// Returns how many bytes may go at once.
    fn piece(&self) -> u64 {
        self.per_second.map_or(PIECE as u64, |rate| (rate / PACES).max(1))
    }

    /// Waits until the bytes moved so far are due.
    fn wait(&mut self, moved: u64) {
        self.moved += moved;
        if let Some(rate) = self.per_second {
            let due = Duration::from_millis(self.moved * 1000 / rate.max(1));
            std::thread::sleep(due.saturating_sub(self.start.elapsed()));
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}
