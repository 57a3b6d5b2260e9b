//! What a registry asks for with `WWW-Authenticate`.
//!
//! Parsing never fails: what makes no sense is left out, and a registry that says nothing we
//! understand is one that asks for nothing we have. Answering is in [`crate::auth`].
//!
//! # Source
//! RFC 9110, section 11.6.1; the token specification of the distribution project.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One challenge: a scheme and its parameters, both in lower case but for the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// `basic`, `bearer`, or something else.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns a parameter by its lower-case name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Reads all challenges of a response, in order.
    pub fn of(headers: &HeaderMap) -> Vec<Self> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter();
        lines.flat_map(|line| parse(&String::from_utf8_lossy(line.as_bytes()))).collect()
    }
}

/// Parses one header line, which may hold several challenges.
pub(crate) fn parse(line: &str) -> Vec<Challenge> {
    let mut scanner = Scanner { rest: line };
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        scanner.skip(|c| c.is_ascii_whitespace() || c == ',');
        let word = scanner.token();
        if word.is_empty() {
            // Either the end, or a character that begins nothing: skip it and go on.
            if scanner.next().is_none() {
                return challenges;
            }
            continue;
        }
        let word = word.to_ascii_lowercase();
        scanner.skip(|c| c.is_ascii_whitespace());
        if !scanner.rest.starts_with('=') {
            challenges.push(Challenge { scheme: word, parameters: Vec::new() });
            continue;
        }
        scanner.skip(|c| c == '=' || c.is_ascii_whitespace());
        let value = scanner.value();
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word, value));
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(what);
    }

    /// Takes a token; the characters of `token68` are taken for one as well.
    fn token(&mut self) -> &'a str {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c);
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn value(&mut self) -> String {
        if !self.rest.starts_with('"') {
            return self.token().to_owned();
        }
        self.next();
        let mut value = String::new();
        while let Some(c) = self.next() {
            match c {
                '"' => break,
                '\\' => value.extend(self.next()),
                _ => value.push(c),
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(challenge: &Challenge) -> Vec<(&str, &str)> {
        challenge.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    #[test]
    fn commas_and_escapes_in_quotes_belong_to_the_value() {
        let parsed = parse(
            r#"Bearer Realm="https://a/t?x=1,2",service="a \"b\" c",scope="repository:x:pull,push""#,
        );
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].scheme, "bearer");
        assert_eq!(
            pairs(&parsed[0]),
            [
                ("realm", "https://a/t?x=1,2"),
                ("service", "a \"b\" c"),
                ("scope", "repository:x:pull,push")
            ]
        );
    }

    #[test]
    fn one_line_may_hold_several_challenges() {
        let parsed = parse(r#"Negotiate, Basic realm="one, two" , bearer realm=x,error = "y""#);
        let schemes: Vec<&str> = parsed.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(parsed[1].get("realm"), Some("one, two"));
        assert_eq!(parsed[2].get("error"), Some("y"));
        assert_eq!(parsed[2].get("scope"), None);
    }

    #[test]
    fn a_token_without_parameters_does_not_hide_what_follows() {
        let parsed = parse(r#"NTLM abc+/9==, Basic realm="r""#);
        assert!(parsed.iter().any(|c| c.scheme == "basic" && c.get("realm") == Some("r")));
    }

    #[test]
    fn several_header_lines_are_read_in_order() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Bearer realm=\"a\"".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Basic realm=\"b\"".parse().unwrap());
        let schemes: Vec<String> = Challenge::of(&headers).into_iter().map(|c| c.scheme).collect();
        assert_eq!(schemes, ["bearer", "basic"]);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(line in "\\PC{0,200}") {
            parse(&line);
        }

        #[test]
        fn any_mixture_of_the_grammar_is_parsed(line in "([a-z]{1,5}|[ ,=\"\\\\]){0,40}") {
            for challenge in parse(&line) {
                prop_assert!(!challenge.scheme.is_empty());
            }
        }
    }
}
