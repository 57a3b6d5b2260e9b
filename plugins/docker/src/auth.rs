//! Who we are: answers to a registry's challenge.
//!
//! Nothing is sent before a registry asks, and nothing is read either: files and helper programs are
//! asked for credentials when a challenge needs them. Then the challenge is kept, and tokens are
//! kept for each set of scopes until they run out. Secrets stand in headers marked as sensitive, or
//! in the body of a form, and appear in no message.
//!
//! # Source
//! The token specification of the distribution project, and its OAuth2 part; RFC 7617.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use diolkos_sdk::{Error, ErrorKind, Host, Result};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::client::Client;
use crate::config::places::Places;
use crate::credentials::{Answer, AuthFiles, Found, Identity, Lookup};
use crate::errors;
use crate::message::{self, Payload, Request, Response, Target};
use crate::options::{Credentials, Options, Secret};
use crate::uploads::within;

/// A token is good for at least this long, whatever its server says.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// A token that is about to run out is not used any more.
const SLACK: Duration = Duration::from_secs(5);
/// The largest answer of a token server that is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// What a token server takes us for when it wants to know.
const CLIENT_ID: &str = "diolkos";

/// A registry's challenge, shared by all who use the registry.
pub(crate) type SharedChallenge = Arc<Mutex<Option<Challenge>>>;

/// Which credentials there are for a place, and where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purse {
    /// What the user gave on the command line; `None` is on purpose.
    Given(Option<Credentials>),
    /// What files and helper programs know.
    Files(Box<Wallet>),
}

/// Where credentials for `registry/namespace/repository` are looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wallet {
    pub key: String,
    pub places: Places,
    pub files: AuthFiles,
    pub helpers: Vec<String>,
}

/// Authentication with one registry for one repository.
pub(crate) struct Auth {
    purse: Purse,
    /// What the purse held, once somebody looked.
    known: Mutex<Option<Arc<Known>>>,
    registry_token: Option<Secret>,
    challenge: SharedChallenge,
    /// Locked while a token is asked for, so that it is asked for once.
    tokens: tokio::sync::Mutex<HashMap<String, Token>>,
}

struct Known {
    identity: Option<Identity>,
    /// For messages: where the credentials came from, or that there are none.
    origin: String,
}

