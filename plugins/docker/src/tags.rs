//! Listing a repository's tags, page by page.
//!
//! # Source
//! OCI distribution-spec 1.1, "Listing Tags"; RFC 8288.

use std::collections::HashSet;

use diolkos_sdk::{Error, ErrorKind, Result, ResultExt, Tags};
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::message::{self, Request, Target};
use crate::registry::{Access, Repository};

/// How many tags are asked for at once; a registry may give fewer.
const PAGE: u32 = 1000;
/// The largest page that is read, in bytes.
const MAX_PAGE: usize = 64 * 1024 * 1024;
/// The largest list that is read, in bytes: some millions of tags.
const MAX_LIST: usize = 128 * 1024 * 1024;
/// What a page counts at least: there may be as many empty ones as a registry likes.
const LEAST_PAGE: usize = 16 * 1024;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// Lists the tags of a repository, in the registry's order.
pub(crate) fn list(repository: &Repository) -> Result<Tags> {
    let tags = repository
        .block_on(collect(repository))
        .context(|| format!("listing tags of {}", repository.name.name()))?;
    Ok(Tags { repository: repository.name.name(), tags })
}

async fn collect(repository: &Repository) -> Result<Vec<String>> {
    let mut tags = Vec::new();
    let mut seen = HashSet::new();
    let mut size = 0;
    let mut next = format!("/v2/{}/tags/list?n={PAGE}", repository.name.path());
    while seen.insert(next.clone()) {
        let request = || {
            Request::new(Method::GET, Target::Path(next.clone()))
                .scope(repository.scope(Access::Pull))
                .patience(Some(repository.idle_timeout))
        };
        let page = match repository.fetch(request, MAX_PAGE).await? {
            Ok(page) => page,
            Err(response) => {
                return Err(message::failure(response).await.context("fetching tags list"));
            }
        };
        let following = next_page(&page.headers, &page.url);
        size += page.body.len().max(LEAST_PAGE);
        if size > MAX_LIST {
            let message = format!("the list of tags does not end within {MAX_LIST} bytes");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let page: Page = serde_json::from_slice(&page.body).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "decoding tag list response").with_source(error)
        })?;
        for tag in page.tags.unwrap_or_default() {
            repository.name.with_tag(&tag).map_err(|error| {
                Error::new(ErrorKind::Corrupt, format!("registry returned invalid tag {tag:?}"))
                    .with_source(error)
            })?;
            tags.push(tag);
        }
        match following {
            Some(following) => next = following,
            None => return Ok(tags),
        }
    }
    Err(Error::new(ErrorKind::Corrupt, "the registry's pages of tags lead back to an earlier one"))
}

/// Returns path and query of the next page.
///
/// Whatever host the link names, the registry is asked: credentials must not go elsewhere, and
/// registries behind a proxy do not know their own name.
pub(crate) fn next_page(headers: &HeaderMap, current: &Url) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let target = links.flat_map(parse_links).find(|(_, rel)| rel.as_deref().is_none_or(is_next))?.0;
    let url = current.join(target).ok().filter(Url::has_host)?;
    Some(match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    })
}

fn is_next(rel: &str) -> bool {
    rel.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
}

/// Splits a `Link` header into its targets and their relation.
fn parse_links(header: &str) -> Vec<(&str, Option<String>)> {
    let mut links = Vec::new();
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, after)) = after.split_once('>') else { break };
        let end = end_of_parameters(after);
        let rel = after[..end].split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel").then(|| value.to_owned())
        });
        links.push((target, rel));
        rest = &after[end..];
    }
    links
}

/// Returns where the parameters of a link end: at a comma outside quotes.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    let comma = text.find(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    comma.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn next(link: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_str(link).ok()?)]);
        next_page(&headers, &Url::parse("https://r.example/v2/a/tags/list?n=1").unwrap())
    }

    #[test]
    fn links_are_relative_or_absolute_and_stay_with_the_registry() {
        let path = Some("/v2/a/tags/list?last=b&n=1".to_owned());
        assert_eq!(next(r#"</v2/a/tags/list?last=b&n=1>; rel="next""#), path);
        assert_eq!(next("<https://evil.example/v2/a/tags/list?last=b&n=1>; rel=next"), path);
        assert_eq!(next("<list?last=b&n=1>;rel=\"next\""), path);
        assert_eq!(next("</v2/a/tags/list?last=b&n=1>"), path);
    }

    #[test]
    fn only_the_link_to_the_next_page_counts() {
        assert_eq!(
            next(r#"</first>; rel="first"; title="a, <b>", </next>; rel="last next""#),
            Some("/next".to_owned())
        );
        assert_eq!(next(r#"</prev>; rel="prev""#), None);
        for nothing in ["", "next", "<", "<>; rel=\"prev\"", "<mailto:x>; rel=\"next\""] {
            assert_eq!(next(nothing), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_without_panic(link in "([<>;,=\" a-z/?]|rel=next){0,60}") {
            let _ = next(&link);
            parse_links(&link);
        }
    }
}
