//! The extension by which a transport keeps logins: who the user is at a registry or the like.
//!
//! Prompts belong to the host; what a registry is called, whether it takes a password, and where
//! that is kept belong to the transport. So a login is a few small steps, which the host takes
//! with [`Asker`] and the transport takes with an implementation of [`Logins`]:
//!
//! ```
//! use diolkos_sdk::login::{self, Asker, Credentials, LoggedOut, Login, Logins, Place, Secret};
//! use diolkos_sdk::*;
//!
//! struct Shelf;
//!
//! impl Transport for Shelf {
//!     fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
//!         Err(Error::unsupported(format!("there is no image `{details}`")))
//!     }
//!     fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
//!         (name == login::NAME).then(|| login::answer(self, input))
//!     }
//! }
//! impl Logins for Shelf {
//!     fn place(&self, written: &str) -> Result<Place> {
//!         Ok(Place { key: written.to_lowercase(), registry: written.to_lowercase() })
//!     }
//!     fn find(&self, place: &Place, _: &Session) -> Result<Option<Login>> {
//!         Ok(None)
//!     }
//!     fn check(&self, place: &Place, _: &Session) -> Result<bool> {
//!         Ok(false)
//!     }
//!     fn log_in(&self, place: &Place, who: &Credentials, _: &Session) -> Result<String> {
//!         Ok(format!("the note on {} that says {}", place.key, who.username))
//!     }
//!     fn log_out(&self, place: &Place, _: &Session) -> Result<LoggedOut> {
//!         Ok(LoggedOut::WasNotLoggedIn)
//!     }
//!     fn log_out_of_all(&self, _: &Session) -> Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! let asker = Asker { transport: &Shelf, options: &Options::default(), host: &Host::silent() };
//! let who = Credentials { username: "ada".into(), password: Secret::new("lovelace") };
//! let (place, kept) = asker.log_in("Shelf", &who)?;
//! assert_eq!((place.key.as_str(), kept.as_str()), ("shelf", "the note on shelf that says ada"));
//! # Ok::<(), Error>(())
//! ```
//!
//! A transport that has this extension says `login` among its capabilities in plugin.toml. Its
//! options come to `login` and `logout` where plugin.toml names these commands for them.
//!
//! # What crosses
//! JSON by [`Transport::extension`], made and read in this module alone. The name's number counts
//! upwards when a message changes its meaning; members that a reader does not know are ignored.
//! An extension of a transport has no session, so what the transport wants to log comes along with
//! its answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Host, HostServices, LogLevel, Options, PlatformChoice, Result, Session,
    Transport,
};

/// The extension's name.
pub const NAME: &str = "diolkos.login/1";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, to be sent or stored and nothing else.
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
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: Secret,
}

/// What the user named, as the transport understands it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// What the login is kept for, such as `quay.io/org`.
    pub key: String,
    /// What is asked whether it takes the password, such as `quay.io`.
    pub registry: String,
}

/// A login that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Login {
    /// The user's name; empty where only a token is known.
    pub username: String,
    /// Whether there is a password to go with it.
    pub has_password: bool,
    /// Whether there is a token of the registry's own, which no password can replace.
    pub has_identity_token: bool,
    /// Where it is kept, for people.
    pub origin: String,
}

/// How a logout went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoggedOut {
    /// The login is gone.
    Removed,
    /// There was none.
    WasNotLoggedIn,
    /// There is one that works, but another program keeps it, such as `docker`.
    KeptBy(String),
}

/// What a transport does to keep logins. Each step stands for itself; nothing is remembered
/// between two.
pub trait Logins {
    /// Reads what the user wrote: a registry, or a part of one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with a message that names the text.
    fn place(&self, written: &str) -> Result<Place>;

    /// Returns the login for a place, or for what the place is part of. Sends nothing.
    fn find(&self, place: &Place, session: &Session) -> Result<Option<Login>>;

    /// Tells whether the registry takes the login that is kept; any failure is a no, and is logged.
    fn check(&self, place: &Place, session: &Session) -> Result<bool>;

    /// Asks the registry whether it takes these credentials, and keeps them if it does; returns
    /// where, for people.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`]: it does not take them, and nothing was changed.
    fn log_in(&self, place: &Place, who: &Credentials, session: &Session) -> Result<String>;

