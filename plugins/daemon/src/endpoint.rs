//! Which daemon is meant, and how it is reached.
//!
//! In this order: the option `daemon-host`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the context that
//! Docker's `config.json` names, the usual socket. An address that is given as an option means what
//! it means for `skopeo`, where `tcp:` is TLS and `http:` is not; elsewhere it means what it means
//! for Docker's own client, where `tcp:` is TLS if something says so.
//!
//! # Source
//! skopeo-copy(1), `--src-daemon-host`; Docker's documentation, "Docker CLI", "Environment
//! variables" and "Docker contexts".

use std::env;
use std::path::{Path, PathBuf};

use diolkos_network::tls::{Certificates, ClientCertificate, certificates};
use diolkos_sdk::{Error, ErrorKind, Host, Result};
use reqwest::Url;

use crate::contexts;
use crate::options::Options;

/// Where a daemon listens that nobody said anything about.
const USUAL: &str = "unix:///var/run/docker.sock";
/// The usual ports, with TLS and without.
const PORTS: (u16, u16) = (2376, 2375);

/// A daemon's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As it was written, for messages.
    pub shown: String,
    pub address: Address,
    /// `None`: without TLS.
    pub tls: Option<Tls>,
}

/// How a daemon is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// Host and port, and what stands before all paths.
    Tcp {
        authority: String,
        prefix: String,
    },
    Ssh(Far),
}

/// A daemon on another machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Far {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    /// The daemon's socket there, if it is told.
    pub socket: Option<String>,
}

/// How certificates are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub verify: bool,
    /// Where `ca.pem`, `cert.pem` and `key.pem` are.
    pub dir: Option<PathBuf>,
    pub needs: Needs,
    /// Whether `ca.pem` is believed alone, and not beside the system's authorities.
    pub exclusive: bool,
}

/// What a directory of certificates must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// One of them, whichever.
    Something,
    Authority,
}

/// What the environment says of daemons.
#[derive(Debug, Default)]
struct Environment {
    host: Option<String>,
    context: Option<String>,
    cert_path: Option<PathBuf>,
    /// Docker's own directory.
    config_dir: Option<PathBuf>,
    tls: bool,
    tls_verify: bool,
}

impl Environment {
    fn current() -> Self {
        let text = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        let home = || text("HOME").map(|home| Path::new(&home).join(".docker"));
        Self {
            host: text("DOCKER_HOST"),
            context: text("DOCKER_CONTEXT"),
            cert_path: text("DOCKER_CERT_PATH").map(PathBuf::from),
            config_dir: text("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
            tls: text("DOCKER_TLS").is_some(),
            tls_verify: text("DOCKER_TLS_VERIFY").is_some(),
        }
    }

    /// What Docker's client does with an address that is none of a context's.
    fn tls(&self) -> Option<Tls> {
        (self.tls || self.tls_verify).then(|| Tls {
            verify: self.tls_verify,
            dir: self.cert_path.clone().or_else(|| self.config_dir.clone()),
            needs: if self.tls_verify { Needs::Authority } else { Needs::Nothing },
            exclusive: true,
        })
    }
}

impl Endpoint {
    /// Finds the daemon that is meant.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an address that is none, or a context that does not exist.
    pub fn find(options: &Options, host: &Host) -> Result<Self> {
        let (endpoint, why) = Self::resolve(options, &Environment::current(), host)?;
        host.debug(format!("the Docker daemon at {} is meant, by {why}", endpoint.shown));
        Ok(endpoint)
    }

    fn resolve(
        options: &Options,
        environment: &Environment,
        host: &Host,
    ) -> Result<(Self, String)> {
        if let Some(text) = &options.host {
            let tls = Tls { verify: true, dir: None, needs: Needs::Nothing, exclusive: false };
            return Ok((Self::new(text, Some(tls), options)?, "--daemon-host".to_owned()));
        }
        if let Some(text) = &environment.host {
            let found = Self::new(text, environment.tls(), options);
            let found = found.map_err(|error| error.context("reading DOCKER_HOST"))?;
            return Ok((found, "DOCKER_HOST".to_owned()));
        }
        if let Some(dir) = &environment.config_dir {
            let (name, why) = match &environment.context {
                Some(name) => (Some(name.clone()), "DOCKER_CONTEXT"),
                None => (current_context(dir, host), "the current context"),
            };
            if let Some(name) = name.filter(|name| !contexts::is_default(name)) {
                let context = contexts::read(dir, &name)?;
                let found = Self::new(&context.host, context.tls, options).map_err(|error| {
                    error.context(format!("reading the Docker context {name:?}"))
                })?;
                return Ok((found, format!("{why} {name:?}")));
            }
        }
        let tls = environment.tls();
        let text = if tls.is_some() { "tcp://localhost:2376" } else { USUAL };
        Ok((Self::new(text, tls, options)?, "nothing else that is said".to_owned()))
    }

