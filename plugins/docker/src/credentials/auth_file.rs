//! What stands in one file of credentials: auth.json, Docker's config.json, and .dockercfg.
//!
//! Only the entry that is asked for must make sense; a broken one beside it harms nobody.
//!
//! # Source
//! containers-auth.json(5). Helpers and stores are Docker's (`credHelpers`, `credsStore`).

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use diolkos_sdk::{Error, ErrorKind, Result};

use super::key::{docker_server, normal_key, normal_registry, with_parents};
use super::object::{Broken, Object};
use super::quote;
use crate::options::Secret;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `auths`, `credHelpers` and `credsStore` in one object.
    Sections,
    /// The content of `auths` alone, as in .dockercfg.
    Legacy,
}

/// A file of credentials, parsed.
pub(crate) struct AuthFile {
    auths: Object,
    helpers: Object,
    store: String,
    format: Format,
}

/// A helper program that a file names for a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedHelper {
    /// What follows `docker-credential-`; empty to use none.
    pub name: String,
    /// What to ask it for.
    pub server: String,
}

/// An entry that matches a key.
pub(super) struct Entry {
    /// The key as written.
    pub key: String,
    pub content: Content,
}

/// What is in an entry.
pub(super) enum Content {
    /// Nothing; Docker leaves such entries where a helper has the password.
    Nothing,
    /// An `auth` without a colon, which nobody can have made on purpose.
    WithoutColon,
    /// A user name, and a password or a token or both.
    Login { username: String, password: Secret, identity_token: Option<Secret> },
}

impl AuthFile {
    /// Parses the content of the file at `path`, which only names it in errors.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when it is not JSON of the right shape.
    pub fn parse(bytes: &[u8], path: &Path, format: Format) -> Result<Self> {
        let read = || -> Result<Self, Broken> {
            let top = Object::parse(bytes)?;
            Ok(match format {
                Format::Legacy => {
                    Self { auths: top, helpers: Object::default(), store: String::new(), format }
                }
                Format::Sections => Self {
                    auths: top.object("auths")?,
                    helpers: top.object("credHelpers")?,
                    store: top.text("credsStore")?,
                    format,
                },
            })
        };
        read().map_err(|broken| broken_file(path, broken))
    }

    /// Returns what a file is that does not exist yet.
    pub(super) fn empty() -> Self {
        let (auths, helpers) = (Object::default(), Object::default());
        Self { auths, helpers, store: String::new(), format: Format::Sections }
    }

    /// Returns the helper that `credHelpers` names for a registry.
    pub(super) fn helper(&self, registry: &str, path: &Path) -> Result<Option<NamedHelper>> {
        let wanted = normal_registry(registry);
        let key = if self.helpers.has(registry) {
            registry
        } else {
            // Docker calls its own registry by a URL.
            let mut keys = self.helpers.names();
            match keys.find(|key| key.contains("://") && normal_key(key, false) == wanted) {
                Some(key) => key,
                None => return Ok(None),
            }
        };
        let name = self.helpers.text(key).map_err(|broken| broken_file(path, broken))?;
        Ok(Some(NamedHelper { name, server: key.to_owned() }))
    }

    /// Returns every registry that `credHelpers` names a helper for.
    pub(super) fn helpers(&self, path: &Path) -> Result<Vec<NamedHelper>> {
        let named = |key: &str| {
            let name = self.helpers.text(key).map_err(|broken| broken_file(path, broken))?;
            Ok(NamedHelper { name, server: key.to_owned() })
        };
        let all: Result<Vec<_>> = self.helpers.names().map(named).collect();
        Ok(all?.into_iter().filter(|helper| !helper.name.is_empty()).collect())
    }

    /// Returns the store that has all passwords without a helper of their own.
    ///
    /// It is asked for the registry as Docker calls it, or as an entry does that Docker left.
    pub(super) fn store(&self, registry: &str) -> Option<NamedHelper> {
        if self.store.is_empty() {
            return None;
        }
        let wanted = normal_registry(registry);
        let mut urls = self.auths.names().filter(|key| key.contains("://"));
        let left = urls.find(|key| normal_key(key, false) == wanted);
        let server = left.unwrap_or_else(|| docker_server(registry)).to_owned();
        Some(NamedHelper { name: self.store.clone(), server })
    }