    /// Forgets the login for exactly this place.
    fn log_out(&self, place: &Place, session: &Session) -> Result<LoggedOut>;

    /// Forgets all logins.
    fn log_out_of_all(&self, session: &Session) -> Result<()>;
}

/// The host's way to a transport's logins.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The transport.
    pub transport: &'a dyn Transport,
    /// Its options, as in [`Session::options`].
    pub options: &'a Options,
    /// Where messages of the transport go.
    pub host: &'a Host,
}

impl Asker<'_> {
    /// Does [`Logins::find`], and says how the transport understood what was written.
    pub fn find(&self, written: &str) -> Result<(Place, Option<Login>)> {
        self.ask(Action::Find, written, None)
    }

    /// Does [`Logins::check`].
    pub fn check(&self, written: &str) -> Result<bool> {
        self.ask(Action::Check, written, None)
    }

    /// Does [`Logins::log_in`].
    pub fn log_in(&self, written: &str, who: &Credentials) -> Result<(Place, String)> {
        self.ask(Action::LogIn, written, Some(who))
    }

    /// Does [`Logins::log_out`].
    pub fn log_out(&self, written: &str) -> Result<(Place, LoggedOut)> {
        self.ask(Action::LogOut, written, None)
    }

    /// Does [`Logins::log_out_of_all`].
    pub fn log_out_of_all(&self) -> Result<()> {
        self.ask(Action::LogOutOfAll, "", None)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        action: Action,
        written: &str,
        who: Option<&Credentials>,
    ) -> Result<T> {
        self.host.check_cancelled()?;
        let options = self.options.iter();
        let request = Request {
            action: action.word().to_owned(),
            written: written.to_owned(),
            options: options.map(|(name, values)| (name.to_owned(), values.to_vec())).collect(),
            username: who.map(|who| who.username.clone()),
            password: who.map(|who| who.password.reveal().to_owned()),
        };
        let bytes = serde_json::to_vec(&request).expect("texts in maps with text keys are JSON");
        let answer = self.transport.extension(NAME, &bytes).ok_or_else(|| {
            Error::unsupported(format!("the transport does not have the extension {NAME}"))
        })??;
        let response: Response =
            serde_json::from_slice(&answer).map_err(|error| garbled(&error))?;
        for message in &response.messages {
            self.host.log(level_of(&message.level), &message.text);
        }
        match (response.error, response.result) {
            (Some(failure), _) => Err(failure.into_error()),
            (None, result) => serde_json::from_value(result).map_err(|error| garbled(&error)),
        }
    }
}

/// Answers the extension with a transport's logins.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a message that is none, [`ErrorKind::Unsupported`] for an action
/// of a later version. What goes wrong in an action is part of the answer.
pub fn answer(logins: &(impl Logins + ?Sized), input: &[u8]) -> Result<Vec<u8>> {
    // What is wrong with it may be near a password: only its place is told.
    let request: Request = serde_json::from_slice(input).map_err(|error| {
        let message = format!("the host's {NAME} message is broken at column {}", error.column());
        Error::new(ErrorKind::InvalidInput, message)
    })?;
    let action = Action::ALL.into_iter().find(|action| action.word() == request.action);
    let Some(action) = action else {
        let message = format!("{NAME} has no action {:?} here", request.action);
        return Err(Error::unsupported(message));
    };
    let messages = Messages::default();
    let session = Session {
        options: request.options(),
        platform: PlatformChoice::default(),
        temp_dir: std::env::temp_dir(),
        host: Host::new(messages.clone()),
    };
    let result = act(logins, action, request, &session);
    let messages = std::mem::take(&mut *messages.lock());
    let response = match result {
        Ok(result) => Response { messages, result, error: None },
        Err(error) => Response {
            messages,
            result: serde_json::Value::Null,
            error: Some(Failure::from_error(&error)),
        },
    };
    Ok(serde_json::to_vec(&response).expect("texts and numbers are JSON"))
}