    /// Parses an address. What the options say of certificates comes before `tls`.
    fn new(text: &str, tls: Option<Tls>, options: &Options) -> Result<Self> {
        let mut tls = tls;
        if let Some(dir) = &options.cert_dir {
            let verify = tls.as_ref().is_none_or(|tls| tls.verify);
            let (dir, needs) = (Some(dir.clone()), Needs::Something);
            tls = Some(Tls { verify, dir, needs, exclusive: false });
        }
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            // For Docker's client, it may lack; as an option, it may not.
            None if options.host.is_none() => ("tcp", text),
            None => return Err(unparsable(text, None)),
        };
        let mut shown = without_user(text);
        let address = match scheme {
            "unix" if rest.is_empty() => {
                USUAL.clone_into(&mut shown);
                Address::Unix(USUAL.trim_start_matches("unix://").into())
            }
            "unix" => Address::Unix(rest.into()),
            "tcp" | "http" | "https" => {
                if scheme == "https" && tls.is_none() {
                    let needs = Needs::Nothing;
                    tls = Some(Tls { verify: true, dir: None, needs, exclusive: false });
                }
                if scheme == "http" {
                    tls = None;
                }
                tcp(text, rest, tls.is_some())?
            }
            "ssh" => Address::Ssh(ssh(text)?),
            other => {
                return Err(invalid(format!("the Docker daemon cannot be reached by `{other}:`"))
                    .with_hint("unix, tcp, http, https and ssh are known"));
            }
        };
        if !matches!(address, Address::Tcp { .. }) {
            tls = None;
        }
        if let (Some(tls), Some(verify)) = (&mut tls, options.tls_verify) {
            tls.verify = verify;
        }
        Ok(Self { shown, address, tls })
    }
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for half a pair of certificate and key, broken ones, and a
    /// directory without any that was given for them.
    pub fn certificates(&self) -> Result<Certificates> {
        let mut known = Certificates { exclusive: self.exclusive, ..Certificates::default() };
        let Some(dir) = &self.dir else { return Ok(known) };
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
        if self.needs == Needs::Authority && !ca.exists() {
            return Err(invalid(format!("`{}` is missing", ca.display()))
                .with_hint("without verification, DOCKER_TLS in place of DOCKER_TLS_VERIFY does"));
        }
        // A context may do without an authority of its own.
        known.exclusive &= ca.exists();
        if self.needs == Needs::Something && ![&ca, &cert, &key].iter().any(|it| it.exists()) {
            let message = format!("`{}` holds no ca.pem, cert.pem or key.pem", dir.display());
            return Err(invalid(message));
        }
        if ca.exists() {
            known.authorities = certificates(&ca)?;
            if known.authorities.is_empty() {
                return Err(invalid(format!("`{}` holds no certificate", ca.display())));
            }
        }
        match (cert.exists(), key.exists()) {
            (true, true) => known.clients.push(ClientCertificate::read(&cert, &key)?),
            (true, false) => return Err(lacks(&key, &cert)),
            (false, true) => return Err(lacks(&cert, &key)),
            (false, false) => {}
        }
        Ok(known)
    }
}

fn lacks(missing: &Path, present: &Path) -> Error {
    invalid(format!("`{}` is missing beside `{}`", missing.display(), present.display()))
}

/// Returns the current context, as far as Docker's file tells it.
fn current_context(dir: &Path, host: &Host) -> Option<String> {
    contexts::current(dir).unwrap_or_else(|error| {
        host.warn(format!(
            "which Docker context is in use is not known: {}",
            error.chain().join(": ")
        ));
        None
    })
}

