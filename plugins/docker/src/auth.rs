//! Who we are: answers to a registry's challenge.
//!
//! Nothing is sent before a registry asks. Then the challenge is kept, and tokens are kept for
//! each set of scopes until they run out. Secrets stand in headers marked as sensitive and appear
//! in no message.
//!
//! # Source
//! The token specification of the distribution project; RFC 7617.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use diolkos_sdk::{Error, ErrorKind, Host, Result};
use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::client::Client;
use crate::message;
use crate::options::{Credentials, Options, Secret};

/// A token is good for at least this long, whatever its server says.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// A token that is about to run out is not used any more.
const SLACK: Duration = Duration::from_secs(5);
/// The largest answer of a token server that is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// The state of authentication with one registry.
pub(crate) struct Auth {
    credentials: Option<Credentials>,
    registry_token: Option<Secret>,
    challenge: Mutex<Option<Challenge>>,
    /// Locked while a token is asked for, so that it is asked for once.
    tokens: tokio::sync::Mutex<HashMap<String, Token>>,
    warnings: Mutex<HashSet<String>>,
}

struct Token {
    text: Secret,
    expires: Instant,
}

/// The value of an `Authorization` header and where it came from.
pub(crate) struct Authorization {
    pub value: HeaderValue,
    origin: Origin,
}

enum Origin {
    Basic,
    /// What the user gave.
    Given,
    /// A token that was kept, or asked for just now.
    Token {
        fresh: bool,
    },
}

impl Auth {
    pub fn new(options: &Options) -> Self {
        Self {
            credentials: options.credentials.clone(),
            registry_token: options.registry_token.clone(),
            challenge: Mutex::default(),
            tokens: tokio::sync::Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    /// Tells whether there is anything to answer a challenge with but an anonymous token.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some() || self.registry_token.is_some()
    }

    /// Tells whether a registry's warning is new.
    pub fn first_time(&self, warning: &str) -> bool {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.insert(warning.to_owned())
    }

    fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what to send with a request of these scopes; `None` until the registry has asked.
    pub async fn authorization(
        &self,
        client: &Client,
        host: &Host,
        scopes: &[String],
    ) -> Result<Option<Authorization>> {
        let Some(challenge) = self.challenge() else { return Ok(None) };
        if challenge.scheme == "basic" {
            return self.credentials.as_ref().map(basic).transpose();
        }
        if let Some(token) = &self.registry_token {
            return Ok(Some(bearer(token, Origin::Given)?));
        }
        let key = scopes.join(" ");
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(&key)
            && token.expires > Instant::now() + SLACK
        {
            return bearer(&token.text, Origin::Token { fresh: false }).map(Some);
        }
        let token = self.request_token(client, host, &challenge, scopes).await?;
        let authorization = bearer(&token.text, Origin::Token { fresh: true })?;
        tokens.insert(key, token);
        Ok(Some(authorization))
    }

    /// Takes a refusal in; returns whether the request is worth repeating.
    ///
    /// `used` is what was sent with it. A scope that the registry misses is added to `scopes`.
    pub async fn answer(
        &self,
        challenges: Vec<Challenge>,
        used: Option<Authorization>,
        scopes: &mut Vec<String>,
    ) -> bool {
        let Some(challenge) = challenges.into_iter().find(|challenge| self.can_answer(challenge))
        else {
            return false;
        };
        let is_basic = challenge.scheme == "basic";
        let missing = challenge
            .get("scope")
            .filter(|scope| {
                challenge.get("error") == Some("insufficient_scope")
                    && scope.splitn(3, ':').count() == 3
                    && !scopes.iter().any(|known| known == scope)
            })
            .map(str::to_owned);
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
        match used.map(|used| used.origin) {
            None => true,
            Some(Origin::Basic) => !is_basic,
            Some(Origin::Given) => is_basic,
            Some(Origin::Token { .. }) if missing.is_some() => {
                scopes.extend(missing);
                true
            }
            Some(Origin::Token { fresh }) => {
                self.tokens.lock().await.remove(&scopes.join(" "));
                !fresh || is_basic
            }
        }
    }

    fn can_answer(&self, challenge: &Challenge) -> bool {
        match challenge.scheme.as_str() {
            "basic" => self.credentials.is_some(),
            "bearer" => true,
            _ => false,
        }
    }

    async fn request_token(
        &self,
        client: &Client,
        host: &Host,
        challenge: &Challenge,
        scopes: &[String],
    ) -> Result<Token> {
        let credentials = self.credentials.as_ref();
        let username = credentials.map(|credentials| credentials.username.as_str());
        let url = token_url(challenge, username, scopes)?;
        let complete = credentials.filter(|credentials| !credentials.password.reveal().is_empty());
        let authorization = complete.map(basic).transpose()?;
        let asked = Instant::now();
        let response = client
            .send_elsewhere(host, url, authorization.as_ref())
            .await
            .map_err(|error| error.context("requesting a bearer token"))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(refusal(status, message::failure(response).await));
        }
        let body = message::body(response, MAX_ANSWER).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            // The body may hold half a token: only what is wrong with it is said.
            Error::new(
                ErrorKind::Corrupt,
                format!("decoding bearer token: invalid JSON at line {}", error.line()),
            )
        })?;
        let text =
            [answer.token, answer.access_token].into_iter().flatten().find(|t| !t.is_empty());
        let text = text.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "decoding bearer token: the answer holds no token")
        })?;
        // Counted from our own clock: the server's, in `issued_at`, may be wrong.
        let life = Duration::from_secs(answer.expires_in.unwrap_or(0)).max(SHORTEST_LIFE);
        Ok(Token {
            text: Secret::new(text),
            expires: asked + life.min(Duration::from_secs(86_400)),
        })
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
}