fn act(
    logins: &(impl Logins + ?Sized),
    action: Action,
    request: Request,
    session: &Session,
) -> Result<serde_json::Value> {
    fn json(value: impl Serialize) -> serde_json::Value {
        serde_json::to_value(value).expect("texts and numbers are JSON")
    }
    if action == Action::LogOutOfAll {
        return logins.log_out_of_all(session).map(json);
    }
    let place = logins.place(&request.written)?;
    match action {
        Action::Find => logins.find(&place, session).map(|login| json((place, login))),
        Action::Check => logins.check(&place, session).map(json),
        Action::LogIn => {
            let (Some(username), Some(password)) = (request.username, request.password) else {
                return Err(Error::new(ErrorKind::InvalidInput, "a login needs a password"));
            };
            let who = Credentials { username, password: Secret(password) };
            logins.log_in(&place, &who, session).map(|kept| json((place, kept)))
        }
        Action::LogOut => logins.log_out(&place, session).map(|how| json((place, how))),
        Action::LogOutOfAll => unreachable!("done above, since it names no place"),
    }
}

fn garbled(error: &serde_json::Error) -> Error {
    let message = format!("the transport's {NAME} answer is broken at column {}", error.column());
    Error::new(ErrorKind::Corrupt, message)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Find,
    Check,
    LogIn,
    LogOut,
    LogOutOfAll,
}

impl Action {
    const ALL: [Self; 5] = [Self::Find, Self::Check, Self::LogIn, Self::LogOut, Self::LogOutOfAll];

    fn word(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Check => "check",
            Self::LogIn => "log-in",
            Self::LogOut => "log-out",
            Self::LogOutOfAll => "log-out-of-all",
        }
    }
}

/// What goes to the transport. It has no `Debug`: it may hold a password.
#[derive(Serialize, Deserialize)]
struct Request {
    action: String,
    #[serde(default)]
    written: String,
    #[serde(default)]
    options: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl Request {
    fn options(&self) -> Options {
        let mut options = Options::default();
        for (name, values) in &self.options {
            for value in values {
                options.add(name, value);
            }
        }
        options
    }
}

/// What comes back.
#[derive(Serialize, Deserialize)]
struct Response {
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    result: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Serialize, Deserialize)]
struct Message {
    level: String,
    text: String,
}

fn word_of(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warning",
    }
}

fn level_of(word: &str) -> LogLevel {
    let levels = [LogLevel::Debug, LogLevel::Info];
    levels.into_iter().find(|level| word_of(*level) == word).unwrap_or(LogLevel::Warning)
}