/// Returns an address without the user in it, and without a password.
fn without_user(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(rest, |(user, _)| &rest[user.len() + 1..]);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

fn unparsable(text: &str, why: Option<String>) -> Error {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    invalid(format!("unable to parse docker host `{}`{why}", without_user(text))).with_hint(
        "write unix:///PATH, tcp://HOST:PORT, http://HOST:PORT or ssh://[USER@]HOST[:PORT]",
    )
}

/// Parses the `[HOST][:PORT][/PREFIX]` of an address.
fn tcp(text: &str, rest: &str, tls: bool) -> Result<Address> {
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let usual = if tls { PORTS.0 } else { PORTS.1 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port: u16 = port.parse().map_err(|_| unparsable(text, Some("its port".into())))?;
            (host, port)
        }
        _ => (authority, usual),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    if host.contains(['?', '#', '@']) || prefix.contains(['?', '#']) {
        return Err(unparsable(text, Some("a host, a port and a path are all it has".into())));
    }
    let url = Url::parse(&format!("http://{host}/"))
        .map_err(|error| unparsable(text, Some(error.to_string())))?;
    let authority = format!("{}:{port}", url.host_str().unwrap_or_default());
    let prefix = prefix.trim_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    Ok(Address::Tcp { authority, prefix })
}

/// Parses `ssh://[USER@]HOST[:PORT][/SOCKET]`.
fn ssh(text: &str) -> Result<Far> {
    let url = Url::parse(text).map_err(|error| unparsable(text, Some(error.to_string())))?;
    if url.password().is_some() {
        return Err(invalid("a docker host with ssh has no password in it".to_owned())
            .with_hint("let `ssh` ask for it, or use a key"));
    }
    let decoded = |text: &str| {
        let bytes = percent_encoding::percent_decode_str(text);
        bytes.decode_utf8().map(std::borrow::Cow::into_owned).unwrap_or_default()
    };
    let far = Far {
        user: Some(decoded(url.username())).filter(|user| !user.is_empty()),
        host: decoded(url.host_str().unwrap_or_default()),
        port: url.port(),
        socket: Some(decoded(url.path())).filter(|path| path.len() > 1),
    };
    let is_option = |word: &str| word.starts_with('-');
    // What begins with a dash would be an option of ssh.
    if far.host.is_empty() || is_option(&far.host) || far.user.as_deref().is_some_and(is_option) {
        return Err(unparsable(text, None));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(unparsable(text, Some("a host and a path are all it has".into())));
    }
    Ok(far)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn given(host: &str) -> Options {
        Options { host: Some(host.to_owned()), ..Options::default() }
    }

    fn by_option(host: &str) -> Result<Endpoint> {
        Endpoint::resolve(&given(host), &Environment::default(), &Host::silent())
            .map(|(endpoint, _)| endpoint)
    }

    fn by_variable(host: &str, environment: Environment) -> Result<Endpoint> {
        let environment = Environment { host: Some(host.to_owned()), ..environment };
        Endpoint::resolve(&Options::default(), &environment, &Host::silent())
            .map(|(endpoint, _)| endpoint)
    }

    fn to(authority: &str, prefix: &str) -> Address {
        Address::Tcp { authority: authority.to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn an_option_means_tls_unless_it_says_http() {
        let unix = by_option("unix:///run/d.sock").unwrap();
        assert_eq!((unix.address, unix.tls), (Address::Unix("/run/d.sock".into()), None));
        let tcp = by_option("tcp://h:4243/a/b/").unwrap();
        assert_eq!(tcp.address, to("h:4243", "/a/b"));
        assert!(tcp.tls.unwrap().verify);
        let http = by_option("http://h:80").unwrap();
        assert_eq!((http.address, http.tls), (to("h:80", ""), None));
        let lax = Options { tls_verify: Some(false), ..given("tcp://[::1]") };
        let (lax, _) = Endpoint::resolve(&lax, &Environment::default(), &Host::silent()).unwrap();
        assert_eq!(lax.address, to("[::1]:2376", ""));
        assert!(!lax.tls.unwrap().verify);
        let certificates = Options { cert_dir: Some("/x".into()), ..given("http://h:80") };
        let (http, _) =
            Endpoint::resolve(&certificates, &Environment::default(), &Host::silent()).unwrap();
        assert_eq!(http.tls, None, "http is without TLS, whatever there is for it");
        for bad in [
            "foo",
            "foo:2375",
            "ftp://h",
            "tcp://a b",
            "tcp://h:1?x",
            "tcp://h:x",
            "ssh://",
            "ssh://-x",
            "ssh://-x@h",
            "ssh://h?x",
        ] {
            assert_eq!(by_option(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        let error = by_option("tcp://me:hush@h:x").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }

    #[test]
    fn a_variable_means_tls_if_another_says_so() {
        let plain = by_variable("tcp://h", Environment::default()).unwrap();
        assert_eq!((plain.address, plain.tls), (to("h:2375", ""), None));
        for (text, address) in [
            ("h:99", "h:99"),
            (" tcp://h:99 ", "h:99"),
            (":99", "localhost:99"),
            ("localhost", "localhost:2375"),
            ("tcp://", "localhost:2375"),
            ("tcp://[::1]", "[::1]:2375"),
        ] {
            let found = by_variable(text, Environment::default()).unwrap();
            assert_eq!(found.address, to(address, ""), "{text}");
        }
        let usual = by_variable("unix://", Environment::default()).unwrap();
        assert_eq!(usual.shown, USUAL);
        let environment = Environment {
            tls_verify: true,
            config_dir: Some("/home/me/.docker".into()),
            ..Environment::default()
        };
        let found = by_variable("tcp://h", environment).unwrap();
        assert_eq!(found.address, to("h:2376", ""));
        let tls = found.tls.unwrap();
        assert_eq!((tls.verify, tls.dir), (true, Some("/home/me/.docker".into())));
        let environment = Environment { tls: true, ..Environment::default() };
        assert!(!by_variable("tcp://h", environment).unwrap().tls.unwrap().verify);
    }

    #[test]
    fn what_is_nearer_to_the_user_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let environment = |host: Option<&str>, context: Option<&str>| Environment {
            host: host.map(str::to_owned),
            context: context.map(str::to_owned),
            config_dir: Some(dir.path().to_owned()),
            ..Environment::default()
        };
        let find = |options: &Options, environment: Environment| {
            Endpoint::resolve(options, &environment, &Host::silent()).map(|(found, _)| found.shown)
        };
        let none = Options::default();
        assert_eq!(find(&none, environment(None, None)).unwrap(), USUAL);
        assert_eq!(find(&none, environment(None, Some("default"))).unwrap(), USUAL);
        fs::write(dir.path().join("config.json"), r#"{"currentContext":"gone"}"#).unwrap();
        let error = find(&none, environment(None, None)).unwrap_err();
        assert!(error.message().contains("\"gone\" does not exist"), "{error}");
        assert_eq!(find(&none, environment(Some("tcp://h:1"), None)).unwrap(), "tcp://h:1");
        let option = given("unix:///x");
        assert_eq!(find(&option, environment(Some("tcp://h:1"), None)).unwrap(), "unix:///x");
        // The default context means the usual socket, whatever the file says.
        assert_eq!(find(&none, environment(None, Some("default"))).unwrap(), USUAL);
    }

    #[test]
    fn a_daemon_behind_ssh_has_a_user_and_a_socket() {
        let far = |text: &str| match by_option(text).unwrap().address {
            Address::Ssh(far) => far,
            other => panic!("{other:?}"),
        };
        let found = far("ssh://me@h:22/run/d.sock");
        assert_eq!((found.user.as_deref(), found.port), (Some("me"), Some(22)));
        assert_eq!((found.host.as_str(), found.socket.as_deref()), ("h", Some("/run/d.sock")));
        assert_eq!(by_option("ssh://me@h:22").unwrap().shown, "ssh://h:22");
        assert_eq!(far("ssh://me%40dom@h:").user.as_deref(), Some("me@dom"));
        let six = far("ssh://[2001:db8::5:6]");
        assert_eq!((six.host.as_str(), six.port), ("[2001:db8::5:6]", None));
        let error = by_option("ssh://me:hush@h").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"));
    }

    #[test]
    fn half_a_pair_and_an_empty_directory_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls {
            verify: true,
            dir: Some(dir.path().into()),
            needs: Needs::Something,
            exclusive: false,
        };
        let words = |tls: &Tls| tls.certificates().err().unwrap().message().to_owned();
        assert!(words(&tls).contains("holds no ca.pem"));
        assert!(Tls { needs: Needs::Nothing, ..tls.clone() }.certificates().is_ok());
        assert!(
            words(&Tls { needs: Needs::Authority, ..tls.clone() }).contains("ca.pem` is missing")
        );
        fs::write(dir.path().join("key.pem"), "").unwrap();
        assert!(words(&tls).contains("cert.pem` is missing beside"));
        fs::write(dir.path().join("ca.pem"), "").unwrap();
        assert!(words(&tls).contains("ca.pem` holds no certificate"));
    }

    proptest! {
        #[test]
        fn addresses_of_any_form_are_refused_or_parsed_without_panic(
            text in "(tcp|unix|http|ssh|x)?(://)?[a-z0-9@:/.\\[\\]%\\-]{0,30}"
        ) {
            let _ = by_option(&text);
            let _ = by_variable(&text, Environment::default());
        }
    }
}
