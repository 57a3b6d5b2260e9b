//! The parsers of outside bytes, for the fuzz targets in `fuzz/`: none may panic, whatever it gets.

use std::path::Path;

use reqwest::Url;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, LINK, LOCATION, RANGE, RETRY_AFTER};

use crate::{challenge, config, credentials, download, errors, message, tags, uploads};

/// Parses a file of credentials in both of its forms, and a helper program's answer.
pub fn auth_file(bytes: &[u8]) {
    credentials::try_out(bytes);
}

/// Parses registries.conf.
pub fn registries_conf(text: &str) {
    let _ = config::registries_conf::parse(text, Path::new("registries.conf"));
}

/// Parses a file of registries.d, and the details of TLS, which are YAML too.
pub fn yaml_files(text: &str) {
    let _ = config::registries_d::parse(text, Path::new("registries.yaml"));
    let _ = config::tls_details::parse(text, Path::new("details.yaml"));
}

/// Parses the headers of answers.
pub fn headers(bytes: &[u8]) {
    challenge::parse(&String::from_utf8_lossy(bytes));
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let url = Url::parse("https://r.example:5000/v2/a/tags/list?n=1").expect("it is a URL");
    let names = [CONTENT_RANGE, LINK, LOCATION, RANGE, RETRY_AFTER];
    let headers: HeaderMap = names.into_iter().map(|name| (name, value.clone())).collect();
    let _ = errors::retry_after(&headers);
    let _ = tags::next_page(&headers, &url);
    let _ = message::resolve(&url, &value);
    let _ = uploads::received(&headers);
    let _ = download::BlobPart::of(&headers);
}
