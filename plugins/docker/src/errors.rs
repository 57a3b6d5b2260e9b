//! What went wrong, in kinds the engine acts on and words a person (or a script) looks for.
//!
//! - [`of_response`]: an answer with a status that is no success, in the registry's own words
//!   where it has any.
//! - [`of_transport`]: no answer at all.
//!
//! URLs are shown without query and user, which may hold signatures and tokens.
//!
//! # Source
//! OCI distribution-spec 1.1, "Error Codes"; the words are those of the Go programs of the field.

use std::time::Duration;

use diolkos_network::failures::{Cause, Hints};
use diolkos_sdk::{Error, ErrorKind};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use crate::challenge::Challenge;
use crate::gate::LONGEST_PAUSE;

/// How many bytes of an unexpected body are shown.
const BODY_SHOWN: usize = 50;

/// Returns a URL for messages: without user, password, query and fragment.
pub(crate) fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both fail only for URLs that cannot have them.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

/// The codes of the specification and what registries say by default.
const CODES: [(&str, &str); 18] = [
    ("UNKNOWN", "unknown error"),
    ("UNSUPPORTED", "The operation is unsupported."),
    ("UNAUTHORIZED", "authentication required"),
    ("DENIED", "requested access to the resource is denied"),
    ("UNAVAILABLE", "service unavailable"),
    ("TOOMANYREQUESTS", "too many requests"),
    ("DIGEST_INVALID", "provided digest did not match uploaded content"),
    ("SIZE_INVALID", "provided length did not match content length"),
    ("NAME_INVALID", "invalid repository name"),
    ("TAG_INVALID", "manifest tag did not match URI"),
    ("NAME_UNKNOWN", "repository name not known to registry"),
    ("MANIFEST_UNKNOWN", "manifest unknown"),
    ("MANIFEST_INVALID", "manifest invalid"),
    ("MANIFEST_UNVERIFIED", "manifest failed signature verification"),
    ("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"),
    ("BLOB_UNKNOWN", "blob unknown to registry"),
    ("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
    ("BLOB_UPLOAD_INVALID", "blob upload invalid"),
];

/// The first error of a registry's JSON answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    code: String,
    message: String,
}

impl Entry {
    /// Finds the entry in a body; `None` when it is not of the specification's form.
    fn of(status: StatusCode, body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        if let Some(details) = value.get("details").and_then(Value::as_str) {
            let code = match status.as_u16() {
                401 => "UNAUTHORIZED",
                429 => "TOOMANYREQUESTS",
                _ => "UNKNOWN",
            };
            return Some(Self { code: code.into(), message: details.to_owned() });
        }
        let first = value.get("errors")?.as_array()?.first()?;
        let text = |key| first.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self { code: text("code"), message: text("message") })
    }

    /// Says it in the registry's words; a default message stands for itself.
    fn text(&self) -> String {
        let known = CODES.iter().find(|(code, _)| *code == self.code);
        let words = known
            .map_or("unknown".to_owned(), |(code, _)| code.to_ascii_lowercase().replace('_', " "));
        match known {
            _ if self.message.is_empty() => words,
            Some((_, default)) if self.message == *default => self.message.clone(),
            _ => format!("{words}: {}", self.message),
        }
    }
}

/// Makes the error of an answer that is no success.
pub(crate) fn of_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    if status == StatusCode::UNAUTHORIZED
        && let Some(error) = of_challenge(headers)
    {
        return error;
    }
    let entry = status.is_client_error().then(|| Entry::of(status, body)).flatten();
    let kind = kind(status, entry.as_ref());
    let message = match (&entry, status) {
        (Some(entry), _) => entry.text(),
        (None, StatusCode::UNAUTHORIZED) => "authentication required".to_owned(),
        (None, status) if status.is_client_error() => {
            format!("StatusCode: {}, {}", status.as_u16(), quoted(body))
        }
        (None, status) => format!("received unexpected HTTP status: {status}"),
    };
    let mut error = Error::new(kind, message);
    if matches!(kind, ErrorKind::RateLimited | ErrorKind::Unavailable)
        && let Some(delay) = retry_after(headers)
    {
        if delay > LONGEST_PAUSE {
            // Nobody waits for that: it is for the user to come back.
            let text = span(delay);
            let message = error.message().to_owned();
            return Error::new(ErrorKind::Denied, message)
                .with_hint(format!("the registry asks to be left alone for {text}"));
        }
        error = error.with_retry_after(delay);
    }
    match status.as_u16() {
        401 => error.with_hint("log in with the `login` command, or give credentials with --creds"),
        413 => error.with_hint("the registry, or a proxy before it, limits the size of uploads"),
        _ if entry.is_none() && status.is_client_error() && looks_like_html(body) => {
            error.with_hint("the answer is a web page: check that the host is a container registry")
        }
        _ => error,
    }
}

