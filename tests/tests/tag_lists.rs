//! Lists of tags in pages, and the ways in which registries name the next one.

use std::time::{Duration, Instant};

use diolkos_tests::{Access, Answer, Fault, Home, Outcome, Registry, Run as _};

/// A registry whose repository `r` has the tags `a`, `b` and `c`.
fn registry(access: Access) -> Registry {
    let registry = Registry::start_with(access).unwrap();
    for tag in ["a", "b", "c"] {
        registry.seed_manifest("r", Some(tag), "application/x", b"{}");
    }
    registry
}

fn list(registry: &Registry, flags: &[&str]) -> Outcome {
    let reference = registry.reference("r");
    Home::new().diolkos().args(["list-tags", "--tls-verify=false"]).args(flags).arg(reference).run()
}

fn page(tags: &str, link: &str) -> Fault {
    let body = format!(r#"{{"name":"r","tags":[{tags}]}}"#);
    let answer = Answer::empty(200).header("Content-Type", "application/json").body(body);
    Fault::Answer(answer.header("Link", link))
}

#[test]
fn the_next_page_is_found_however_it_is_written() {
    let next = "/v2/r/tags/list?last=a&n=100";
    for link in [
        format!("<{next}>; rel=\"next\""),
        format!("<{next}>; rel=next"),
        format!("<{next}>;rel=\"next\""),
        format!("<{next}>; title=\"a, b; c\"; rel=\"next\""),
        format!("</v2/r/tags/list>; rel=\"prev\", <{next}>; rel=\"next\""),
        "<?last=a&n=100>; rel=\"next\"".to_owned(),
    ] {
        let registry = registry(Access::Open);
        registry.inject("GET", "/tags/list", 1, page(r#""a""#, &link));
        let tags = list(&registry, &[]).expect_success().json()["Tags"].clone();
        assert_eq!(tags, serde_json::json!(["a", "b", "c"]), "{link}");
    }
}

#[test]
fn a_list_that_leads_back_to_itself_ends() {
    let registry = registry(Access::Open);
    registry.always("GET", "/tags/list", page(r#""a""#, "</v2/r/tags/list?n=1>; rel=\"next\""));
    let start = Instant::now();
    let outcome = list(&registry, &[]);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(registry.requests_of("GET", "/tags/list").len() < 20);
    if outcome.code != Some(0) {
        outcome.expect_words(&[&registry.host()]);
    }
}

#[test]
fn a_broken_link_is_an_error_or_the_end_and_never_a_crash() {
    for link in
        ["<", "<>; rel=\"next\"", "<http://[>; rel=\"next\"", "next", "<ftp://x/y>; rel=\"next\""]
    {
        let registry = registry(Access::Open);
        registry.inject("GET", "/tags/list", 1, page(r#""a""#, link));
        let outcome = list(&registry, &[]);
        assert!(matches!(outcome.code, Some(0 | 1)), "{link}: {outcome:?}");
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    }
}

#[test]
fn a_page_on_another_host_is_not_told_who_asks() {
    let registry = registry(Access::basic("me", "hush-hush"));
    let elsewhere = registry.start_storage([127, 0, 0, 2].into()).unwrap();
    let link = format!("<http://{}/v2/r/tags/list?last=a>; rel=\"next\"", elsewhere.host());
    registry.always("GET", "/tags/list", Fault::header("Link", link));
    let outcome = list(&registry, &["--creds=me:hush-hush"]).expect_secrecy(&["hush-hush"]);
    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
    let seen = elsewhere.requests();
    assert!(seen.iter().all(|request| !request.is_authorized()), "{seen:?}");
}

#[test]
fn a_list_without_end_is_left() {
    // Each page is large, and has another one behind it.
    let registry = registry(Access::Open);
    let tags: Vec<String> = (0..200_000).map(|number| format!("\"t{number:0>100}\"")).collect();
    let tags = tags.join(",");
    for number in 0..8 {
        let link = format!("</v2/r/tags/list?last={number}>; rel=\"next\"");
        registry.inject("GET", "/tags/list", 1, page(&tags, &link));
    }
    list(&registry, &[]).expect_code(1).expect_words(&["does not end"]);
    assert!(registry.requests_of("GET", "/tags/list").len() < 9);
}
