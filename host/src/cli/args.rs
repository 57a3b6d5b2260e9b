//! The command line as clap commands: skopeo's flags, ours, and those of the installed plugins.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::console::Personality;
use super::flags::{Flags, Images, one, typed};
use super::values::{parse_duration, parse_int, parse_uint};
use crate::plugin::{OptionKind, Transports};

/// The id of every command's positional arguments.
pub const WORDS: &str = "words";

const GLOBAL: &str = "Global options";
const PLUGINS: &str = "Options of transports";

/// The command line and what could not be made part of it.
pub struct CommandLine {
    /// All commands.
    pub command: Command,
    /// Flags of plugins that had to be left out, and why.
    pub problems: Vec<String>,
}

/// Makes the command line for the transports that are installed.
pub fn command_line(personality: Personality, transports: &Transports) -> CommandLine {
    command_line_for(personality, transports, |_| true)
}

/// Makes the command line with the flags of transports for those commands alone whose names are
/// `wanted`, which saves much of the time that a short command takes.
pub fn command_line_for(
    personality: Personality,
    transports: &Transports,
    wanted: impl Fn(&str) -> bool,
) -> CommandLine {
    let name = personality.name();
    let usable = || transports.usable().map(|(transport, _)| transport);
    let mut root = Command::new(name)
        .bin_name(name)
        .about("Copies, inspects and lists container images between any two kinds of storage")
        .args_override_self(true)
        .disable_version_flag(true)
        .infer_long_args(false)
        .arg(
            Arg::new("version")
                .short('v')
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Print the version"),
        )
        .arg(switch("tls-verify", "Require HTTPS and verify certificates").hide(true))
        .after_help(help_footer(transports));
    for arg in global_args() {
        root = root.arg(arg.global(true).help_heading(GLOBAL));
    }
    let commands = commands();
    let mut globals = longs(&Command::new("global").args(global_args()));
    globals.extend(["help", "version"].map(str::to_owned));
    let mut reserved = globals.clone();
    reserved.extend(commands.iter().flat_map(|(command, _)| longs(command)));
    let global = Flags::global(usable(), &reserved);
    root = global.extend(root, GLOBAL, true);
    let mut problems = global.problems.clone();
    let globals: BTreeSet<_> =
        globals.into_iter().chain(global.iter().map(|flag| flag.long.clone())).collect();
    for (mut command, images) in commands {
        if !wanted(command.get_name()) {
            root = root.subcommand(with_usage(command, name));
            continue;
        }
        let mut reserved = globals.clone();
        reserved.extend(longs(&command));
        let flags = Flags::of_command(command.get_name(), images, usable(), &reserved);
        let old = images == Images::Two && flags.iter().any(|it| it.long.ends_with("-tls-verify"));
        command = flags.extend(command, PLUGINS, false);
        if old {
            command = command.arg(switch("tls-verify", "Applies to both sides").hide(true));
        }
        problems.extend(flags.problems);
        root = root.subcommand(with_usage(command, name));
    }
    problems.sort();
    problems.dedup();
    CommandLine { command: root, problems }
}

/// Shows the positional arguments as they must be given; the parser takes any number of them, so
/// that each command can say in its own words what is wrong.
fn with_usage(command: Command, parent: &str) -> Command {
    let path = format!("{parent} {}", command.get_name());
    let nested: Vec<_> = command.get_subcommands().map(|it| it.get_name().to_owned()).collect();
    let command = nested.iter().fold(command, |command, name| {
        command.mut_subcommand(name, |nested| with_usage(nested, &path))
    });
    let words = command.get_arguments().find(|arg| arg.get_id() == WORDS);
    let value = words.and_then(|arg| arg.get_value_names()?.first().map(ToString::to_string));
    match value {
        Some(value) => command.override_usage(format!("{path} [OPTIONS] {value}")),
        None => command,
    }
}

/// Finds `--plugin-dir` before there is a command line that could parse it: the command line is
/// made from the plugins that it leads to.
pub fn plugin_dirs(args: &[OsString]) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut args = args.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--plugin-dir" {
            dirs.extend(args.next().map(PathBuf::from));
        } else if let Some(value) = strip_prefix(arg, "--plugin-dir=") {
            dirs.push(value.into());
        }
    }
    dirs
}

fn strip_prefix<'a>(arg: &'a OsStr, prefix: &str) -> Option<&'a OsStr> {
    use std::os::unix::ffi::OsStrExt;
    arg.as_bytes().strip_prefix(prefix.as_bytes()).map(OsStr::from_bytes)
}

/// Makes a flag that is on when given; `--flag=false` turns it off again.
pub fn switch(long: &str, help: &str) -> Arg {
    typed(long, OptionKind::Bool, "BOOL").help(help.to_owned()).hide_possible_values(true)
}

/// Makes a flag with a text.
pub fn text(long: &str, value: &str, help: &str) -> Arg {
    typed(long, OptionKind::String, value).help(help.to_owned())
}