    /// Returns all keys of `auths`.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.auths.names()
    }

    /// Returns the entry for a key or, if there is none, for what it is part of.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the entry is not what an entry must be; the message names
    /// file and key and nothing of the content.
    pub(super) fn entry(&self, key: &str, registry: &str, path: &Path) -> Result<Option<Entry>> {
        let legacy = self.format == Format::Legacy;
        let mut keys = with_parents(key).filter(|key| !legacy || *key == registry);
        let wanted = normal_registry(registry);
        let exact = keys.find(|key| self.auths.has(key));
        let similar = || self.auths.names().find(|key| normal_key(key, legacy) == wanted);
        let Some(key) = exact.or_else(similar) else { return Ok(None) };
        let content = self.content(key).map_err(|broken| {
            let message = format!("credential entry {key:?} in {}: {broken}", quote(path));
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        Ok(Some(Entry { key: key.to_owned(), content }))
    }

    fn content(&self, key: &str) -> Result<Content, Broken> {
        let entry = self.auths.object(key)?;
        let token = entry.text("identitytoken")?;
        let identity_token = Some(token).filter(|token| !token.is_empty()).map(Secret::new);
        let decoded = decode(&entry.text("auth")?)?;
        Ok(match (decoded.split_once(':'), identity_token) {
            (Some(("", password)), None) if password.trim_matches('\0').is_empty() => {
                Content::Nothing
            }
            (Some((username, password)), identity_token) => Content::Login {
                username: username.to_owned(),
                password: Secret::new(password.trim_matches('\0')),
                identity_token,
            },
            // Some tools write the token alone.
            (None, Some(token)) if decoded.is_empty() => Content::Login {
                username: String::new(),
                password: Secret::new(""),
                identity_token: Some(token),
            },
            (None, _) if decoded.is_empty() => Content::Nothing,
            (None, _) => Content::WithoutColon,
        })
    }
}

/// Decodes an `auth` value. Line ends in it mean nothing, as for Go's decoder.
fn decode(auth: &str) -> Result<String, Broken> {
    let compact: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let bytes = BASE64_STANDARD.decode(compact).map_err(|_| Broken::new("`auth` is no base64"))?;
    String::from_utf8(bytes).map_err(|_| Broken::new("`auth` is not UTF-8 inside"))
}

/// Makes the error of a file that cannot be understood.
pub(super) fn broken_file(path: &Path, broken: Broken) -> Error {
    let message = format!("reading JSON file {}", quote(path));
    Error::new(ErrorKind::InvalidInput, message).with_source(broken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/a/auth.json";

    fn parse(text: &str, format: Format) -> Result<AuthFile> {
        AuthFile::parse(text.as_bytes(), Path::new(PATH), format)
    }

    fn file(text: &str) -> AuthFile {
        parse(text, Format::Sections).unwrap()
    }

    fn entry(file: &AuthFile, key: &str) -> Result<Option<Entry>> {
        file.entry(key, super::super::key::registry_of(key), Path::new(PATH))
    }

    /// Returns `KEY USER PASSWORD TOKEN` of the entry that matches.
    fn seen(file: &AuthFile, key: &str) -> String {
        match entry(file, key).unwrap() {
            None => "none".into(),
            Some(Entry { key, content: Content::Nothing }) => format!("{key} nothing"),
            Some(Entry { key, content: Content::WithoutColon }) => format!("{key} no colon"),
            Some(Entry { key, content: Content::Login { username, password, identity_token } }) => {
                let token = identity_token.map(|it| it.reveal().to_owned()).unwrap_or_default();
                format!("{key} {username} {} {token}", password.reveal())
            }
        }
    }

    fn auth(text: &str) -> String {
        BASE64_STANDARD.encode(text)
    }

    #[test]
    fn the_most_specific_key_counts_even_if_it_is_empty() {
        let text = format!(
            r#"{{"auths": {{"q.io": {{"auth": "{}"}}, "q.io/a/b": {{"auth": "{}"}}, "q.io/e": {{}}}}}}"#,
            auth("r:1"),
            auth("b:2:3"),
        );
        let file = file(&text);
        assert_eq!(seen(&file, "q.io/a/b/c"), "q.io/a/b b 2:3 ");
        assert_eq!(seen(&file, "q.io/a/bc"), "q.io r 1 ");
        assert_eq!(seen(&file, "q.io"), "q.io r 1 ");
        assert_eq!(seen(&file, "q.io/e/x"), "q.io/e nothing");
        assert_eq!(seen(&file, "r.io/a"), "none");
    }

    #[test]
    fn urls_as_keys_mean_their_host_and_old_files_have_nothing_else() {
        let text = format!(
            r#"{{"https://index.docker.io/v1/": {{"auth": "{}"}}, "https://q.io": {{"auth": "{}"}}}}"#,
            auth("d:1"),
            auth("q:2"),
        );
        let modern = file(&format!(r#"{{"auths": {text}}}"#));
        let legacy = parse(&text, Format::Legacy).unwrap();
        for file in [&modern, &legacy] {
            assert_eq!(seen(file, "docker.io/library/x"), "https://index.docker.io/v1/ d 1 ");
            assert_eq!(seen(file, "q.io/a"), "https://q.io q 2 ");
        }
        let namespaced = format!(r#"{{"q.io/a": {{"auth": "{}"}}}}"#, auth("q:2"));
        let legacy = parse(&namespaced, Format::Legacy).unwrap();
        assert_eq!(
            seen(&legacy, "q.io/b"),
            "q.io/a q 2 ",
            "the path of an old key is no namespace"
        );
    }

    #[test]
    fn auth_is_decoded_with_the_tolerance_that_other_programs_have() {
        let with = |auth: &str| {
            let entry = serde_json::json!({"auths": {"h": {"auth": auth}}});
            seen(&file(&entry.to_string()), "h")
        };
        assert_eq!(with(&auth("me:pass\0\0")), "h me pass ");
        assert_eq!(with(&format!("{}\r\n", auth("me:pa\n"))), "h me pa\n ");
        assert_eq!(with(&auth("me:")), "h me  ");
        assert_eq!(with(&auth("hush")), "h no colon");
        assert_eq!(with(&auth(":\0")), "h nothing");
        assert_eq!(with(""), "h nothing");
    }

    #[test]
    fn identity_tokens_are_found_with_and_without_a_user() {
        let text = format!(
            r#"{{"auths": {{"a": {{"auth": "{}", "identitytoken": "t"}}, "b": {{"identitytoken": "u"}}}}}}"#,
            auth("00:"),
        );
        assert_eq!(seen(&file(&text), "a"), "a 00  t");
        assert_eq!(seen(&file(&text), "b"), "b   u");
    }

    #[test]
    fn errors_name_file_and_key_and_no_secret() {
        for (text, words) in [
            ("", "reading JSON file \"/a/auth.json\": it is empty"),
            (r#"{"auths": "hush"}"#, "`auths` is no JSON object"),
            (r#"{"auths": {"h": {"auth": "hush!"}}}"#, "\"h\" in \"/a/auth.json\": `auth` is no"),
            (r#"{"auths": {"h": {"auth": ["hush"]}}}"#, "`auth` is no text"),
            (r#"{"auths": {"h": "hush"}}"#, "`h` is no JSON object"),
            (r#"{"auths": {"h": {"auth": "/////w=="}}}"#, "not UTF-8"),
        ] {
            let error = parse(text, Format::Sections).and_then(|file| entry(&file, "h").map(drop));
            let error = error.unwrap_err();
            let said = error.chain().join(": ");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(said.contains(words) && said.contains(PATH), "{said}");
            assert!(!said.contains("hush"), "{said}");
        }
        // What is broken beside it does not matter.
        let text = format!(r#"{{"auths": {{"bad": 1, "h": {{"auth": "{}"}}}}}}"#, auth("me:x"));
        assert_eq!(seen(&file(&text), "h"), "h me x ");
    }

    #[test]
    fn helpers_are_found_by_registry_and_stores_are_asked_as_docker_does() {
        let file = file(
            r#"{"auths": {"https://old.io/v1/": {}},
                "credHelpers": {"q.io": "pass", "https://index.docker.io/v1/": "hub", "n.io": ""},
                "credsStore": "desktop"}"#,
        );
        let helper = |registry| file.helper(registry, Path::new(PATH)).unwrap();
        let named = |name: &str, server: &str| NamedHelper {
            name: name.to_owned(),
            server: server.to_owned(),
        };
        assert_eq!(helper("q.io"), Some(named("pass", "q.io")));
        assert_eq!(helper("docker.io"), Some(named("hub", "https://index.docker.io/v1/")));
        assert_eq!(helper("n.io"), Some(named("", "n.io")));
        assert_eq!(helper("x.io"), None);
        assert_eq!(file.store("docker.io"), Some(named("desktop", "https://index.docker.io/v1/")));
        assert_eq!(file.store("old.io"), Some(named("desktop", "https://old.io/v1/")));
        assert_eq!(file.store("x.io"), Some(named("desktop", "x.io")));
        assert_eq!(file.helpers(Path::new(PATH)).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Sections, Format::Legacy] {
                if let Ok(file) = AuthFile::parse(&bytes, Path::new(PATH), format) {
                    let _ = entry(&file, "docker.io/a/b");
                }
            }
        }

        #[test]
        fn mutated_files_are_parsed_without_panic(
            at in any::<proptest::sample::Index>(),
            with in any::<u8>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let good = br#"{"auths":{"docker.io":{"auth":"bWU6cGFzcw==","identitytoken":"t"},
                "https://q.io/v1/":{}},"credHelpers":{"q.io":"pass"},"credsStore":"x"}"#;
            let mut bytes = good.to_vec();
            let position = at.index(bytes.len());
            bytes[position] = with;
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                if let Ok(file) = AuthFile::parse(bytes, Path::new(PATH), Format::Sections) {
                    for key in ["docker.io/x", "q.io", "other"] {
                        let _ = entry(&file, key);
                        let _ = file.helper(key, Path::new(PATH));
                        let _ = file.store(key);
                    }
                }
            }
        }
    }
}
