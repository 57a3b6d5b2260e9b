//! What a server answers.

use std::sync::Arc;

/// An answer, not yet sent.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    /// The half-open part of the body that is sent.
    part: (usize, usize),
}

impl Response {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Arc::default(), part: (0, 0) }
    }

    /// Makes an error with the body that the distribution-spec prescribes.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Self::new(status).json(body.to_string())
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        self.shared_body(Arc::new(body.into()))
    }

    pub(crate) fn json(self, body: impl Into<Vec<u8>>) -> Self {
        self.with("Content-Type", "application/json").body(body)
    }

    pub(crate) fn shared_body(mut self, body: Arc<Vec<u8>>) -> Self {
        self.part = (0, body.len());
        self.body = body;
        self
    }

    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Puts a header in place of all of its name.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Returns the bytes that are sent.
    pub(crate) fn content(&self) -> &[u8] {
        &self.body[self.part.0..self.part.1]
    }

    /// Narrows the body to what a `Range` header asks for.
    pub(crate) fn ranged(mut self, range: Option<&str>) -> Self {
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
    pub(crate) fn flip(&mut self, at: usize) {
        if let Some(byte) = Arc::make_mut(&mut self.body).get_mut(at) {
            *byte ^= 0x55;
        }
    }
}

pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        416 => "Range Not Satisfiable",
        418 => "I'm a teapot",
        425 => "Too Early",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_body_and_refused_beyond_it() {
        let response = |range| Response::new(200).body("0123456789").ranged(Some(range));
        assert_eq!(
            (response("bytes=3-").status, response("bytes=3-").content()),
            (206, &b"3456789"[..])
        );
        assert_eq!(response("bytes=0-99").content().len(), 10);
        assert_eq!(response("bytes=10-").status, 416);
        assert_eq!(response("bytes=5-4").status, 416);
        assert_eq!(response("lines=1-2").status, 200);
    }
}
