//! `delete`: removes an image from its storage.

use clap::{ArgMatches, Command};
use diolkos_sdk::{Error, ErrorKind, Result};

use super::args::{get_words, retry_args, words};
use super::context::Context;
use super::endpoint;
use super::retry::Retry;

/// The command's name.
pub const NAME: &str = "delete";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Delete an image")
        .long_about(
            "Deletes an image: what the reference names, and what nothing else needs then. \
             Prints nothing.",
        )
        .args(retry_args())
        .arg(words("IMAGE-NAME", "The image to delete"))
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let [name] = &words[..] else {
        return Err(Error::new(ErrorKind::InvalidInput, "Usage: delete imageReference"));
    };
    delete(context, matches, name)
        .map_err(|error| context.as_diolkos(error, || format!("cannot delete `{name}`")))
}

fn delete(context: &Context, matches: &ArgMatches, name: &str) -> Result<()> {
    let endpoint = endpoint::parse(context, name)
        .map_err(|error| context.as_skopeo(error, || format!("Invalid source name {name}")))?
        .with_one_side(context, NAME, matches)?;
    Retry::read(matches).run(context, || endpoint.reference.delete(&endpoint.session))
}