/// Makes a flag with a number that is not negative.
pub fn number(long: &str, value: &str, help: &str) -> Arg {
    text(long, value, help).value_parser(parse_uint)
}

/// Makes a flag with a duration.
pub fn duration(long: &str, help: &str) -> Arg {
    text(long, "DURATION", help).value_parser(parse_duration)
}

/// Makes the argument that takes everything that is no flag; commands count for themselves, since
/// each has its own words for a wrong number.
pub fn words(value: &str, help: &str) -> Arg {
    Arg::new(WORDS).value_name(value.to_owned()).help(help.to_owned()).num_args(0..)
}

/// The flags of commands that try again.
pub fn retry_args() -> [Arg; 2] {
    [
        text("retry-times", "TIMES", "How often to try again after a passing failure")
            .value_parser(parse_int),
        duration("retry-delay", "Delay between tries; without it, growing from one second"),
    ]
}

/// Tells whether a switch is on.
pub fn is_on(matches: &ArgMatches, long: &str) -> bool {
    one::<bool>(matches, long).unwrap_or(false)
}

/// Returns the arguments that are no flags.
pub fn get_words(matches: &ArgMatches) -> Vec<String> {
    let words = matches.try_get_many::<String>(WORDS).ok().flatten();
    words.into_iter().flatten().cloned().collect()
}

/// Every command, with the images it names.
fn commands() -> Vec<(Command, Images)> {
    vec![
        (super::copy::command(), Images::Two),
        (super::inspect::command(), Images::One),
        (super::list_tags::command(), Images::One),
        (super::delete::command(), Images::One),
        (super::login::command(), Images::None),
        (super::logout::command(), Images::None),
        (super::manifest_digest::command(), Images::None),
        (super::plugin::command(), Images::None),
        (super::completion::command(), Images::None),
        (super::generate::command(), Images::None),
    ]
}

fn global_args() -> Vec<Arg> {
    vec![
        switch("debug", "Show messages for debugging"),
        text("policy", "FILE", "Trust policy to use instead of the system's policy.json"),
        switch("insecure-policy", "Accept every image, whatever the policy says"),
        switch("require-signed", "Accept only images whose signature the policy verified"),
        text("override-arch", "ARCH", "Choose images for ARCH instead of this machine's"),
        text("override-os", "OS", "Choose images for OS instead of this machine's"),
        text("override-variant", "VARIANT", "Choose images for VARIANT instead of this machine's"),
        duration("command-timeout", "Stop the command when it takes longer"),
        text("tmpdir", "DIR", "Where large temporary files are kept [default: /var/tmp]"),
        typed("plugin-dir", OptionKind::List, "DIR")
            .help("Look for plugins in DIR first; may be repeated"),
    ]
}

fn longs(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
    own.collect()
}

fn help_footer(transports: &Transports) -> String {
    let mut footer = String::from("Transports:\n");
    let usable: Vec<_> = transports.usable().map(|(transport, _)| transport).collect();
    if usable.is_empty() {
        footer +=
            "  none: no plugins are installed; `plugin list` shows where they are looked for\n";
    }
    let width = usable.iter().map(|transport| transport.syntax.chars().count()).max().unwrap_or(0);
    for transport in &usable {
        let line = format!("  {:width$}  {}", transport.syntax, transport.summary);
        footer += line.trim_end();
        footer.push('\n');
    }
    footer + "\nExit codes: 0 success, 2 the image does not exist, 1 every other failure"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Trust;

    fn command() -> Command {
        command_line(Personality::Diolkos, &Transports::discover(&[], Trust::current())).command
    }

    fn parse(line: &str) -> ArgMatches {
        command().try_get_matches_from(format!("diolkos {line}").split(' ')).unwrap()
    }

    #[test]
    fn every_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn flags_may_stand_anywhere_and_the_last_one_counts() {
        let matches = parse("--policy a copy x --all y --debug --policy b -q");
        let (name, copy) = matches.subcommand().unwrap();
        assert_eq!(name, "copy");
        assert_eq!(get_words(copy), ["x", "y"]);
        assert!(is_on(copy, "all") && is_on(copy, "debug") && is_on(copy, "quiet"));
        assert_eq!(one::<String>(copy, "policy").as_deref(), Some("b"));
        let matches = parse("copy --all --all=false x y");
        assert!(!is_on(matches.subcommand().unwrap().1, "all"));
    }

    #[test]
    fn after_two_dashes_nothing_is_a_flag() {
        let matches = parse("copy --all -- --x y");
        assert_eq!(get_words(matches.subcommand().unwrap().1), ["--x", "y"]);
    }

    #[test]
    fn plugin_directories_are_found_before_parsing() {
        let args: Vec<OsString> =
            ["d", "--plugin-dir", "/a", "copy", "--plugin-dir=/b", "--", "--plugin-dir", "/c"]
                .map(OsString::from)
                .into();
        assert_eq!(plugin_dirs(&args), [PathBuf::from("/a"), PathBuf::from("/b")]);
    }
}