/// Reads what a bearer challenge says of a token that was sent.
fn of_challenge(headers: &HeaderMap) -> Option<Error> {
    let challenges = Challenge::of(headers);
    let bearer = challenges.iter().find(|challenge| challenge.scheme == "bearer")?;
    let (kind, code) = match bearer.get("error")? {
        "invalid_token" => (ErrorKind::Unauthorized, "UNAUTHORIZED"),
        "insufficient_scope" => (ErrorKind::Denied, "DENIED"),
        _ => return None,
    };
    let default = CODES.iter().find(|(known, _)| *known == code).map_or("", |(_, text)| text);
    let message = bearer.get("error_description").unwrap_or(default).to_owned();
    let text = Entry { code: code.into(), message }.text();
    Some(Error::new(kind, text).with_hint("check that the credentials in use allow this"))
}

fn kind(status: StatusCode, entry: Option<&Entry>) -> ErrorKind {
    match entry.map(|entry| entry.code.as_str()) {
        Some("DENIED") => return ErrorKind::Denied,
        Some("TOOMANYREQUESTS") => return ErrorKind::RateLimited,
        Some("DIGEST_INVALID" | "SIZE_INVALID") => return ErrorKind::Corrupt,
        Some("MANIFEST_UNKNOWN") => return ErrorKind::ImageNotFound,
        // The upload is forgotten, perhaps by another instance of the registry: begin again.
        Some("BLOB_UPLOAD_UNKNOWN" | "BLOB_UPLOAD_INVALID") => return ErrorKind::Unavailable,
        Some("MANIFEST_INVALID" | "TAG_INVALID") => return ErrorKind::ManifestRejected,
        // Some registries name a missing media type this way.
        Some("UNSUPPORTED") if entry.is_some_and(|e| e.message.contains("Invalid JSON syntax")) => {
            return ErrorKind::ManifestRejected;
        }
        _ => {}
    }
    match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        404 | 410 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::Unsupported,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::RateLimited,
        400 | 411 | 414..=416 | 422 => ErrorKind::InvalidInput,
        408 | 425 | 500..=599 => ErrorKind::Unavailable,
        400..=499 => ErrorKind::Denied,
        _ => ErrorKind::Unsupported,
    }
}

/// Tells whether a registry named one of these codes.
pub(crate) fn has_code(status: StatusCode, body: &[u8], codes: &[&str]) -> bool {
    Entry::of(status, body).is_some_and(|entry| codes.contains(&entry.code.as_str()))
}

/// Writes a long time for people.
fn span(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} minutes"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

fn quoted(body: &[u8]) -> String {
    let cut = &body[..body.len().min(BODY_SHOWN)];
    let more = if body.len() > BODY_SHOWN { "..." } else { "" };
    format!("{:?}", format!("{}{more}", String::from_utf8_lossy(cut)))
}

fn looks_like_html(body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(256)]).trim_start().to_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// Reads `Retry-After`, given in seconds or as a date; a date that has passed says nothing.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    // HTTP dates end in the zone's name, which RFC 2822 still allows.
    let date = rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(date.duration_since(Timestamp::now())).ok().filter(|it| !it.is_zero())
}

/// Makes the error of a request that got no answer.
pub(crate) fn of_transport(method: &Method, url: &Url, error: &reqwest::Error) -> Error {
    let cause = Cause::of(url, error, &HINTS);
    let shown = redact(url);
    let mut verb = method.as_str().to_ascii_lowercase();
    if let Some(first) = verb.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let mut result = Error::new(cause.kind, format!("{verb} {shown:?}: {}", cause.text));
    if let Some(hint) = cause.hint {
        result = result.with_hint(hint);
    }
    result
}

