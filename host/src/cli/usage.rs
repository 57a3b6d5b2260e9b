//! What the command-line parser refuses, in the words that scripts know.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind as Refusal};
use clap::{Arg, Command};
use diolkos_sdk::{Error, ErrorKind};

use super::console::Personality;
use super::values::quote;
use crate::plugin::{State, Transports};

/// Turns the parser's refusal into an error.
pub fn error(
    refused: &clap::Error,
    command: &Command,
    args: &[OsString],
    personality: Personality,
    transports: &Transports,
) -> Error {
    let context = |kind| match refused.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let arg = context(ContextKind::InvalidArg);
    let value = context(ContextKind::InvalidValue);
    match refused.kind() {
        Refusal::UnknownArgument => {
            let suggestion = context(ContextKind::SuggestedArg);
            unknown_flag(&arg, &suggestion, args, personality, transports)
        }
        Refusal::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand);
            let similar = similar(&name, command);
            unknown_command(&name, &similar, personality)
        }
        Refusal::InvalidValue if value.is_empty() => {
            invalid(format!("flag needs an argument: {}", flag_name(&arg)))
        }
        Refusal::ValueValidation | Refusal::InvalidValue => {
            let why = std::error::Error::source(refused).map(ToString::to_string);
            invalid(format!(
                "invalid argument {} for {} flag: {}",
                quote(&value),
                quote(&with_short(&arg, command)),
                why.unwrap_or_else(|| "it is not one of the possible values".into())
            ))
        }
        _ => {
            let text = refused.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            invalid(first.to_owned())
        }
    }
}

/// Makes the error for a command line without a command.
pub fn missing_command(personality: Personality) -> Error {
    let name = personality.name();
    match personality {
        Personality::Skopeo => invalid(format!(
            "Missing command '{name} COMMAND'\nTry '{name} --help' for more information"
        )),
        Personality::Diolkos => invalid(format!("missing command '{name} COMMAND'"))
            .with_hint(format!("run `{name} --help` for the commands that there are")),
    }
}

fn unknown_command(name: &str, similar: &[String], personality: Personality) -> Error {
    let program = personality.name();
    if personality == Personality::Diolkos {
        return invalid(format!("unknown command `{name}`")).with_hint(match similar {
            [first, ..] => format!("did you mean `{program} {first}`?"),
            [] => format!("run `{program} --help` for the commands that there are"),
        });
    }
    let mut message = format!("Unrecognized command `{program} {name}`");
    if !similar.is_empty() {
        message += "\n\nDid you mean this?";
        for name in similar {
            message += "\n\t";
            message += name;
        }
        message.push('\n');
    }
    invalid(format!("{message}\nTry '{program} --help' for more information"))
}

/// Finds the commands that may have been meant: a prefix of theirs was written, or at most two
/// letters are wrong.
///
/// # Source
/// Cobra's Command.SuggestionsFor.
fn similar(name: &str, command: &Command) -> Vec<String> {
    let name = name.to_lowercase();
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut names: Vec<_> = commands
        .map(|command| command.get_name().to_owned())
        .filter(|it| it.starts_with(&name) || distance(&name, it) <= 2)
        .collect();
    names.sort();
    names
}

/// Counts the letters to insert, remove or replace to make one word from another.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

fn unknown_flag(
    arg: &str,
    suggestion: &str,
    args: &[OsString],
    personality: Personality,
    transports: &Transports,
) -> Error {
    let name = flag_name(arg);
    let error = if name.starts_with("--") {
        invalid(format!("unknown flag: {name}"))
    } else if let Some(letter) = name.chars().nth(1).filter(|_| name.starts_with('-')) {
        // The parser splits letters that stand together; the user sees what was written.
        let written = args
            .iter()
            .filter_map(|arg| arg.to_str())
            .find(|arg| arg.starts_with('-') && !arg.starts_with("--") && arg.contains(letter));
        invalid(format!("unknown shorthand flag: '{letter}' in {}", written.unwrap_or(name)))
    } else {
        invalid(format!("unexpected argument `{name}`"))
    };
    if personality == Personality::Skopeo {
        return error;
    }
    let refused = transports.found().iter().filter_map(|found| match &found.state {
        State::Refused(error) => Some(error.chain().join(": ")),
        _ => None,
    });
    // The flag may be one of a plugin that is not used.
    let refused: Vec<_> = refused.collect();
    let error = if refused.is_empty() {
        error
    } else {
        let why = format!("its flags are missing: {}", refused.join("; "));
        error.with_source(Error::new(ErrorKind::InvalidInput, why))
    };
    let command = args.get(1).and_then(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-'));
    error.with_hint(if suggestion.is_empty() {
        let command = command.map_or(String::new(), |command| format!(" {command}"));
        format!("run `{}{command} --help` for the flags that there are", personality.name())
    } else {
        format!("did you mean `{}`?", flag_name(suggestion))
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Cuts `--flag <VALUE>` and `--flag[=<VALUE>]` to the flag.
fn flag_name(arg: &str) -> &str {
    arg.split([' ', '=', '[', '<']).next().unwrap_or(arg)
}

/// Names a flag together with its letter, `-q, --quiet`.
fn with_short(arg: &str, command: &Command) -> String {
    let name = flag_name(arg);
    let letter = |command: &Command| {
        let mut args = command.get_arguments();
        args.find(|it| it.get_long().is_some_and(|long| Some(long) == name.strip_prefix("--")))
            .and_then(Arg::get_short)
    };
    match command.get_subcommands().find_map(letter) {
        Some(letter) => format!("-{letter}, {name}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_suggested_for_prefixes_and_small_slips() {
        let command = Command::new("d")
            .subcommands(["copy", "completion", "list-tags"].map(Command::new))
            .subcommand(Command::new("coopy").hide(true));
        assert_eq!(similar("copi", &command), ["copy"]);
        assert_eq!(similar("co", &command), ["completion", "copy"]);
        assert_eq!(similar("List-tgas", &command), ["list-tags"]);
        assert!(similar("inspect", &command).is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
