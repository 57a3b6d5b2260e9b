//! Who may do what: nobody is asked, or a password, or a token from the registry's own service.
//!
//! # Source
//! CNCF distribution, "Token Authentication Specification"; RFC 7617.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::http::{Request, Response};

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
    /// By a token, which anybody gets for pulling and the user for pushing too.
    Token {
        /// The one user.
        user: String,
        /// Their password.
        password: String,
    },
}

impl Access {
    /// Returns the answer to a request that may not pass, or that is for the token service.
    pub(super) fn refusal(&self, request: &Request, address: SocketAddr) -> Option<Response> {
        match self {
            Self::Open => None,
            Self::Basic { user, password } => {
                let allowed = sent(request, "Basic ") == Some(basic(user, password).as_str());
                (!allowed).then(|| {
                    unauthorized().with("WWW-Authenticate", "Basic realm=\"diolkos-tests\"")
                })
            }
            Self::Token { user, password } => {
                if request.path == "/token" {
                    return Some(hand_out(request, &basic(user, password)));
                }
                let scope = needed(request);
                let granted = sent(request, "Bearer ")
                    .and_then(|token| BASE64.decode(token).ok())
                    .and_then(|token| String::from_utf8(token).ok());
                let allowed = granted.is_some_and(|granted| covers(&granted, scope.as_deref()));
                let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
                (!allowed).then(|| {
                    unauthorized().with(
                        "WWW-Authenticate",
                        format!(
                            "Bearer realm=\"http://{address}/token\",service=\"diolkos-tests\"{scope}"
                        ),
                    )
                })
            }
        }
    }
}

fn unauthorized() -> Response {
    Response::error(401, "UNAUTHORIZED", "authentication required")
}

fn basic(user: &str, password: &str) -> String {
    BASE64.encode(format!("{user}:{password}"))
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

/// Answers the token service: the token names the granted scopes, which is enough for a test.
fn hand_out(request: &Request, right: &str) -> Response {
    let known = match sent(request, "Basic ") {
        Some(sent) if sent == right => true,
        Some(_) => return unauthorized(),
        None => false,
    };
    let scopes = request.target.split(['?', '&']).filter_map(|pair| pair.strip_prefix("scope="));
    let granted: Vec<String> = scopes
        .map(|scope| scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
        .flat_map(|scope| scope.split(['+', ' ']).map(str::to_owned).collect::<Vec<_>>())
        .map(|scope| match scope.rsplit_once(':') {
            Some((repository, _)) if !known => format!("{repository}:pull"),
            _ => scope,
        })
        .collect();
    // A client that only wants to know whether its password is right asks for no scope.
    let token = BASE64.encode(format!("granted {}", granted.join(" ")));
    let body = serde_json::json!({"token": token, "expires_in": 300}).to_string();
    Response::new(200).with("Content-Type", "application/json").body(body)
}

fn covers(granted: &str, needed: Option<&str>) -> bool {
    let Some((repository, actions)) = needed.and_then(|needed| needed.rsplit_once(':')) else {
        return true;
    };
    granted.split(' ').filter_map(|scope| scope.rsplit_once(':')).any(|(name, given)| {
        name == repository
            && actions
                .split(',')
                .all(|action| given.split(',').any(|given| given == action || given == "*"))
    })
}