/// An error as data.
#[derive(Serialize, Deserialize)]
struct Failure {
    /// [`ErrorKind::code`].
    kind: u32,
    /// Outermost first.
    messages: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Failure {
    fn from_error(error: &Error) -> Self {
        Self {
            kind: error.kind().code(),
            messages: error.chain(),
            hint: error.hint().map(str::to_owned),
        }
    }

    fn into_error(self) -> Error {
        let kind = ErrorKind::from_code(self.kind);
        let below = self.messages.into_iter().rev().fold(None, |below: Option<Error>, message| {
            let error = Error::new(kind, message);
            Some(match below {
                Some(below) => error.with_source(below),
                None => error,
            })
        });
        let error = below.unwrap_or_else(|| Error::new(kind, "the transport does not say why"));
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// Keeps what a transport logs until its answer is sent.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<Message>>>);

impl Messages {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Message>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostServices for Messages {
    fn is_cancelled(&self) -> bool {
        false
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.lock().push(Message { level: word_of(level).to_owned(), text: message.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageRef;

    /// Knows one user, and remembers nothing.
    struct Door;

    impl Transport for Door {
        fn parse(&self, _: &str) -> Result<Box<dyn ImageRef>> {
            Err(Error::unsupported("no images here"))
        }

        fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
            (name == NAME).then(|| answer(self, input))
        }
    }

    impl Logins for Door {
        fn place(&self, written: &str) -> Result<Place> {
            let registry = written.split('/').next().unwrap_or_default().to_owned();
            Ok(Place { key: written.to_owned(), registry })
        }

        fn find(&self, place: &Place, session: &Session) -> Result<Option<Login>> {
            session.host.debug("looked");
            session.host.warn("found");
            Ok(session.options.get("authfile").map(|file| Login {
                username: "ada".into(),
                has_password: true,
                has_identity_token: false,
                origin: format!("`{file}`, key `{}`", place.key),
            }))
        }

        fn check(&self, _: &Place, _: &Session) -> Result<bool> {
            Ok(true)
        }

        fn log_in(&self, place: &Place, who: &Credentials, session: &Session) -> Result<String> {
            session.host.debug(format!("asked with {who:?}"));
            if who.password.reveal() != "right" {
                return Err(Error::new(ErrorKind::Unauthorized, "no")
                    .with_hint("knock")
                    .context(format!("logging into {}", place.key)));
            }
            Ok("the book".into())
        }

        fn log_out(&self, place: &Place, _: &Session) -> Result<LoggedOut> {
            Ok(match place.registry.as_str() {
                "here" => LoggedOut::Removed,
                "docker" => LoggedOut::KeptBy("docker".into()),
                _ => LoggedOut::WasNotLoggedIn,
            })
        }

        fn log_out_of_all(&self, _: &Session) -> Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(LogLevel, String)>>>);

    impl HostServices for Log {
        fn is_cancelled(&self) -> bool {
            false
        }
        fn log(&self, level: LogLevel, message: &str) {
            self.0.lock().unwrap().push((level, message.to_owned()));
        }
    }

    fn who(password: &str) -> Credentials {
        Credentials { username: "ada".into(), password: Secret::new(password) }
    }

    #[test]
    fn every_step_reaches_the_transport_and_its_answer_comes_back() {
        let options = [("authfile", "/a")].into_iter().collect();
        let log = Log::default();
        let host = Host::new(log.clone());
        let asker = Asker { transport: &Door, options: &options, host: &host };
        let (place, login) = asker.find("here/org").unwrap();
        assert_eq!((place.key.as_str(), place.registry.as_str()), ("here/org", "here"));
        assert_eq!(login.unwrap().origin, "`/a`, key `here/org`");
        assert!(asker.check("here").unwrap());
        assert_eq!(asker.log_in("here", &who("right")).unwrap().1, "the book");
        assert_eq!(asker.log_out("here").unwrap().1, LoggedOut::Removed);
        assert_eq!(asker.log_out("there").unwrap().1, LoggedOut::WasNotLoggedIn);
        assert_eq!(asker.log_out("docker").unwrap().1, LoggedOut::KeptBy("docker".into()));
        asker.log_out_of_all().unwrap();
        let log = log.0.lock().unwrap();
        assert_eq!(log[0], (LogLevel::Debug, "looked".into()));
        assert_eq!(log[1], (LogLevel::Warning, "found".into()));
    }

    #[test]
    fn an_error_comes_back_with_its_kind_causes_and_hint_and_what_was_logged_before_it() {
        let log = Log::default();
        let host = Host::new(log.clone());
        let asker = Asker { transport: &Door, options: &Options::default(), host: &host };
        let error = asker.log_in("here", &who("hush")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert_eq!(error.chain(), ["logging into here", "no"]);
        assert_eq!(error.hint(), Some("knock"));
        let log = log.0.lock().unwrap();
        assert!(log[0].1.contains("ada") && !log[0].1.contains("hush"), "{log:?}");
    }

    #[test]
    fn what_does_not_understand_each_other_says_so() {
        struct Other;
        impl Transport for Other {
            fn parse(&self, _: &str) -> Result<Box<dyn ImageRef>> {
                Err(Error::unsupported("no images here"))
            }
        }
        let asker =
            Asker { transport: &Other, options: &Options::default(), host: &Host::silent() };
        assert_eq!(asker.find("x").unwrap_err().kind(), ErrorKind::Unsupported);
        let later = answer(&Door, br#"{"action":"dance","written":"x","new":1}"#).unwrap_err();
        assert_eq!(later.kind(), ErrorKind::Unsupported);
        let broken = answer(&Door, br#"{"action":"log-in","password":["hush"]}"#).unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::InvalidInput);
        assert!(!broken.chain().join(" ").contains("hush"), "{broken:?}");
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", who("hush")).contains("hush"));
    }
}
