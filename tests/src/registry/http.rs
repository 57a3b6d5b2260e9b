//! HTTP/1.1 on one connection, as much of it as registries' clients use.
//!
//! # Source
//! RFC 9112 for framing, RFC 9110 for ranges.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

/// A request's head may not be longer.
const MAX_HEAD: u64 = 64 << 10;
/// Nor its body.
const MAX_BODY: u64 = 8 << 30;

pub(super) struct Request {
    pub(super) method: String,
    /// Path and query as sent.
    pub(super) target: String,
    /// The path, with `%XX` resolved.
    pub(super) path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Returns a header; `name` is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(&'static str, String)>,
    body: Arc<Vec<u8>>,
    /// The half-open part of the body that is sent.
    part: (usize, usize),
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Arc::default(), part: (0, 0) }
    }

    /// Makes an error with the body that the distribution-spec prescribes.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Self::new(status).with("Content-Type", "application/json").body(body.to_string())
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        self.shared_body(Arc::new(body.into()))
    }

    pub(super) fn shared_body(mut self, body: Arc<Vec<u8>>) -> Self {
        self.part = (0, body.len());
        self.body = body;
        self
    }

    /// Narrows the body to what a `Range` header asks for.
    pub(super) fn ranged(mut self, range: Option<&str>) -> Self {
        let Some(wanted) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            return self;
        };
        let size = self.body.len();
        let bounds = wanted.split_once('-').and_then(|(first, last)| {
            let first: usize = first.parse().ok()?;
            let last = if last.is_empty() { size.checked_sub(1)? } else { last.parse().ok()? };
            (first < size && first <= last).then(|| (first, last.min(size - 1)))
        });
        let Some((first, last)) = bounds else {
            return Self::error(416, "RANGE_INVALID", "there is no such range")
                .with("Content-Range", format!("bytes */{size}"));
        };
        self.part = (first, last + 1);
        self.status = 206;
        self.with("Content-Range", format!("bytes {first}-{last}/{size}"))
    }

    /// Damages the body.
    pub(super) fn flip(&mut self, at: usize) {
        if let Some(byte) = Arc::make_mut(&mut self.body).get_mut(at) {
            *byte ^= 0x55;
        }
    }
}

/// One client's connection.
pub(super) struct Connection<'a> {
    reader: BufReader<&'a TcpStream>,
    writer: &'a TcpStream,
}

impl<'a> Connection<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::with_capacity(256 << 10, stream), writer: stream })
    }

    /// Reads the next request whole; `None` when the client is done.
    pub(super) fn read_request(&mut self) -> io::Result<Option<Request>> {
        let mut head = (&mut self.reader).take(MAX_HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(invalid("a request line without method and target"));
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Err(invalid("a head that does not end"));
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a bad header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(&value.replace('+', " ")))
            })
            .collect();
        let path = decode(path);
        let mut request = Request { method, target, path, query, headers, body: Vec::new() };
        request.body = self.read_body(&request)?;
        Ok(Some(request))
    }

    fn read_body(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        if request.header("expect").is_some() {
            self.writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let chunked = request
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let mut body = Vec::new();
        if !chunked {
            let size = request.header("content-length").map_or(Ok(0), str::parse::<u64>);
            let size = size.map_err(|_| invalid("a bad length"))?;
            self.append(&mut body, size)?;
            return Ok(body);
        }
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = line.trim_end().split(';').next().unwrap_or("");
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid("a bad chunk size"))?;
            if size == 0 {
                break;
            }
            self.append(&mut body, size)?;
            self.reader.read_line(&mut line)?;
        }
        // Trailers, up to the empty line.
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
                return Ok(body);
            }
        }
    }

    fn append(&mut self, body: &mut Vec<u8>, size: u64) -> io::Result<()> {
        if body.len() as u64 + size > MAX_BODY {
            return Err(invalid("a body beyond all measure"));
        }
        let got = (&mut self.reader).take(size).read_to_end(body)?;
        if got as u64 == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Writes a response; with `cut`, only so many bytes of the body it announces.
    pub(super) fn write_response(
        &mut self,
        request: &Request,
        response: &Response,
        cut: Option<usize>,
    ) -> io::Result<()> {
        let (start, end) = response.part;
        let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
        for (name, value) in &response.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Docker-Distribution-Api-Version: registry/2.0\r\n");
        if response.status != 204 {
            let _ = write!(head, "Content-Length: {}\r\n", end - start);
        }
        head.push_str("\r\n");
        let body = if request.method == "HEAD" { &[] } else { &response.body[start..end] };
        let body = &body[..cut.unwrap_or(body.len()).min(body.len())];
        if body.len() < 16 << 10 {
            // One segment for what fits in one.
            let mut whole = head.into_bytes();
            whole.extend_from_slice(body);
            return self.writer.write_all(&whole);
        }
        self.writer.write_all(head.as_bytes())?;
        self.writer.write_all(body)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// Resolves `%XX`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(code) if byte == b'%' => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        418 => "I'm a teapot",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_codes_are_resolved_and_others_kept() {
        assert_eq!(decode("sha256%3aab%2Fc%zz%"), "sha256:ab/c%zz%");
    }

    #[test]
    fn ranges_are_cut_to_the_body_and_refused_beyond_it() {
        let response = |range| Response::new(200).body("0123456789").ranged(Some(range));
        assert_eq!((response("bytes=3-").status, response("bytes=3-").part), (206, (3, 10)));
        assert_eq!(response("bytes=0-99").part, (0, 10));
        assert_eq!(response("bytes=10-").status, 416);
        assert_eq!(response("bytes=5-4").status, 416);
        assert_eq!(response("lines=1-2").status, 200);
    }
}
