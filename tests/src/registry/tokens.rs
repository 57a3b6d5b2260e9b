//! A registry's own token service: whom it knows, how it is asked, how long its tokens last.
//!
//! # Source
//! CNCF distribution, "Token Authentication Specification" and "OAuth2 Token Authentication".

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::http::{Request, Response};

/// How tokens are had. By default anybody gets one for pulling and the user for pushing too, by
/// GET and by POST, and it lasts.
#[derive(Clone, Debug)]
pub struct Tokens {
    user: String,
    password: String,
    identity: Option<String>,
    uses: Option<usize>,
    post_only: bool,
    private: bool,
}

impl Tokens {
    /// Hands tokens out to one user.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            identity: None,
            uses: None,
            post_only: false,
            private: false,
        }
    }

    /// Knows the user by an identity token as well, which is exchanged by POST.
    #[must_use]
    pub fn with_identity(mut self, token: &str) -> Self {
        self.identity = Some(token.to_owned());
        self
    }

    /// Lets each token serve so many requests.
    #[must_use]
    pub fn for_requests(mut self, uses: usize) -> Self {
        self.uses = Some(uses);
        self
    }

    /// Answers 405 to GET.
    #[must_use]
    pub fn by_post_only(mut self) -> Self {
        self.post_only = true;
        self
    }

    /// Gives nothing to the anonymous.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Tells whether somebody is the user; `None` for nobody at all.
    fn knows_basic(&self, request: &Request) -> Option<bool> {
        let sent = request.header("authorization")?.strip_prefix("Basic ")?;
        Some(sent == BASE64.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// The tokens that were handed out.
#[derive(Default)]
pub(super) struct Issued {
    last: usize,
    grants: BTreeMap<String, Grant>,
}

struct Grant {
    scopes: Vec<String>,
    uses: usize,
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    Enough,
    /// It is for something else.
    TooLittle,
    /// It is not known, or used up.
    Nothing,
}

impl Issued {
    /// Answers a request to the token service.
    pub(super) fn answer(&mut self, tokens: &Tokens, request: &Request) -> Response {
        match request.method.as_str() {
            "GET" if tokens.post_only => {
                Response::error(405, "UNSUPPORTED", "the operation is unsupported")
            }
            "GET" => {
                let scopes = request.queries("scope").flat_map(|scope| scope.split(' '));
                let scopes = scopes.map(str::to_owned).collect();
                match tokens.knows_basic(request) {
                    Some(false) => super::access::unauthorized(),
                    None if tokens.private => super::access::unauthorized(),
                    known => self.grant(tokens, scopes, known.is_some(), "token"),
                }
            }
            "POST" => {
                let form: BTreeMap<_, _> = request.form().into_iter().collect();
                let field = |name: &str| form.get(name).map_or("", String::as_str);
                let known = match field("grant_type") {
                    "password" => {
                        field("username") == tokens.user && field("password") == tokens.password
                    }
                    "refresh_token" => tokens.identity.as_deref() == Some(field("refresh_token")),
                    _ => return Response::new(400).json(r#"{"error":"unsupported_grant_type"}"#),
                };
                if !known || field("service").is_empty() || field("client_id").is_empty() {
                    return Response::new(401).json(r#"{"error":"invalid_grant"}"#);
                }
                let scopes = field("scope").split(' ').map(str::to_owned).collect();
                self.grant(tokens, scopes, true, "access_token")
            }
            _ => Response::error(405, "UNSUPPORTED", "the operation is unsupported"),
        }
    }

    fn grant(
        &mut self,
        tokens: &Tokens,
        scopes: Vec<String>,
        known: bool,
        field: &str,
    ) -> Response {
        let scopes = scopes.into_iter().map(|scope| match scope.rsplit_once(':') {
            Some((repository, _)) if !known => format!("{repository}:pull"),
            _ => scope,
        });
        self.last += 1;
        // So long and odd that it is found wherever it should not be.
        let token = format!("secret-token-{}-{}", self.last, "x".repeat(20));
        let grant = Grant { scopes: scopes.collect(), uses: tokens.uses.unwrap_or(usize::MAX) };
        self.grants.insert(token.clone(), grant);
        Response::new(200).json(serde_json::json!({field: token, "expires_in": 300}).to_string())
    }

    /// Uses a token once for a scope.
    pub(super) fn spend(&mut self, token: &str, scope: Option<&str>) -> Worth {
        let Some(grant) = self.grants.get_mut(token) else { return Worth::Nothing };
        if grant.uses == 0 {
            return Worth::Nothing;
        }
        grant.uses -= 1;
        if covers(&grant.scopes, scope) { Worth::Enough } else { Worth::TooLittle }
    }

    pub(super) fn count(&self) -> usize {
        self.last
    }
}

fn covers(granted: &[String], needed: Option<&str>) -> bool {
    let Some((repository, actions)) = needed.and_then(|needed| needed.rsplit_once(':')) else {
        return true;
    };
    granted.iter().filter_map(|scope| scope.rsplit_once(':')).any(|(name, given)| {
        name == repository
            && actions
                .split(',')
                .all(|action| given.split(',').any(|given| given == action || given == "*"))
    })
}
