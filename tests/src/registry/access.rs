//! Who may do what: nobody is asked, or a password, or a token.
//!
//! The tokens come from the service in [`super::tokens`].
//!
//! # Source
//! RFC 7617; RFC 6750, section 3.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::tokens::{Issued, Tokens, Worth};
use crate::http::{Request, Response};
use crate::lock;

/// How clients prove who they are.
#[derive(Clone, Debug)]
pub enum Access {
    /// Not at all.
    Open,
    /// By user and password in every request.
    Basic {
        /// The one user.
        user: String,
        /// Their password.
        password: String,
    },
    /// By a token.
    Token(Tokens),
}

impl Access {
    /// Asks for a user and a password.
    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic { user: user.to_owned(), password: password.to_owned() }
    }

    /// Asks for a token, which anybody gets for pulling and the user for pushing too.
    pub fn token(user: &str, password: &str) -> Self {
        Self::Token(Tokens::new(user, password))
    }
}

/// The door of a registry.
pub(super) struct Gate {
    access: Access,
    issued: Mutex<Issued>,
}

impl Gate {
    pub(super) fn new(access: Access) -> Self {
        Self { access, issued: Mutex::default() }
    }

    /// Returns how many tokens were handed out.
    pub(super) fn tokens(&self) -> usize {
        lock(&self.issued).count()
    }

    /// Returns the answer to a request that may not pass, or that is for the token service.
    ///
    /// `challenges` are the header lines to ask with in place of the usual one.
    pub(super) fn refusal(
        &self,
        request: &Request,
        challenges: Option<&[String]>,
    ) -> Option<Response> {
        let scope = needed(request);
        match &self.access {
            Access::Open => None,
            Access::Basic { user, password } => {
                let right = BASE64.encode(format!("{user}:{password}"));
                if sent(request, "Basic ") == Some(&right) {
                    return None;
                }
                let usual = || vec!["Basic realm=\"diolkos-tests\"".to_owned()];
                let lines = challenges.map_or_else(usual, <[String]>::to_vec);
                Some(challenge(lines, "", ""))
            }
            Access::Token(tokens) => {
                if request.path == "/token" {
                    return Some(lock(&self.issued).answer(tokens, request));
                }
                let worth = sent(request, "Bearer ")
                    .map(|token| lock(&self.issued).spend(token, scope.as_deref()));
                let error = match worth {
                    Some(Worth::Enough) => return None,
                    Some(Worth::TooLittle) => ",error=\"insufficient_scope\"",
                    Some(Worth::Nothing) => ",error=\"invalid_token\"",
                    None => "",
                };
                let of = if scope.is_some() { ",scope=\"{scope}\"" } else { "" };
                let usual = || {
                    let asked = "Bearer realm=\"{realm}\",service=\"diolkos-tests\"";
                    vec![format!("{asked}{of}{error}")]
                };
                let lines = challenges.map_or_else(usual, <[String]>::to_vec);
                let host = request.header("host").unwrap_or_default();
                let realm = format!("http://{host}/token");
                Some(challenge(lines, &realm, scope.as_deref().unwrap_or_default()))
            }
        }
    }
}

pub(super) fn unauthorized() -> Response {
    Response::error(401, "UNAUTHORIZED", "authentication required")
}

fn challenge(lines: Vec<String>, realm: &str, scope: &str) -> Response {
    lines.into_iter().fold(unauthorized(), |response, line| {
        let line = line.replace("{realm}", realm).replace("{scope}", scope);
        response.with("WWW-Authenticate", line)
    })
}

fn sent<'a>(request: &'a Request, scheme: &str) -> Option<&'a str> {
    request.header("authorization")?.strip_prefix(scheme)
}

/// Returns the scope that a request needs; none for the base.
fn needed(request: &Request) -> Option<String> {
    let rest = request.path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/", "/tags/"].iter().filter_map(|part| rest.find(part)).min();
    let repository = &rest[..end?];
    let actions = match request.method.as_str() {
        "GET" | "HEAD" => "pull",
        "DELETE" => "delete",
        _ => "pull,push",
    };
    Some(format!("repository:{repository}:{actions}"))
}
