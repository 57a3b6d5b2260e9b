//! `list-tags`: the tags of a repository.

use clap::{ArgMatches, Command};
use diolkos_sdk::{Error, ErrorKind, Reference, Result};
use serde::Serialize;

use super::args::{get_words, retry_args, words};
use super::context::Context;
use super::endpoint;
use super::output;
use super::retry::Retry;
use super::values::quote;
use crate::copy::Endpoint;

/// The command's name.
pub const NAME: &str = "list-tags";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("List the tags of a repository")
        .long_about("Lists the tags of a repository as JSON with the keys Repository and Tags.")
        .args(retry_args())
        .arg(words("SOURCE-IMAGE", "The repository, without tag or digest"))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    #[serde(skip_serializing_if = "String::is_empty")]
    repository: String,
    tags: Vec<String>,
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let [name] = &words[..] else {
        context.help_on_stderr(NAME);
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "Exactly one non-option argument expected",
        ));
    };
    list(context, matches, name)
        .map_err(|error| context.as_diolkos(error, || format!("cannot list the tags of `{name}`")))
}

fn list(context: &Context, matches: &ArgMatches, name: &str) -> Result<()> {
    check_transport(context, name)?;
    let endpoint = endpoint::parse(context, name)?.with_one_side(context, NAME, matches)?;
    check_repository(&endpoint)?;
    let list = || endpoint.reference.tags(&endpoint.session);
    let tags = Retry::read(matches)
        .run(context, list)
        .map_err(|error| error.context("Error listing repository tags"))?;
    output::json(&Listing { repository: tags.repository, tags: tags.tags })
}

/// Refuses a tag or digest, which nobody who means the whole repository writes.
fn check_repository(endpoint: &Endpoint) -> Result<()> {
    let names = endpoint.reference.names();
    if names.docker_reference.is_none() || names.location.is_none() {
        return Ok(());
    }
    // The transport's own names may have a tag that nobody wrote, `latest`.
    let (_, details) = endpoint::split(&endpoint.name)?;
    let Ok(written) = details.trim_start_matches('/').parse::<Reference>() else { return Ok(()) };
    if written.tag().is_none() && written.digest().is_none() {
        return Ok(());
    }
    let message = "No tag or digest allowed in reference";
    Err(Error::new(ErrorKind::InvalidInput, message).with_hint(format!(
        "name the repository alone: `{}://{}`",
        endpoint.transport,
        written.familiar_name()
    )))
}

fn check_transport(context: &Context, name: &str) -> Result<()> {
    let transport = name.split_once(':').map(|(transport, _)| transport);
    let Some(transport) = transport.filter(|it| context.transports.provider(it).is_some()) else {
        let message = format!("Invalid {}: does not specify a transport", quote(name));
        let cause = match transport {
            Some(transport) => context.transports.load(transport).err(),
            None => None,
        };
        return Err(match cause {
            Some(cause) => cause.context(message),
            None => Error::new(ErrorKind::InvalidInput, message),
        });
    };
    match context.transports.find(transport) {
        Some(manifest) if !manifest.can("tags") => {
            let able = context.transports.usable().map(|(it, _)| it).filter(|it| it.can("tags"));
            let able: Vec<_> = able.map(|it| it.name.as_str()).collect();
            Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Unsupported transport '{transport}' for tag listing. Only supported: {}",
                    able.join(", ")
                ),
            ))
        }
        // A refused plugin is the error of loading it.
        _ => Ok(()),
    }
}