/// Says, in a message about a refusal, which credentials were refused.
#[derive(Clone)]
pub(crate) struct Provenance(pub String);

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
    pub fn new(purse: Purse, options: &Options, challenge: SharedChallenge) -> Self {
        Self {
            purse,
            known: Mutex::default(),
            registry_token: options.registry_token.clone(),
            challenge,
            tokens: tokio::sync::Mutex::default(),
        }
    }

    /// Looks into the purse, once. Helper programs may take their time.
    fn known(&self, host: &Host) -> Result<Arc<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let found = Arc::new(tokio::task::block_in_place(|| self.purse.open(host))?);
        *known = Some(found.clone());
        Ok(found)
    }

    /// Tells whether there is anything to answer a challenge with but an anonymous token.
    pub fn has_credentials(&self, host: &Host) -> Result<bool> {
        Ok(self.registry_token.is_some() || self.known(host)?.identity.is_some())
    }

    /// Says which credentials are in use, without what is secret.
    pub fn provenance(&self, host: &Host) -> Provenance {
        Provenance(match (&self.registry_token, self.known(host)) {
            (Some(_), _) => "the token on the command line was used".to_owned(),
            (None, Ok(known)) => known.origin.clone(),
            (None, Err(error)) => error.chain().join(": "),
        })
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
            return match &self.known(host)?.identity {
                Some(Identity::Password(credentials)) => basic(credentials).map(Some),
                _ => Ok(None),
            };
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
        host: &Host,
    ) -> Result<bool> {
        let mut answerable = None;
        for challenge in challenges {
            if self.can_answer(&challenge, host)? {
                answerable = Some(challenge);
                break;
            }
        }
        let Some(challenge) = answerable else { return Ok(false) };
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
        Ok(match used.map(|used| used.origin) {
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
        })
    }

    fn can_answer(&self, challenge: &Challenge, host: &Host) -> Result<bool> {
        Ok(match challenge.scheme.as_str() {
            "basic" => matches!(self.known(host)?.identity, Some(Identity::Password(_))),
            "bearer" => true,
            _ => false,
        })
    }

    async fn request_token(
        &self,
        client: &Client,
        host: &Host,
        challenge: &Challenge,
        scopes: &[String],
    ) -> Result<Token> {
        let known = self.known(host)?;
        let realm = safe_realm(realm(challenge)?, client, &known)?;
        let service_url = errors::redact(&realm);
        let asked = Instant::now();
        let service = challenge.get("service").unwrap_or_default();
        let response = match &known.identity {
            Some(Identity::Token(token)) => {
                let form = Form::new("refresh_token", service, scopes)
                    .with("refresh_token", token.reveal());
                self.ask(client, host, form.request(realm), None).await?
            }
            identity => {
                let credentials = match identity {
                    Some(Identity::Password(credentials)) => Some(credentials),
                    _ => None,
                };
                let username = credentials.map(|credentials| credentials.username.as_str());
                let url = token_url(realm.clone(), service, username, scopes);
                let complete =
                    credentials.filter(|credentials| !credentials.password.reveal().is_empty());
                let authorization = complete.map(basic).transpose()?;
                let request = Request::new(Method::GET, Target::Url(url));
                let response = self.ask(client, host, request, authorization.as_ref()).await?;
                match complete {
                    // Some servers know the newer way only.
                    Some(credentials)
                        if matches!(
                            response.status(),
                            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_FOUND
                        ) =>
                    {
                        message::drain(response).await;
                        let form = Form::new("password", service, scopes)
                            .with("username", &credentials.username)
                            .with("password", credentials.password.reveal());
                        self.ask(client, host, form.request(realm), None).await?
                    }
                    _ => response,
                }
            }
        };
        let status = response.status();
        if status != StatusCode::OK {
            let error = message::failure(response).await;
            return Err(refusal(status, error, &service_url, &known.origin));
        }
        let body = within(message::IDLE_TIMEOUT, message::body(response, MAX_ANSWER)).await?;
        let answer: Granted = serde_json::from_slice(&body).map_err(|error| {
            // The body may hold half a token: only what is wrong with it is said.
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "decoding bearer token from {service_url}: invalid JSON at line {}",
                    error.line()
                ),
            )
        })?;
        let text =
            [answer.token, answer.access_token].into_iter().flatten().find(|t| !t.is_empty());
        let text = text.ok_or_else(|| {
            let message =
                format!("decoding bearer token: the answer of {service_url} holds no token");
            Error::new(ErrorKind::Corrupt, message)
        })?;
        // Counted from our own clock: the server's, in `issued_at`, may be wrong.
        let life = Duration::from_secs(answer.expires_in.unwrap_or(0)).max(SHORTEST_LIFE);
        Ok(Token {
            text: Secret::new(text),
            expires: asked + life.min(Duration::from_secs(86_400)),
        })
    }

    async fn ask(
        &self,
        client: &Client,
        host: &Host,
        request: Request,
        authorization: Option<&Authorization>,
    ) -> Result<Response> {
        client
            .send_elsewhere(host, request, authorization)
            .await
            .map_err(|error| error.context("requesting a bearer token"))
    }
}

impl Purse {
    fn open(&self, host: &Host) -> Result<Known> {
        let (key, answer) = match self {
            Self::Given(Some(credentials)) => {
                return Ok(Known {
                    identity: Some(Identity::Password(credentials.clone())),
                    origin: "the credentials on the command line were used".to_owned(),
                });
            }
            Self::Given(None) => {
                return Ok(Known {
                    identity: None,
                    origin: "no credentials were used, as the command line says".to_owned(),
                });
            }
            Self::Files(it) => {
                let lookup =
                    Lookup { places: &it.places, files: &it.files, helpers: &it.helpers, host };
                (&it.key, lookup.find(&it.key)?)
            }
        };
        Ok(match answer {
            Answer::Found(Found { identity, origin, .. }) => Known {
                identity: Some(identity),
                origin: format!("the credentials of {origin} were used"),
            },
            Answer::Nothing(nothing) => {
                Known { identity: None, origin: format!("for {key}: {}", nothing.describe()) }
            }
        })
    }
}

