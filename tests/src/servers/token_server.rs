//! A token service for the real registry, which believes what this one signs.
//!
//! # Source
//! CNCF distribution, "Token Authentication Implementation" and "OAuth2 Token Authentication".

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::output;
use crate::http::{Arrived, Connection, Delivery, Intake, Request, Response, Traffic};
use crate::listener::Listener;
use crate::lock;

/// A token service on a loopback port, with one user; the anonymous may do nothing.
pub struct TokenServer {
    listener: Listener,
    signer: Arc<Signer>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Who is known, and what tokens are signed with.
struct Signer {
    directory: TempDir,
    user: String,
    password: String,
    identity: String,
}

impl TokenServer {
    /// What it is called, as service and as issuer.
    pub const NAME: &str = "diolkos-tests";

    /// Starts a service that knows one user, by password and by identity token.
    pub fn start(user: &str, password: &str, identity: &str) -> io::Result<Self> {
        let signer = Arc::new(Signer {
            directory: tempfile::tempdir()?,
            user: user.to_owned(),
            password: password.to_owned(),
            identity: identity.to_owned(),
        });
        let (key, certificate) = (signer.path("key.pem"), signer.path("certificate.pem"));
        let words = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=diolkos-tests";
        let mut arguments: Vec<&OsStr> = words.split(' ').map(OsStr::new).collect();
        arguments.extend([OsStr::new("-keyout"), key.as_os_str()]);
        arguments.extend([OsStr::new("-out"), certificate.as_os_str()]);
        output("openssl", &arguments, b"")?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (for_connections, log) = (Arc::clone(&signer), Arc::clone(&asked));
        let listener = Listener::start(Ipv4Addr::LOCALHOST, move |stream| {
            serve(stream, &for_connections, &log)
        })?;
        Ok(Self { listener, signer, asked })
    }

    /// Returns the URL that tokens are had from.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.listener.address())
    }

    /// Returns the file with the certificate that tokens are checked with.
    pub fn certificate(&self) -> PathBuf {
        self.signer.path("certificate.pem")
    }

    /// Returns how tokens were asked for: `GET`, or `POST` and the grant.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

fn serve(stream: &TcpStream, signer: &Signer, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let traffic = Traffic::default();
    let mut connection = Connection::new(stream, &traffic)?;
    while let Some(mut request) = connection.read_head()? {
        if connection.read_body(&mut request, Intake::default())? != Arrived::Whole {
            break;
        }
        let response = answer(&request, signer, asked)?;
        connection.write_response(&request, &response, Delivery::default())?;
    }
    Ok(())
}

fn answer(request: &Request, signer: &Signer, asked: &Mutex<Vec<String>>) -> io::Result<Response> {
    let form: BTreeMap<_, _> = request.form().into_iter().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let (known, scopes) = if request.method == "POST" {
        lock(asked).push(format!("POST {}", field("grant_type")));
        let known = match field("grant_type") {
            "password" => field("username") == signer.user && field("password") == signer.password,
            "refresh_token" => field("refresh_token") == signer.identity,
            _ => false,
        };
        (known.then_some(true), field("scope").split(' ').map(str::to_owned).collect::<Vec<_>>())
    } else {
        lock(asked).push("GET".to_owned());
        let right = STANDARD.encode(format!("{}:{}", signer.user, signer.password));
        let sent = request.header("authorization").and_then(|sent| sent.strip_prefix("Basic "));
        let known = match sent {
            None => Some(false),
            Some(sent) => (sent == right).then_some(true),
        };
        let scopes = request.queries("scope").flat_map(|scope| scope.split(' '));
        (known, scopes.map(str::to_owned).collect())
    };
    let Some(known) = known else {
        return Ok(Response::error(401, "UNAUTHORIZED", "authentication required"));
    };
    let access = if known { access(&scopes) } else { json!([]) };
    let token = signer.sign(&access)?;
    let body = json!({"token": token, "access_token": token, "expires_in": 300});
    Ok(Response::new(200).json(body.to_string()))
}

/// Makes the claims of scopes: `repository:NAME:ACTION,ACTION`.
fn access(scopes: &[String]) -> Value {
    let claims = scopes.iter().filter_map(|scope| {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let actions: Vec<_> = actions.split(',').collect();
        Some(json!({"type": kind, "name": name, "actions": actions}))
    });
    claims.collect()
}

impl Signer {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a JWT with RS256.
    fn sign(&self, access: &Value) -> io::Result<String> {
        let certificate = fs::read_to_string(self.path("certificate.pem"))?;
        let der: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let now = now.as_secs();
        let claims = json!({
            "iss": TokenServer::NAME, "sub": self.user, "aud": TokenServer::NAME,
            "iat": now, "nbf": now - 10, "exp": now + 300, "jti": now.to_string(),
            "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let signature = signature(&self.path("key.pem"), text.as_bytes())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn signature(key: &Path, text: &[u8]) -> io::Result<Vec<u8>> {
    let arguments = ["dgst", "-sha256", "-sign"].map(OsStr::new);
    output("openssl", &[arguments.as_slice(), &[key.as_os_str()]].concat(), text)
}
