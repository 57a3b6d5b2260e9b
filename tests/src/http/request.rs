//! What a client asks for.

/// A request; its body is empty until it has been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query as sent; a proxy's client puts scheme and host before them.
    pub(crate) target: String,
    /// The path, with `%XX` resolved.
    pub(crate) path: String,
    query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(super) fn new(method: &str, target: &str, headers: Vec<(String, String)>) -> Self {
        // RFC 9112, section 3.2.2: a server accepts the form that proxies get.
        let own = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
            None => target,
        };
        let (path, query) = own.split_once('?').unwrap_or((own, ""));
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            path: decode(path),
            query: form(query),
            headers,
            body: Vec::new(),
        }
    }

    /// Returns a header; `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns all values that a name has in the query.
    pub(crate) fn queries(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the fields of a form that is the body.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        form(&String::from_utf8_lossy(&self.body))
    }

    pub(crate) fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// Takes `a=b&c=d` apart.
fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(&value.replace('+', " ")))
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_codes_are_resolved_and_others_kept() {
        assert_eq!(decode("sha256%3aab%2Fc%zz%"), "sha256:ab/c%zz%");
    }

    #[test]
    fn the_form_that_proxies_get_means_the_same_path() {
        let request = Request::new("GET", "http://r.test:5000/v2/a?b=c%20d+e", Vec::new());
        assert_eq!((request.path.as_str(), request.query("b")), ("/v2/a", Some("c d e")));
        assert_eq!(Request::new("GET", "http://r.test", Vec::new()).path, "/");
    }
}