/// The form that the newer kind of token servers takes.
struct Form(Vec<(&'static str, String)>);

impl Form {
    fn new(grant: &str, service: &str, scopes: &[String]) -> Self {
        let form = Self(Vec::new())
            .with("grant_type", grant)
            .with("service", service)
            .with("client_id", CLIENT_ID);
        if scopes.is_empty() { form } else { form.with("scope", &scopes.join(" ")) }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.push((name, value.to_owned()));
        self
    }

    fn request(&self, realm: Url) -> Request {
        // The query of a URL is written in the same way as a form.
        let mut url = Url::parse("form:").expect("it has a scheme");
        url.query_pairs_mut().extend_pairs(&self.0);
        let body = url.query().unwrap_or_default().to_owned();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        Request::new(Method::POST, Target::Url(realm))
            .header(CONTENT_TYPE, form)
            .payload(Payload::Bytes(body.into()))
            .confidential()
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct Granted {
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

fn refusal(status: StatusCode, error: Error, service: &str, origin: &str) -> Error {
    let used = |error: Error| {
        let kind = error.kind();
        error.with_source(Error::new(kind, origin.to_owned()))
    };
    match status {
        StatusCode::UNAUTHORIZED => Error::new(
            ErrorKind::Unauthorized,
            "unable to retrieve auth token: invalid username/password",
        )
        .with_source(used(error)),
        StatusCode::FORBIDDEN => {
            Error::new(ErrorKind::Denied, "unable to retrieve auth token").with_source(used(error))
        }
        StatusCode::TOO_MANY_REQUESTS => error.context("too many requests to registry"),
        _ => {
            let service = Error::new(error.kind(), format!("the token service is {service}"));
            error.with_source(service).context("Requesting bearer token")
        }
    }
}

/// Returns where a challenge says that tokens are.
fn realm(challenge: &Challenge) -> Result<Url> {
    let realm = challenge
        .get("realm")
        .filter(|realm| !realm.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "missing realm in bearer auth challenge"))?;
    Url::parse(realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("invalid realm in bearer auth challenge: {realm:?}"),
            )
        })
}

/// Returns the realm, where it may be told who we are.
///
/// A registry behind a proxy may not know that it is reached by HTTPS, and say that its own token
/// service is not. Another host is not told a secret in the clear.
fn safe_realm(mut realm: Url, client: &Client, known: &Known) -> Result<Url> {
    if realm.scheme() == "https" || !client.insists_on_tls() {
        return Ok(realm);
    }
    if client.is_home(&realm) && realm.port().is_none() {
        let _ = realm.set_scheme("https");
        return Ok(realm);
    }
    if known.identity.is_none() {
        return Ok(realm);
    }
    let message = format!("credentials are not sent to {} without TLS", errors::redact(&realm));
    Err(Error::new(ErrorKind::Denied, message).with_hint(
        "the registry names this token service: have it name one with https, or give \
         --tls-verify=false if the network is trusted",
    ))
}

/// Returns where to get a token: the realm, with its own parameters and ours.
fn token_url(mut url: Url, service: &str, username: Option<&str>, scopes: &[String]) -> Url {
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    };
    add("account", username.unwrap_or_default());
    add("service", service);
    for scope in scopes {
        add("scope", scope);
    }
    pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url
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
        let service = challenge.get("service").unwrap();
        assert_eq!(
            token_url(realm(challenge).unwrap(), service, Some("me"), &scopes).as_str(),
            "https://a.example/t?account=me&b=2&scope=repository%3Ax%3Apull%2Cpush\
             &scope=repository%3Ay%3Apull&service=s+t&z=1"
        );
        for bad in ["Bearer service=x", r#"Bearer realm="file:///x""#, r#"Bearer realm="x""#] {
            let challenge = &crate::challenge::parse(bad)[0];
            assert_eq!(realm(challenge).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_form_holds_what_is_secret_in_its_body() {
        let form = Form::new("password", "s t", &["repository:x:pull".to_owned()])
            .with("username", "me")
            .with("password", "hu&sh");
        let request = form.request(Url::parse("https://a.example/t").unwrap());
        let Payload::Bytes(body) = &request.payload else { panic!("a form has a body") };
        assert_eq!(
            std::str::from_utf8(body).unwrap(),
            "grant_type=password&service=s+t&client_id=diolkos&scope=repository%3Ax%3Apull\
             &username=me&password=hu%26sh"
        );
    }

    #[test]
    fn the_life_of_a_token_may_be_written_in_any_way() {
        let life = |text: &str| serde_json::from_str::<Granted>(text).unwrap().expires_in;
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
