//! `completion`: shell completions, with the flags of the plugins that are installed now.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;
use diolkos_sdk::{Error, ErrorKind, Result};

use super::args::command_line;
use super::context::Context;
use super::flags::one;
use super::output;

/// The command's name.
pub const NAME: &str = "completion";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Print completions for a shell")
        .long_about(
            "Prints a script that completes commands and flags in a shell, flags of the plugins \
             that are installed now included.",
        )
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(PossibleValuesParser::new([
                    "bash",
                    "elvish",
                    "fish",
                    "powershell",
                    "zsh",
                ]))
                .help("The shell"),
        )
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let shell = one::<String>(matches, "shell").unwrap_or_default();
    let shell: Shell =
        shell.parse().map_err(|why: String| Error::new(ErrorKind::InvalidInput, why))?;
    let personality = context.personality();
    let mut command = command_line(personality, &context.transports).command;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, personality.name(), &mut script);
    output::write(&script)
}
