//! `login`: keeps a user name and password for a registry, after asking whether it takes them.

use std::sync::Arc;

use clap::{ArgMatches, Command};
use diolkos_sdk::login::{Asker, Credentials, Login, Secret};
use diolkos_sdk::{Error, ErrorKind, Options, Result, Transport};

use super::args::{get_words, is_on, switch, text, words};
use super::context::Context;
use super::flags::{Given, Images, one};
use super::{output, prompt};
use crate::levels;
use crate::plugin::{Side, State};

/// The command's name.
pub const NAME: &str = "login";

/// What a transport says in its manifest when it keeps logins.
const CAPABILITY: &str = "login";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Log in to a container registry")
        .long_about(
            "Asks a registry whether it takes a user name and password, and keeps them for the \
             other commands. What is not given is asked for; without a user name, a login that is \
             kept already is tried first. REGISTRY may be a part of one, such as `quay.io/org`.",
        )
        .arg(text("username", "USERNAME", "Username for the registry").short('u'))
        .arg(
            text("password", "PASSWORD", "Password for the registry; others may see it").short('p'),
        )
        .arg(switch("password-stdin", "Take the password from standard input"))
        .arg(switch("get-login", "Print the user who is logged in, and ask nothing"))
        .arg(switch("verbose", "Also tell where the login is kept").short('v'))
        .arg(transport_arg())
        .arg(words("REGISTRY", "The registry to log in to"))
}

/// Makes the flag that chooses among several transports that keep logins.
pub fn transport_arg() -> clap::Arg {
    text("transport", "NAME", "The transport that keeps the login, where there are several")
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let registry = match &words[..] {
        [registry] => registry,
        [] => return Err(invalid("please provide a registry to log in to")),
        _ => return Err(invalid("login accepts only one registry to log in to")),
    };
    let keeper = Keeper::open(context, NAME, matches)?;
    let asker = keeper.asker(context);
    let (place, known) = asker.find(registry)?;
    let username = known.as_ref().map(|login| login.username.as_str()).unwrap_or_default();
    if is_on(matches, "get-login") {
        if username.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("not logged into {}", place.key)));
        }
        return output::line(username);
    }
    if known.as_ref().is_some_and(|login| login.has_identity_token) {
        return Err(invalid("currently logged in, auth file contains an Identity token")
            .with_hint(format!("log out first: `logout {}`", place.key)));
    }
    let given = FromUser::read(context, matches)?;
    if given.is_empty() && known.as_ref().is_some_and(is_complete) {
        output::line(&format!("Authenticating with existing credentials for {}", place.key))?;
        if asker.check(registry)? {
            return output::line(&format!(
                "Existing credentials are valid. Already logged in to {}",
                place.registry
            ));
        }
        output::line("Existing credentials are invalid, please enter valid username and password")?;
    }
    let who = ask_user(context, given, username)
        .map_err(|error| error.context("getting username and password"))?;
    let (_, kept) = asker.log_in(registry, &who)?;
    if is_on(matches, "verbose") {
        output::line(&format!("Used:  {kept}"))?;
    }
    output::line("Login Succeeded!")
}

fn is_complete(login: &Login) -> bool {
    !login.username.is_empty() && login.has_password
}

/// What the user gave on the command line; empty where nothing was.
struct FromUser {
    username: String,
    password: Secret,
}

impl FromUser {
    fn read(context: &Context, matches: &ArgMatches) -> Result<Self> {
        let text = |long| one::<String>(matches, long).unwrap_or_default();
        let given = Self { username: text("username"), password: Secret::new(text("password")) };
        if !is_on(matches, "password-stdin") {
            return Ok(given);
        }
        if !given.password.reveal().is_empty() {
            return Err(invalid("can't specify both --password-stdin and --password"));
        }
        if given.username.is_empty() {
            return Err(invalid("must provide --username with --password-stdin"));
        }
        Ok(Self { password: prompt::password_from_stdin(&context.cancellation)?, ..given })
    }

    fn is_empty(&self) -> bool {
        self.username.is_empty() && self.password.reveal().is_empty()
    }
}

/// Asks for what was not given. An empty answer means the user who is known.
fn ask_user(context: &Context, given: FromUser, known: &str) -> Result<Credentials> {
    let mut username = given.username;
    if username.is_empty() {
        let question = match known {
            "" => "Username: ".to_owned(),
            known => format!("Username ({known}): "),
        };
        output::write(question.as_bytes())?;
        username = prompt::line(&context.cancellation)
            .map_err(|error| error.context("reading username"))?;
        if username.trim().is_empty() {
            known.clone_into(&mut username);
        }
    }
    let mut password = given.password;
    if password.reveal().is_empty() {
        let ask = || output::write(b"Password: ");
        password = prompt::password(&context.cancellation, ask)
            .map_err(|error| error.context("reading password"))?;
        output::write(b"\n")?;
    }
    Ok(Credentials { username: username.trim().to_owned(), password })
}

/// The transport that keeps logins, and what the user wants of it.
pub struct Keeper {
    transport: Arc<dyn Transport>,
    options: Options,
}

impl Keeper {
    /// Finds and loads the transport, and reads its options.
    ///
    /// # Errors
    /// There is none, the one that was named keeps no logins, or it cannot be loaded.
    pub fn open(context: &Context, command: &str, matches: &ArgMatches) -> Result<Self> {
        let name = match one::<String>(matches, "transport").filter(|name| !name.is_empty()) {
            Some(name) => {
                if context.transports.find(&name).is_some_and(|it| !it.can(CAPABILITY)) {
                    let message = format!("transport `{name}` keeps no logins");
                    return Err(Error::new(ErrorKind::Unsupported, message));
                }
                name
            }
            None => first(context)?,
        };
        let transport = context.transports.load(&name)?;
        let given = Given {
            command,
            images: Images::None,
            side: Side::Source,
            matches,
            old_tls_verify: context.globals.tls_verify,
        };
        let manifest = context.transports.find(&name);
        let options = manifest.map(|manifest| given.options(manifest)).transpose()?;
        Ok(Self { transport, options: options.unwrap_or_default() })
    }

    /// Returns the way to the transport's logins.
    pub fn asker<'a>(&'a self, context: &'a Context) -> Asker<'a> {
        Asker { transport: &*self.transport, options: &self.options, host: &context.host }
    }
}

/// Returns the first transport by name that keeps logins.
fn first(context: &Context) -> Result<String> {
    let mut able = context.transports.usable().filter(|(transport, _)| transport.can(CAPABILITY));
    if let Some((transport, _)) = able.next() {
        return Ok(transport.name.clone());
    }
    let refused = context.transports.found().iter().filter_map(|found| match &found.state {
        State::Refused(error) => Some(format!("not used: {}", error.chain().join(": "))),
        _ => None,
    });
    let lines = std::iter::once("no installed transport keeps logins".to_owned()).chain(refused);
    let hint = "install the plugin for `docker:`; `plugin list` shows where plugins are looked for";
    Err(levels::error(ErrorKind::Unsupported, lines.collect(), Some(hint)))
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