const HINTS: Hints = Hints {
    not_listening: "check the registry's host and port, and that it is running",
    no_host: "check the registry's name, and that this machine can resolve names",
    without_tls: "give --tls-verify=false if the registry is meant to be reached without TLS",
    unknown_authority: "put the authority's certificate as NAME.crt into a directory and give it \
                        with --cert-dir, or give --tls-verify=false if the network is trusted",
    client_certificate: "the registry wants a client's certificate that it knows: put NAME.cert \
                         and NAME.key into a directory and give it with --cert-dir",
    proxy: "check HTTP_PROXY and HTTPS_PROXY, or name the registry's host in NO_PROXY",
};

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn respond(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap()))
            .collect();
        of_response(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    fn coded(status: u16, code: &str, message: &str) -> Error {
        respond(
            status,
            &[],
            &format!(r#"{{"errors":[{{"code":{code:?},"message":{message:?}}},{{"code":"X"}}]}}"#),
        )
    }

    #[test]
    fn registries_are_quoted_in_their_own_words() {
        for (error, text, kind) in [
            (
                coded(404, "MANIFEST_UNKNOWN", "manifest unknown"),
                "manifest unknown",
                ErrorKind::ImageNotFound,
            ),
            (
                coded(404, "MANIFEST_UNKNOWN", "no such tag"),
                "manifest unknown: no such tag",
                ErrorKind::ImageNotFound,
            ),
            (
                coded(404, "NAME_UNKNOWN", "repository name not known to registry"),
                "repository name not known to registry",
                ErrorKind::NotFound,
            ),
            (
                coded(403, "DENIED", "requested access to the resource is denied"),
                "requested access to the resource is denied",
                ErrorKind::Denied,
            ),
            (
                coded(401, "UNAUTHORIZED", "authentication required"),
                "authentication required",
                ErrorKind::Unauthorized,
            ),
            (coded(401, "UNAUTHORIZED", "who?"), "unauthorized: who?", ErrorKind::Unauthorized),
            (
                coded(418, "TEAPOT", "short and stout"),
                "unknown: short and stout",
                ErrorKind::Denied,
            ),
            (
                coded(400, "MANIFEST_INVALID", "bad"),
                "manifest invalid: bad",
                ErrorKind::ManifestRejected,
            ),
            (
                coded(400, "UNSUPPORTED", "Invalid JSON syntax"),
                "unsupported: Invalid JSON syntax",
                ErrorKind::ManifestRejected,
            ),
            (coded(405, "UNSUPPORTED", ""), "unsupported", ErrorKind::Unsupported),
            (
                respond(429, &[], r#"{"details":"slow down"}"#),
                "toomanyrequests: slow down",
                ErrorKind::RateLimited,
            ),
        ] {
            assert_eq!(error.message(), text);
            assert_eq!(error.kind(), kind, "{text}");
        }
    }

    #[test]
    fn bodies_of_another_form_are_shown_in_part() {
        let error = respond(404, &[], &"x".repeat(60));
        assert_eq!(error.message(), format!("StatusCode: 404, \"{}...\"", "x".repeat(50)));
        assert_eq!(respond(418, &[], "").message(), "StatusCode: 418, \"\"");
        assert_eq!(respond(403, &[], "<!DOCTYPE html>").kind(), ErrorKind::Denied);
        assert!(respond(404, &[], "<html>").hint().unwrap().contains("web page"));
        assert_eq!(respond(401, &[], "<html>").message(), "authentication required");
        let error = respond(502, &[], "<html>");
        assert_eq!(error.message(), "received unexpected HTTP status: 502 Bad Gateway");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_token_of_too_small_a_scope_is_a_refusal() {
        let error = respond(
            401,
            &[("www-authenticate", r#"Bearer realm="r",error="insufficient_scope""#)],
            "{}",
        );
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.message(), "requested access to the resource is denied");
        let error =
            respond(401, &[("www-authenticate", r#"Bearer realm="r",error="invalid_token""#)], "");
        assert_eq!(error.message(), "authentication required");
    }

    #[test]
    fn delays_are_read_in_both_forms() {
        assert_eq!(respond(429, &[("retry-after", "7")], "").retry_after().unwrap().as_secs(), 7);
        let date = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(90)).unwrap();
        let text = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let delay = respond(503, &[("retry-after", &text)], "").retry_after().unwrap();
        assert!((80..=90).contains(&delay.as_secs()), "{delay:?}");
        let error = respond(429, &[("retry-after", "7200")], "");
        assert_eq!(error.retry_after(), None);
        assert!(error.hint().unwrap().contains("for 2 h"), "{:?}", error.hint());
        let past = "Wed, 21 Oct 2015 07:28:00 GMT";
        for useless in [past, "-1", "soon", ""] {
            assert_eq!(respond(429, &[("retry-after", useless)], "").retry_after(), None);
        }
    }

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        let url = Url::parse("https://me:pw@h:1/v2/x?sig=s3cret#f").unwrap();
        assert_eq!(redact(&url), "https://h:1/v2/x");
    }
}
