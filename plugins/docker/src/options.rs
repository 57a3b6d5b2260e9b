//! The options of plugin.toml, parsed.
//!
//! Nothing secret can be printed: passwords and tokens are [`Secret`]s. What is not given here comes
//! from the files of [`crate::config`] and [`crate::credentials`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use diolkos_sdk::{Error, ErrorKind, Result, Session};

/// How long the beginning of an answer, or its next bytes, may take unless something else is said.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for a header and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A user name and password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Credentials {
    pub username: String,
    pub password: Secret,
}

impl Credentials {
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Secret::new(password) }
    }
}

/// Who the user says we are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Given {
    /// That was not said: files may know.
    #[default]
    Nothing,
    /// Nobody at all.
    Nobody,
    /// Somebody with a name and a password.
    Somebody(Credentials),
}

/// How the user wants a registry to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    /// Whether only HTTPS with valid certificates will do; `None` is as registries.conf says.
    pub tls_verify: Option<bool>,
    /// Where certificates are, in place of the usual directories.
    pub cert_dir: Option<PathBuf>,
    /// Who the user says we are.
    pub given: Given,
    /// Where credentials are kept, in place of the usual files.
    pub auth_file: Option<String>,
    /// A bearer token to use as it is.
    pub registry_token: Option<Secret>,
    /// What we call ourselves.
    pub user_agent: String,
    /// registries.conf, in place of the usual one.
    pub registries_conf: Option<PathBuf>,
    /// Where registry configuration files are, containers-registries.d(5).
    pub registries_d: Option<PathBuf>,
    /// Details of TLS, containers-tls-details.yaml(5).
    pub tls_details: Option<PathBuf>,
    /// How long an answer, or its next bytes, may take.
    pub idle_timeout: Duration,
}

impl Options {
    /// Reads the options of a session.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for contradictions and credentials that make no sense.
    pub fn of(session: &Session) -> Result<Self> {
        let options = &session.options;
        let name = concat!("diolkos/", env!("CARGO_PKG_VERSION"));
        let user_agent = match options.get("user-agent-prefix") {
            Some(prefix) if !prefix.is_empty() => format!("{prefix} {name}"),
            _ => name.to_owned(),
        };
        if user_agent.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(invalid("user-agent-prefix holds control characters"));
        }
        let path = |name| options.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self {
            tls_verify: options.flag("tls-verify")?,
            cert_dir: path("cert-dir"),
            auth_file: options.get("authfile").map(str::to_owned),
            registries_conf: path("registries-conf"),
            registries_d: path("registries.d"),
            tls_details: path("tls-details"),
            idle_timeout: idle_timeout(session)?,
            given: given(session)?,
            registry_token: options
                .get("registry-token")
                .filter(|token| !token.is_empty())
                .map(Secret::new),
            user_agent,
        })
    }
}

fn idle_timeout(session: &Session) -> Result<Duration> {
    let Some(text) = session.options.get("idle-timeout") else { return Ok(IDLE_TIMEOUT) };
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(invalid("idle-timeout is a number of seconds from 1 to 86400")),
    }
}

fn given(session: &Session) -> Result<Given> {
    let options = &session.options;
    let anonymous = options.flag("no-creds")?.unwrap_or(false);
    let (creds, username, password) =
        (options.get("creds"), options.get("username"), options.get("password"));
    match (creds, username, password) {
        (Some(_), _, _) if anonymous => {
            Err(invalid("creds and no-creds cannot be specified at the same time"))
        }
        (_, Some(_), _) if anonymous => {
            Err(invalid("username and no-creds cannot be specified at the same time"))
        }
        (Some(_), Some(_), _) => {
            Err(invalid("creds and username cannot be specified at the same time"))
        }
        (_, Some(_), None) => Err(invalid("password must be specified when username is specified")),
        (_, None, Some(_)) => Err(invalid("username must be specified when password is specified")),
        (Some(""), None, None) => Err(invalid("credentials can't be empty")),
        (Some(creds), None, None) => {
            let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
            if username.is_empty() {
                return Err(invalid("username can't be empty"));
            }
            Ok(Given::Somebody(Credentials::new(username, password)))
        }
        (None, Some(username), Some(password)) => {
            Ok(Given::Somebody(Credentials::new(username, password)))
        }
        (None, None, None) if anonymous => Ok(Given::Nobody),
        (None, None, None) => Ok(Given::Nothing),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::{Host, PlatformChoice};

    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Options> {
        Options::of(&Session {
            options: options.iter().copied().collect(),
            platform: PlatformChoice::default(),
            temp_dir: PathBuf::new(),
            host: Host::silent(),
        })
    }

    #[test]
    fn a_password_may_hold_colons_or_be_absent() {
        let of = |creds| match parse(&[("creds", creds)]).unwrap().given {
            Given::Somebody(credentials) => credentials,
            other => panic!("{other:?}"),
        };
        assert_eq!(of("me:a:b").password.reveal(), "a:b");
        assert_eq!(of("me").password.reveal(), "");
        assert_eq!(of("me").username, "me");
    }

    #[test]
    fn nobody_is_something_else_than_nothing_said() {
        let of = |options| parse(options).unwrap().given;
        assert_eq!(of(&[]), Given::Nothing);
        assert_eq!(of(&[("no-creds", "true")]), Given::Nobody);
        assert_eq!(of(&[("no-creds", "false")]), Given::Nothing);
    }

    #[test]
    fn contradictions_are_named() {
        for (options, words) in [
            (&[("creds", "a:b"), ("no-creds", "true")][..], "creds and no-creds"),
            (&[("username", "a"), ("no-creds", "true")], "username and no-creds"),
            (&[("username", "a"), ("creds", "a:b")], "creds and username"),
            (&[("username", "a")], "password must be"),
            (&[("password", "a")], "username must be"),
            (&[("creds", "")], "credentials can't be empty"),
            (&[("creds", ":x")], "username can't be empty"),
            (&[("tls-verify", "maybe")], "tls-verify"),
            (&[("idle-timeout", "0")], "idle-timeout"),
        ] {
            let error = parse(options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().contains(words), "{error}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let options = parse(&[("creds", "me:hush"), ("registry-token", "whisper")]).unwrap();
        let text = format!("{options:?}");
        assert!(!text.contains("hush") && !text.contains("whisper"), "{text}");
    }

    #[test]
    fn the_prefix_stands_before_our_own_name() {
        let options = parse(&[("user-agent-prefix", "ci/1")]).unwrap();
        assert!(options.user_agent.starts_with("ci/1 diolkos/"), "{}", options.user_agent);
        assert!(parse(&[("user-agent-prefix", "a\r\nb: c")]).is_err());
    }
}