/// Reads a life time that may be negative, a fraction, or no number.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded before")]
    Ok(value.as_f64().map(|seconds| seconds.clamp(0.0, 1e9) as u64))
}

fn refusal(status: StatusCode, error: Error) -> Error {
    match status {
        StatusCode::UNAUTHORIZED => Error::new(
            ErrorKind::Unauthorized,
            "unable to retrieve auth token: invalid username/password",
        )
        .with_source(error),
        StatusCode::FORBIDDEN => {
            Error::new(ErrorKind::Denied, "unable to retrieve auth token").with_source(error)
        }
        StatusCode::TOO_MANY_REQUESTS => error.context("too many requests to registry"),
        _ => {
            let message =
                format!("Requesting bearer token: received unexpected HTTP status: {status}");
            error.context(message)
        }
    }
}

/// Returns where to get a token: the realm, with its own parameters and ours.
fn token_url(challenge: &Challenge, username: Option<&str>, scopes: &[String]) -> Result<Url> {
    let realm = challenge
        .get("realm")
        .filter(|realm| !realm.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "missing realm in bearer auth challenge"))?;
    let mut url = Url::parse(realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("invalid realm in bearer auth challenge: {realm:?}"),
            )
        })?;
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    };
    add("account", username.unwrap_or_default());
    add("service", challenge.get("service").unwrap_or_default());
    for scope in scopes {
        add("scope", scope);
    }
    pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
    url.query_pairs_mut().clear().extend_pairs(pairs);
    Ok(url)
}

fn basic(credentials: &Credentials) -> Result<Authorization> {
    let pair = format!("{}:{}", credentials.username, credentials.password.reveal());
    let value = header("Basic", &BASE64_STANDARD.encode(pair))?;
    Ok(Authorization { value, origin: Origin::Basic })
}

fn bearer(token: &Secret, origin: Origin) -> Result<Authorization> {
    Ok(Authorization { value: header("Bearer", token.reveal())?, origin })
}

fn header(scheme: &str, secret: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {secret}")).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, "the token holds characters that no header may hold")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_keeps_its_own_parameters() {
        let challenge =
            &crate::challenge::parse(r#"Bearer realm="https://a.example/t?z=1&b=2",service="s t""#)
                [0];
        let scopes = ["repository:x:pull,push".to_owned(), "repository:y:pull".to_owned()];
        assert_eq!(
            token_url(challenge, Some("me"), &scopes).unwrap().as_str(),
            "https://a.example/t?account=me&b=2&scope=repository%3Ax%3Apull%2Cpush\
             &scope=repository%3Ay%3Apull&service=s+t&z=1"
        );
        for bad in ["Bearer service=x", r#"Bearer realm="file:///x""#, r#"Bearer realm="x""#] {
            let challenge = &crate::challenge::parse(bad)[0];
            assert_eq!(token_url(challenge, None, &[]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn the_life_of_a_token_may_be_written_in_any_way() {
        let life = |text: &str| serde_json::from_str::<Answer>(text).unwrap().expires_in;
        assert_eq!(life(r#"{"expires_in":300}"#), Some(300));
        assert_eq!(life(r#"{"expires_in":-1}"#), Some(0));
        assert_eq!(life(r#"{"expires_in":"300"}"#), None);
        assert_eq!(life("{}"), None);
    }

    #[test]
    fn credentials_never_appear_in_a_header_that_is_printed() {
        let credentials = Credentials { username: "me".into(), password: Secret::new("hush") };
        let value = basic(&credentials).unwrap().value;
        assert_eq!(value, "Basic bWU6aHVzaA==");
        assert_eq!(format!("{value:?}"), "Sensitive");
    }
}
