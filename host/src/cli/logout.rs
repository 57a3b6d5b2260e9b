//! `logout`: forgets what `login` keeps.

use clap::{ArgMatches, Command};
use diolkos_sdk::login::LoggedOut;
use diolkos_sdk::{Error, ErrorKind, Result};

use super::args::{get_words, is_on, switch, words};
use super::context::Context;
use super::login::{Keeper, transport_arg};
use super::output;

/// The command's name.
pub const NAME: &str = "logout";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Log out of a container registry")
        .long_about(
            "Forgets the user name and password that are kept for exactly this REGISTRY, which may \
             be a part of one, such as `quay.io/org`.",
        )
        .arg(switch("all", "Forget the logins for all registries").short('a'))
        .arg(transport_arg())
        .arg(words("REGISTRY", "The registry to log out of"))
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let keeper = Keeper::open(context, NAME, matches)?;
    let asker = keeper.asker(context);
    if is_on(matches, "all") {
        if !words.is_empty() {
            return Err(invalid("--all takes no arguments"));
        }
        asker.log_out_of_all()?;
        return output::line("Removed login credentials for all registries");
    }
    let registry = match &words[..] {
        [registry] => registry,
        [] => return Err(invalid("please provide a registry to log out from")),
        _ => return Err(invalid("logout accepts only one registry to log out from")),
    };
    let (place, how) = asker.log_out(registry)?;
    match how {
        LoggedOut::Removed => output::line(&format!("Removed login credentials for {}", place.key)),
        LoggedOut::KeptBy(program) => output::line(&format!(
            "Not logged into {} with current tool. Existing credentials were established via \
             {program} login. Please use {program} logout instead.",
            place.key
        )),
        _ => Err(Error::new(ErrorKind::NotFound, format!("not logged into {}", place.key))),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
