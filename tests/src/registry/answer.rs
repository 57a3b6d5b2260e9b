//! Answers of a test's own making.

use crate::http::Response;

/// What a request is answered with in place of the usual.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// Whether the request's body is not waited for.
    pub(super) early: bool,
}

impl Answer {
    /// Makes an answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new(), early: false }
    }

    /// Makes an error in the form of the distribution-spec; the message tells that it is injected.
    pub fn error(status: u16, code: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": "injected"}]});
        Self::empty(status).header("Content-Type", "application/json").body(body.to_string())
    }

    /// Makes an answer with a text.
    pub fn text(status: u16, text: &str) -> Self {
        Self::empty(status).header("Content-Type", "text/plain").body(text)
    }

    /// Makes the web page that nginx shows for a status.
    pub fn html(status: u16) -> Self {
        let page = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n\
             <center><h1>{status}</h1></center>\r\n<hr><center>nginx</center>\r\n\
             </body>\r\n</html>\r\n"
        );
        Self::empty(status).header("Content-Type", "text/html").body(page)
    }

    /// Adds a header; one of the same name stays.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Tells when to come back: seconds or an HTTP date.
    #[must_use]
    pub fn retry_after(self, when: impl ToString) -> Self {
        self.header("Retry-After", when.to_string())
    }

    /// Replaces the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Lets it go out as soon as the request's head has arrived, as a server in front of a
    /// registry does; the connection is closed afterwards.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    pub(super) fn response(&self) -> Response {
        let response = Response::new(self.status).body(self.body.clone());
        self.headers.iter().fold(response, |response, (name, value)| response.with(name, value))
    }
}
